"""Searches as jobs on three nodes of this machine, by the commands that people type; their jobs train nothing."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from phasegpt.files import read_json
from tests.cluster.machine import Machine, alive, until
from tests.noop import BEGUN, SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETS = [
    *("search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}"),
    *("search.trials=2", "search.sampler=random", "training.max_steps=4", "evaluation.eval_interval=1"),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Three nodes of a CPU each; after the last test nothing of them is left."""
    found = Machine(tmp_path_factory.mktemp("machine") / "cache")
    try:
        started = found.local("start", "--nodes", "3", patience=540)
        assert started.returncode == 0, started.stderr
        assert len(json.loads(found.local("status", "--json").stdout)["nodes"]) == 3
        processes = found.processes()
        yield found
    finally:
        assert found.local("stop").returncode == 0
    assert alive(processes) == []


@pytest.fixture
def words(toy_model_dir: Path) -> list[str]:
    """A search of two trials."""
    sets = [*SETS, f"model.base_model={toy_model_dir}"]
    return ["--track", "b", "--profile", "laptop", *(word for value in sets for word in ("--set", value))]


def trials_of(machine: Machine, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = read_json(machine.storage / f"results/v14/track_b/{name}.json")["trials"]
    return found


def test_a_search_is_followed_to_its_winner_and_recorded(machine: Machine, words: list[str]) -> None:
    from mlflow import MlflowClient

    done = machine.submit(*words, "--name", "whole", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], len(found["trials"])) == ("whole", 2)
    assert "3 nodes, looked at in" in done.stderr
    client = MlflowClient(machine.state()["tracking_uri"])
    experiment = client.get_experiment_by_name("phasegpt-v14")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (search,) = [run for run in runs if run.info.run_name == "whole"]
    assert search.info.status == "FINISHED"
    assert search.data.tags["git_commit"] != "unknown"


def test_a_job_is_listed_shown_and_read_afterwards_and_tells_no_secret(machine: Machine, words: list[str]) -> None:
    sent = machine.submit(*words, "--name", "looked-at", "--detach", "--env", "MY_SECRET=hush")
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.strip()
    assert f"logs -f {job}" in sent.stderr
    logs = machine.submit("logs", "-f", "looked-at")
    assert logs.returncode == 0
    assert "Winner:" in logs.stdout
    assert job in [known["job"] for known in machine.jobs()]
    shown = machine.submit("status", job, "--json")
    status = json.loads(shown.stdout)
    assert (status["status"], status["exit_status"], status["search"]) == ("SUCCEEDED", 0, "looked-at")
    token = (machine.cache / "cluster" / "token").read_text()
    for said in (sent.stdout, sent.stderr, logs.stdout, shown.stdout):
        assert token not in said
        assert "hush" not in said


def test_bad_input_that_only_the_driver_sees_ends_with_2(machine: Machine, words: list[str]) -> None:
    done = machine.submit(*words, "--set", "model.base_model=someone/no-such-model")
    assert done.returncode == 2
    assert "the model hub" in done.stderr


def test_a_search_without_a_usable_trial_ends_with_3(machine: Machine, words: list[str]) -> None:
    done = machine.submit(*words, module="tests.cluster.failing")
    assert done.returncode == 3, done.stderr


def test_ctrl_c_leaves_the_job_alone_stop_ends_it_cleanly_and_resume_finishes_it(
    machine: Machine, words: list[str]
) -> None:
    (machine.storage / BEGUN).unlink(missing_ok=True)
    (machine.storage / SECONDS).write_text("20")
    follower = machine.begin(*words, "--name", "cut")
    until(lambda: "trial-000 from 0" in begun(machine))
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "The job goes on without you" in said
    assert [job["status"] for job in machine.jobs() if job["search"] == "cut"] == ["RUNNING"]

    stopped = machine.submit("stop", "cut")
    assert stopped.returncode == 0, stopped.stderr
    assert "python -m cluster.submit --track b --resume cut" in stopped.stdout
    logs = machine.submit("logs", "cut")
    assert "Stopped. Finished trials are kept" in logs.stdout
    assert machine.submit("logs", "-f", "cut").returncode == 130

    (machine.storage / SECONDS).write_text("0")
    resumed = machine.submit("--track", "b", "--resume", "cut")
    assert resumed.returncode == 0, resumed.stderr
    assert [trial["state"] for trial in trials_of(machine, "cut")] == ["COMPLETE", "COMPLETE"]
    lines = begun(machine).splitlines()
    assert [line for line in lines if line.startswith("trial-000")][-1] != "trial-000 from 0"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cpus-per-worker", "2"], "a trial needs 0 GPU and 2 CPU; the cluster has a node with 0 GPU and 1 CPU"),
        (
            ["--tracking-uri", "http://127.0.0.1:9"],
            "--tracking-uri http://127.0.0.1:9 does not answer from the cluster",
        ),
        (["--storage", "/proc/phasegpt"], "--storage /proc/phasegpt: the head cannot write there"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused_before_it_is_sent(
    machine: Machine, words: list[str], more: list[str], message: str
) -> None:
    before = len(machine.jobs())
    done = machine.submit(*words, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(machine.jobs()) == before


def test_another_version_of_ray_is_refused_before_anything_is_sent(
    machine: Machine, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.dashboard import Dashboard
    from cluster.submit import main

    monkeypatch.setenv("PHASEGPT_CACHE", str(machine.cache))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(Dashboard, "ray_version", lambda dashboard: "2.58.1")
    assert main(words) == 2
    assert "the cluster runs Ray 2.58.1, this machine" in capsys.readouterr().err


def test_a_wrong_token_is_refused_with_the_cure(machine: Machine, words: list[str], tmp_path: Path) -> None:
    stranger = Machine(tmp_path / "cache")
    there = ["--address", machine.state()["address"], "--storage", str(tmp_path), "--tracking-uri", "http://m"]
    done = stranger.submit(*words, *there)
    assert done.returncode == 2
    assert "asks for a token; put the cluster's own into a file" in done.stderr


def begun(machine: Machine) -> str:
    file = machine.storage / BEGUN
    return file.read_text() if file.is_file() else ""
