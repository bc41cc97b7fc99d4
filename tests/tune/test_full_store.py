"""A store that holds many searches costs the start of one more no more questions: counted, since times tell of load."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from phasegpt.config_io import Tree
from phasegpt.files import write_json
from phasegpt.mlflow_client import open_client
from tests.many_searches import multiply
from tests.mlflow_store import migrated
from tune.past import last_search
from tune.request import Request
from tune.search_record import begin_search
from tune.spool import SPOOL
from tune.sync import left_behind
from tune.tracking import Tracker
from tune.views import AT_ONCE, MOST, VIEW_TAG, surplus, trials_view

pytestmark = pytest.mark.timeout(900)  # a database of MLflow is made first

ToyRequest = Callable[..., Request]
COPIES = 60
PATIENCE = 250


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How many statements SQLAlchemy sends in the block."""
    found: Counter[str] = Counter()

    def note(*given: Any) -> None:
        found["statements"] += 1

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An empty database of MLflow for a test alone."""
    migrated(tmp_path)
    return tmp_path / "mlflow.db"


def begun(request: Request, uri: str, experiment: str, jobs: int = 2) -> None:
    """What a search and its first jobs tell MLflow."""
    request.save()
    write_json(request.places.data_checks, {})
    tracker = Tracker(uri, experiment, request.places.folder / SPOOL)
    begin_search(request, tracker, {}, None)
    for number in range(jobs):
        key = f"{request.name}/trial-{number:03d}"
        tracker.run(key, key, parent=request.name, params={"a": "1"})
        tracker.metrics(key, {"eval_loss": 0.5}, 1)
        tracker.finish(key)
    tracker.finish(request.name)
    assert tracker.close(PATIENCE) == 0


def views_of(uri: str, experiment: str) -> list[str]:
    tags = open_client(uri).get_experiment_by_name(experiment).tags
    return [key.removeprefix(VIEW_TAG) for key in tags if key.startswith(VIEW_TAG)]


def test_a_search_asks_a_full_store_as_much_as_an_empty_one(toy_request: ToyRequest, database: Path) -> None:
    uri = f"sqlite:///{database}"
    first = toy_request(name="first")
    begun(first, uri, "full")
    write_json(first.places.summary, {})
    first.places.results.mkdir(parents=True)
    beside = shutil.copy(database, database.with_name("beside.db"))
    with counted() as empty:
        begun(toy_request(name="second"), f"sqlite:///{beside}", "full")
    multiply(first.places, database, COPIES)
    with counted() as full:
        begun(toy_request(name="third"), uri, "full")
    for_views = 1 + AT_ONCE * 6  # one question, and each view that goes
    assert full["statements"] <= empty["statements"] + for_views
    client = open_client(uri)
    found = client.search_runs([client.get_experiment_by_name("full").experiment_id], max_results=1000)
    assert len(found) == 3 * (COPIES + 2)
    assert len({run.data.tags["phasegpt.run_key"] for run in found}) == len(found)


def test_views_of_old_searches_go_and_those_of_people_stay(database: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{database}"
    tracker = Tracker(uri, "views", tmp_path / "here" / SPOOL)
    names = [f"s{number}" for number in range(MOST + 3)]
    for at, name in enumerate(names):
        key, value = trials_view(name, ["training.beta"], {"eval_loss": "min"})
        tracker.experiment_tag(key, json.dumps({**json.loads(value), "createdAt": at}))
    tracker.experiment_tag(f"{VIEW_TAG}0123", json.dumps({"name": "mine", "createdAt": 0}))
    tracker.experiment_tag(f"{VIEW_TAG}4567", "no json")
    assert tracker.close(PATIENCE) == 0
    assert set(views_of(uri, "views")) == {*names[3:], "0123", "4567"}


def test_few_views_go_at_once() -> None:
    tags = {f"{VIEW_TAG}s{n}": json.dumps({"name": f"s{n}: trials", "createdAt": n}) for n in range(MOST + 500)}
    assert surplus(tags) == [f"{VIEW_TAG}s{n}" for n in range(AT_ONCE)]
    assert surplus({key: tags[key] for key in list(tags)[:MOST]}) == []


def test_spools_that_were_sent_are_not_read(
    toy_request: ToyRequest, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = toy_request(name="sent")
    begun(sent, f"sqlite:///{database}", "spools")
    read: list[Path] = []
    before = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or before(path))
    assert left_behind(sent.places.storage, tmp_path) is None
    assert read == []
    with (sent.places.folder / SPOOL).open("ab") as spool:
        spool.write(b"{}\n")
    assert "an earlier search or run wait" in str(left_behind(sent.places.storage, tmp_path))
    assert read == [sent.places.folder / SPOOL]


def test_a_plan_opens_no_search_but_those_that_it_may_reckon_by(
    toy_request: ToyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        other = toy_request("model.base_model=some/other", name=f"other-{number}")
        other.save()
        write_json(other.places.summary, {})
    typed: list[str] = []
    before = Tree.typed
    monkeypatch.setattr(Tree, "typed", lambda tree: typed.append(tree.source) or before(tree))
    request = toy_request(name="asks")
    typed.clear()
    assert last_search(request) is None
    assert typed == []
