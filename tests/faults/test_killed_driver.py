"""A driver that is killed with SIGKILL at random moments: what was finished stays, what ran goes on, nothing twice.

The jobs train nothing, so the record of an undisturbed search is known without running one.
"""

import random
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.invariants import broken
from tests.faults.place import PATIENCE, Place, new_search
from tests.mlflow_store import migrated
from tests.noop import SECONDS
from tests.postgres import Postgres
from tune.request import resumed_request
from tune.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


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


def check(place: Place, trials: int) -> None:
    """Study, results and MLflow agree, and hold every trial once, as an undisturbed search."""
    assert broken(place.folder, "killed", trials) == []
    request = resumed_request("b", "killed", str(place.folder))
    study = Study(*request.study, request.config.search, request.own_values(), 42)
    assert [(t.number, t.state.name) for t in study.trials()] == [(n, "COMPLETE") for n in range(trials)]


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
