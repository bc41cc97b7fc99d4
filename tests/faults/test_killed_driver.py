"""A driver that is killed with SIGKILL at random moments: what was finished stays, what ran goes on, nothing twice.

The jobs train nothing, so the record of an undisturbed search is known without running one.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import read_json
from tests.mlflow_store import migrated
from tests.noop import BEGUN, SECONDS, loss
from tests.postgres import Postgres
from tests.processes import MARK, marked
from tune.request import resumed_request
from tune.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PATIENCE = 300
SETS = [
    "search.objectives={eval_loss: min}",
    "search.constraints={perplexity: '<= 2 * baseline'}",
    "search.finalists={count: 2, seeds: 1}",
    "search.parameters={training.beta: {loguniform: [0.01, 1.0], grid: [0.02, 0.05, 0.3, 0.5, 0.9]}}",
    "training.max_steps=3",
    "evaluation.eval_interval=1",
]


@dataclass(frozen=True)
class Place:
    """A folder for one search, and the processes that carry its mark; `module` has the command and its jobs."""

    folder: Path
    mark: str
    module: str = "tests.noop"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", self.module, "--track", "b", "--storage", str(self.folder)]
        return subprocess.Popen(
            [*command, "--tracking-uri", self.uri, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    def begun(self) -> list[str]:
        log = self.folder / BEGUN
        return log.read_text().splitlines() if log.is_file() else []

    def left(self) -> list[str]:
        """The command lines of processes that carry the mark."""
        return marked(self.mark)

    def kill_after(self, process: subprocess.Popen[str], jobs: int, delay: float) -> None:
        """SIGKILL the driver a while after so many jobs have begun in all; then wait until its Ray has gone too."""
        patience = time.monotonic() + PATIENCE
        while len(self.begun()) < jobs and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        while self.left() and time.monotonic() < patience:
            time.sleep(0.1)
        assert self.left() == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / SECONDS).write_text("0.3")
    migrated(tmp_path)
    made = Place(tmp_path, uuid.uuid4().hex)
    yield made
    patience = time.monotonic() + 30
    while made.left() and time.monotonic() < patience:
        time.sleep(0.2)
    assert made.left() == []


def new_search(trials: int, *words: str) -> list[str]:
    """The options of a search of so many trials."""
    sets = [word for value in SETS for word in ("--set", value)]
    return ["--name", "killed", "--profile", "laptop", "--trials", str(trials), *sets, *words]


def killed_and_resumed(place: Place, trials: int, kills: int, seed: int, *words: str) -> None:
    """Run a search to its end through so many kills."""
    first = new_search(trials, *words)
    moments = random.Random(seed)  # noqa: S311 - moments to kill at, not secrets
    after = sorted(moments.sample(range(2, 2 + trials), kills))
    for number, jobs in enumerate(after):
        process = place.start(*(first if number == 0 else ["--resume", "killed"]))
        place.kill_after(process, jobs + number, moments.uniform(0.0, 0.4))
    process = place.start("--resume", "killed")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


def undisturbed(place: Place, folder: Path) -> list[tuple[Any, ...]]:
    """(state, values, value) of each trial of the same search told by hand, one trial after another."""
    request = resumed_request("b", "killed", str(place.folder))
    config = request.config
    study = Study("other", folder / "other.journal", config.search, request.own_values(), config.experiment.seed)
    while (asked := study.ask()) is not None:
        for step in (1, 2):
            study.report(asked.number, step, {"eval_loss": loss(asked.values, step, 3), "perplexity": 40.0 + step})
        study.complete(asked.number, {"eval_loss": loss(asked.values, 3, 3), "perplexity": 43.0}, {"perplexity": -39.0})
    return record(study)


def record(study: Study) -> list[tuple[Any, ...]]:
    return [(t.number, t.state.name, t.params, t.value) for t in study.trials()]


def check(place: Place, trials: int) -> None:
    """Study, results and MLflow agree, and hold every trial once."""
    from mlflow import MlflowClient

    request = resumed_request("b", "killed", str(place.folder))
    study = Study(*request.study, request.config.search, request.own_values(), 42)
    assert [(t.number, t.state.name) for t in study.trials()] == [(n, "COMPLETE") for n in range(trials)]
    assert record(study) == undisturbed(place, place.folder)
    results = {path.stem: read_json(path) for path in request.places.results.glob("*.json")}
    client = MlflowClient(place.uri, place.uri)
    experiment = client.get_experiment_by_name("phasegpt-v14")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = {run.data.tags["phasegpt.run_key"].removeprefix("killed/"): run for run in found}
    assert len(runs) == len(found)
    assert runs.keys() == results.keys() | {"killed"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in study.trials():
        run, result = runs[f"trial-{trial.number:03d}"], results[f"trial-{trial.number:03d}"]
        assert trial.value == result["metrics"]["eval_loss"] == run.data.metrics["eval_loss"]
        assert run.data.tags["trial_state"] == "complete"
        for metric, steps in (("eval_loss", [0]), ("eval/eval_loss", [1, 2])):
            history = client.get_metric_history(run.info.run_id, metric)
            assert [point.step for point in history] == steps


def test_a_search_whose_driver_is_killed_ends_as_an_undisturbed_one(place: Place) -> None:
    killed_and_resumed(place, 5, 1, 1, "--sampler", "random", "--max-concurrent", "2")
    check(place, 5)


@pytest.mark.faults
def test_a_search_goes_on_elsewhere_from_its_study_in_postgresql(
    place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed here; its results, checkpoints and spool are copied to another folder, and the study is in a database."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    url = postgres.database("killed")
    process = place.start(*new_search(5, "--sampler", "random", "--max-concurrent", "2", "--study-url", url))
    place.kill_after(process, 4, 0.2)
    elsewhere = Place(tmp_path_factory.mktemp("elsewhere") / "copy", place.mark)
    shutil.copytree(place.folder, elsewhere.folder)
    _, err = elsewhere.start("--resume", "killed", "--study-url", url).communicate(timeout=PATIENCE)
    check(elsewhere, 5)
    assert not list(elsewhere.folder.rglob("study.journal"))
    written = [path.read_bytes() for path in elsewhere.folder.rglob("*") if path.is_file()]
    assert not [text for text in (*written, err.encode()) if postgres.password.encode() in text]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (2, ["--sampler", "random", "--max-concurrent", "2"]),
        (3, ["--sampler", "tpe", "--max-concurrent", "1"]),
    ],
)
def test_thirty_trials_and_five_kills(place: Place, seed: int, words: list[str]) -> None:
    killed_and_resumed(place, 30, 5, seed, *words)
    check(place, 30)


@pytest.mark.faults
def test_a_grid_is_covered_once_through_three_kills(place: Place) -> None:
    killed_and_resumed(place, 5, 3, 4, "--sampler", "grid", "--max-concurrent", "2")
    check(place, 6)
