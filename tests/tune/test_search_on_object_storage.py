"""Whole searches whose storage is a real S3 server: cut on one machine, gone on with on another.

A machine is a $PHASEGPT_CACHE of its own: nothing else of it is kept.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import read_json
from phasegpt.mirror import mirror_folder
from tests.mlflow_store import contents
from tests.noop import BEGUN, SECONDS
from tests.object_server import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SETS = [
    "search.objectives={eval_loss: min}",
    "search.constraints={perplexity: '<= 2 * baseline'}",
    "search.finalists={count: 2, seeds: 1}",
    "search.parameters={training.beta: {loguniform: [0.01, 1.0]}}",
    "training.max_steps=3",
    "evaluation.eval_interval=1",
]
NEW = ["--name", "s", "--profile", "laptop", "--trials", "5", "--sampler", "random", "--max-concurrent", "2"]
NEW += [word for value in SETS for word in ("--set", value)]


@dataclass(frozen=True)
class Machine:
    """A machine with a cache of its own that reaches the bucket, and the MLflow that all of them share."""

    cache: Path
    bucket: Bucket
    uri: str

    @property
    def environment(self) -> dict[str, str]:
        own = {"PHASEGPT_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}
        return {**os.environ, **self.bucket.environment, **own}

    def storage(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder that mirrors the bucket."""
        monkeypatch.setenv("PHASEGPT_CACHE", str(self.cache))
        return mirror_folder(self.bucket.address)

    def start(self, *words: str, module: str = "tests.noop") -> "subprocess.Popen[str]":
        words = ("--track", "b", "--storage", self.bucket.address, "--tracking-uri", self.uri, "--json", *words)
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=self.environment,
            start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str) -> dict[str, Any]:
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def machines(bucket: Bucket, tmp_path: Path) -> tuple[Machine, Machine]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return Machine(tmp_path / "one", bucket, uri), Machine(tmp_path / "two", bucket, uri)


def comparable(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on when and where."""
    trials = [{key: value for key, value in trial.items() if key != "seconds"} for trial in summary["trials"]]
    kept = ("objectives", "winner", "defaults", "baseline", "finalists", "verdict")
    return {**{key: summary[key] for key in kept}, "trials": trials}


def until_begun(storage: Path, jobs: int, process: "subprocess.Popen[str]") -> None:
    patience = time.monotonic() + 200
    while len((storage / BEGUN).read_text().splitlines() if (storage / BEGUN).is_file() else []) < jobs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_a_search_that_is_killed_goes_on_on_a_fresh_machine_and_ends_as_an_undisturbed_one(
    machines: tuple[Machine, Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    for machine in machines:
        (machine.storage(monkeypatch) / SECONDS).write_text("0.5")
    process = first.start(*NEW)
    until_begun(first.storage(monkeypatch), 5, process)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    found = second.run("--resume", "s")
    undisturbed = Machine(tmp_path / "three", Bucket(f"{first.bucket.address}-whole", first.bucket.environment),
                          f"sqlite:///{tmp_path}/whole.db")  # fmt: skip
    assert comparable(found) == comparable(undisturbed.run(*NEW))
    of_both = [contents(machine.uri, "phasegpt-v14") for machine in (second, undisturbed)]
    assert of_both[0].keys() == of_both[1].keys()
    for key, run in of_both[0].items():
        assert run["status"] == "FINISHED"
        assert run["metrics"] == of_both[1][key]["metrics"]


def test_what_a_search_came_to_is_told_on_another_machine(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    found = first.run(*NEW)
    command = [sys.executable, "-m", "tune.search", "status", "s", "--storage", second.bucket.address, "--json"]
    told = json.loads(subprocess.check_output(command, cwd=ROOT, env=second.environment, timeout=200))
    assert [trial["state"] for trial in told["trials"]] == ["complete"] * 5
    summary = second.storage(monkeypatch) / "results" / "v14" / "track_b" / "s.json"
    assert comparable(read_json(summary)) == comparable(found)
    assert (summary.parent / "s-insight" / "importance.png").is_file()
    again = replace(first, cache=first.cache.with_name("three")).start(*NEW)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 2
    assert "has a search of this name; go on with --resume s or take another" in err


def test_a_bucket_that_is_not_there_ends_a_search_before_it_begins(machines: tuple[Machine, Machine]) -> None:
    machine = Machine(machines[0].cache, Bucket("s3://no-such-bucket/a", machines[0].bucket.environment), "")
    process = machine.start(*NEW, module="tune.search")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "NO_SUCH_BUCKET" in err
    assert "check the bucket" in err
