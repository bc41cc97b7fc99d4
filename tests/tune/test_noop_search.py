"""Whole searches on Ray whose jobs train nothing: stops, cohorts and several objectives, to the record."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from phasegpt.files import read_json
from tests.faults.place import new_search
from tests.mlflow_store import migrated
from tests.noop import BEGUN, SECONDS
from tests.noop_dying import ATTEMPTS
from tests.noop_greedy import GIGABYTES
from tests.ray_cluster import Cluster
from tune.search import main as search

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
LENGTH = ["training.max_steps=9", "evaluation.eval_interval=3"]


def started(
    cluster: Cluster, folder: Path, *sets: str, track: str = "b", module: str = "tests.noop"
) -> subprocess.Popen[str]:
    """A search named s in `folder` on the tests' cluster."""
    words = ["--track", track, "--profile", "laptop", "--name", "s", "--storage", str(folder), "--json"]
    words += ["--address", cluster.address, "--tracking-uri", migrated(folder)]
    words += [word for value in (*(LENGTH if track == "b" else ()), *sets) for word in ("--set", value)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def searched(cluster: Cluster, folder: Path, *sets: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `--json` printed of a search, and its MLflow runs by key."""
    process = started(cluster, folder, *sets)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out), runs_of(folder)


def runs_of(folder: Path) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("phasegpt-v14").experiment_id], max_results=1000)
    return {run.data.tags["phasegpt.run_key"].removeprefix("s/"): run for run in found}


def test_forty_trials_of_two_objectives_with_early_stops_end_without_an_error(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    both = "search.objectives={eval_loss: min, perplexity: min}"
    found, runs = searched(
        ray_cluster, tmp_path, both, "search.constraints={}", "search.trials=40", "search.scheduler=asha",
        "search.pick=knee", "search.finalists={count: 1, seeds: 1}",
    )  # fmt: skip
    states = [trial["state"] for trial in found["trials"]]
    assert len(states) == 40
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert states.count("PRUNED") >= 10
    stopped = [trial for trial in found["trials"] if trial["state"] == "PRUNED"]
    assert {max(map(int, trial["curve"])) for trial in stopped} == {3}
    assert found["front"]["pick"] == "knee"
    kept = {trial["id"]: trial["metrics"] for trial in found["trials"] if trial["state"] == "COMPLETE"}
    best = min(kept, key=lambda name: kept[name]["eval_loss"])
    assert best in found["front"]["trials"]
    assert found["champion"]["reason"] == "the winner left no adapter to register"
    artifacts = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(runs["s"].info.run_id, "report")
    assert {"report/report.html", "report/front.png"} <= {file.path for file in artifacts}
    for trial in found["trials"]:
        state = {"COMPLETE": "complete", "PRUNED": "pruned"}[trial["state"]]
        assert runs[trial["id"]].data.tags["trial_state"] == state


def test_cohorts_go_on_from_where_they_paused_and_are_recorded_as_one_run_a_trial(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    found, runs = searched(
        ray_cluster, tmp_path, "search.objectives={eval_loss: min}", "search.constraints={}", "search.sampler=random",
        "search.trials=6", "search.scheduler=halving", "search.finalists={count: 1, seeds: 1}",
        "search.max_concurrent=2",
    )  # fmt: skip
    trials = found["trials"]
    for cohort in (trials[:3], trials[3:]):
        states = [trial["state"] for trial in cohort]
        assert sorted(states) == ["COMPLETE", "PRUNED", "PRUNED"]
        losses = [trial["curve"]["3"]["eval_loss"] for trial in cohort]
        assert states.index("COMPLETE") == losses.index(min(losses))
    for trial in trials:
        run = runs[trial["id"]]
        assert run.info.status == ("FINISHED" if trial["state"] == "COMPLETE" else "KILLED")
        if trial["state"] == "PRUNED":
            assert trial["why"].endswith("of 3 in its cohort at step 3")
            assert run.data.tags["why"] == trial["why"]
            assert run.data.metrics["eval/eval_loss"] == trial["curve"]["3"]["eval_loss"]
    assert runs.keys() == {"s", "baseline-search", "baseline-final"} | {t["id"] for t in trials} | {
        f"final-{n:03d}-seed-1042" for n in {0, int(found["winner"]["trial"][-3:])}
    }


def test_a_search_is_steered_while_it_runs(ray_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / SECONDS).write_text("2.5")
    sets = ["search.objectives={eval_loss: min}", "search.constraints={}", "search.trials=2", "search.sampler=random"]
    process = started(ray_cluster, tmp_path, *sets, "search.finalists={count: 1, seeds: 1}")
    until(lambda: "trial-000 from 0" in begun(tmp_path))
    for words in (
        ["stop", "s", "0"],
        ["extend", "s", "--trials", "1"],
        ["clone", "s", "0", "--set", "training.beta=0.2"],
    ):
        assert search([*words, "--storage", str(tmp_path)]) == 0
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    trials = json.loads(out)["trials"]
    assert [trial["state"] for trial in trials] == ["PRUNED", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[0]["why"] == "stopped by command"
    clone = next(trial for trial in trials if trial["origin"] == "clone of trial 0")
    assert clone["params"]["training.beta"] == 0.2
    assert "trial-000" in [finalist["trial"] for finalist in json.loads(out)["finalists"]]
    assert runs_of(tmp_path)[clone["id"]].data.tags["origin"] == "clone of trial 0"


def test_all_tracks_run_in_turn_under_one_parent_and_are_compared(ray_cluster: Cluster, tmp_path: Path) -> None:
    sets = ["search.objectives={eval_loss: min}", "search.constraints={}", "search.trials=1"]
    process = started(ray_cluster, tmp_path, *sets, "search.finalists={count: 1, seeds: 2}", track="all")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert list(found["tracks"]) == ["a", "b", "c"]
    rows = found["comparison"]
    assert [(row["track"], row["winner"]) for row in rows] == [(track, "trial-000") for track in "abc"]
    assert sum(row["p_best"] for row in rows) == pytest.approx(1)
    assert rows[0]["gain"] is None
    assert (rows[1]["gain"]["mean"], rows[1]["gain"]["low"]) == (0, 0)
    assert read_json(tmp_path / "results/v14/s.json") == found
    assert "s-a against s-b against s-c" in (tmp_path / "results/v14/s-report/report.html").read_text(encoding="utf-8")
    runs = runs_of(tmp_path)
    parent = runs.pop("s")
    assert parent.info.status == "FINISHED"
    searches = [run for run in runs.values() if run.data.tags["kind"] == "search"]
    assert {run.data.tags["mlflow.parentRunId"] for run in searches} == {parent.info.run_id}
    assert sorted(run.info.run_name for run in searches) == ["s-a", "s-b", "s-c"]


def begun(folder: Path) -> str:
    return (folder / BEGUN).read_text() if (folder / BEGUN).is_file() else ""


def until(true: Callable[[], bool]) -> None:
    patience = time.monotonic() + 100
    while not true() and time.monotonic() < patience:
        time.sleep(0.02)
    assert true()


@pytest.mark.faults
def test_a_trial_may_lose_its_worker_as_often_as_it_gets_further_and_once_more(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    sets = ["search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}"]
    sets += ["search.trials=3", "search.sampler=random", "training.max_steps=5", "evaluation.eval_interval=1"]
    process = started(ray_cluster, tmp_path, *sets, module="tests.noop_dying")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    trials = {trial["id"]: trial["state"] for trial in json.loads(out)["trials"]}
    assert trials == {"trial-000": "COMPLETE", "trial-001": "COMPLETE", "trial-002": "FAIL"}
    attempts = (tmp_path / ATTEMPTS).read_text().splitlines()
    assert (attempts.count("trial-001"), attempts.count("trial-002")) == (5, 2)


@pytest.mark.faults
def test_a_worker_that_ray_kills_for_want_of_memory_is_a_loss_like_any_other(tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    most = (memory.total - memory.available + (GIGABYTES - 1) * 2**30) / memory.total
    watch = {"RAY_memory_usage_threshold": f"{most:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    words = new_search(2, "--track", "b", "--sampler", "random", "--max-concurrent", "1", "--storage", str(tmp_path))
    command = [sys.executable, "-m", "tests.noop_greedy", *words, "--tracking-uri", migrated(tmp_path), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **watch}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [trial["state"] for trial in json.loads(done.stdout)["trials"]] == ["COMPLETE"] * 2
    assert len((tmp_path / ATTEMPTS).read_text().splitlines()) == 2
