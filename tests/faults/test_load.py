"""Five hundred trials in eight slots, fifty people on the MLflow that records them: nothing grows or is lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TRIALS, OTHERS = 500, 4
"""Runs beside the trials: the search, two baselines, and a final of the config's own values, which no trial beats."""

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    words = ["--trials", str(TRIALS), "--slots", "8", "--clients", "50", "--json"]
    done = subprocess.run(
        [sys.executable, "tests/benchmarks/load.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # shown by pytest -rA
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("processes", 2),
        ("workers", 2),
        ("groups", 1),  # one that was asked for at the moment of a look
        ("driver_files", 4),
        ("files", 200),  # Ray's log monitor keeps the logs of workers that ended, up to 200
        ("driver_mib", 0.2 * TRIALS),  # what Optuna and Ray remember of the trials
        ("largest_worker_mib", 32),
    ],
)
def test_between_the_second_tenth_and_the_last_nothing_grows(found: dict[str, Any], what: str, more: float) -> None:
    row = found["growth"][what]
    assert row["late"] <= row["early"] + more, row


def test_every_job_is_recorded_once(found: dict[str, Any]) -> None:
    record = found["record"]
    assert record["wait"] == 0
    assert record["runs"] == record["keys"] == record["finished"] == TRIALS + OTHERS


def test_whoever_asks_mlflow_is_answered(found: dict[str, Any]) -> None:
    statuses = found["clients"]["statuses"]
    assert set(statuses) == {"200"}, statuses
