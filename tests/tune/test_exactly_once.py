"""Outbox and delivery on a real SQLite MLflow whose calls fail, before or after their effect, or end the sender.

Whatever fails, MLflow comes to hold the same as without a failure.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from phasegpt.mlflow_client import open_client
from tests.mlflow_store import contents, migrated
from tune import outbox
from tune.datasets import Dataset
from tune.delivery import RUN_KEY, Delivery
from tune.outbox import Outbox
from tune.spool import SPOOL

How = Literal["fails before", "fails after", "dies before", "dies after"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"  # senders that die, as they are told to
)
HOWS: tuple[How, ...] = ("fails before", "fails after", "dies before", "dies after")
CALLS = 32
"""How many calls the small search makes where nothing fails, at least."""


class Luck:
    """Counts the calls on MLflow and lets those of a plan fail; `dies` ends the thread that called."""

    def __init__(self, plan: Mapping[int, How]) -> None:
        self.plan, self.calls = plan, 0

    def on(self, part: Any) -> "Unlucky":
        return Unlucky(part, self)

    def call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        how, self.calls = self.plan.get(self.calls), self.calls + 1
        error = SystemExit if how and how.startswith("dies") else MlflowException
        if how in ("fails before", "dies before"):
            raise error("500")
        found = method(*given, **named)
        if how:
            raise error("500")
        return found


class Unlucky:
    """A client, or a place for files, whose methods depend on luck."""

    def __init__(self, part: Any, luck: Luck) -> None:
        self._part, self._luck = part, luck

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._part, name)
        return lambda *given, **named: self._luck.call(method, *given, **named)


class UnluckyDelivery(Delivery):
    """A delivery on such a client."""

    def __init__(self, uri: str, experiment: str, luck: Luck) -> None:
        super().__init__(uri, experiment)
        self.luck = luck

    def _connect(self) -> tuple[Any, str]:
        if self._opened is None:
            client, experiment = super()._connect()
            self._opened = self.luck.on(client), experiment
        return self._opened

    def _files(self, key: str) -> Any:
        return self.luck.on(super()._files(key))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated database for the module."""
    address = migrated(tmp_path_factory.mktemp("mlflow"))
    open_client(address)
    return address


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, and a folder with two."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "adapter" / "deeper").mkdir(parents=True)
    for name in ("result.json", "adapter/a.bin", "adapter/deeper/b.bin"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / SPOOL


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(outbox, "LAST_PAUSE", 0.002)


GIVEN = Dataset("pairs", "abc123", "training", '{"uri": "pairs.jsonl"}', "{}", "{}")


def tell(box: Outbox, files: Path) -> None:
    """A search of two trials: params beyond a call's limit, curves, a table twice, a text, inputs, files, and a trial
    begun again."""
    box.put("open", uri="", experiment="")
    box.put("run", key="s", name="search", parent=None, tags={"kind": "search"}, params={"a": "1"})
    for n in range(2):
        key = f"s/{n}"
        params = {f"p{i}": str(i) for i in range(110 if n else 2)}
        box.put("run", key=key, name=f"trial {n}", parent="s", tags={"state": "running"}, params=params)
        for step in (1, 2):
            box.put("metrics", key=key, values={"loss": n + step / 10, "kl": 0.5}, step=step)
        box.put("finish", key=key, status="KILLED")
        box.put("run", key=key, name=f"trial {n}", parent="s", tags={"state": "running"}, params=params)
        box.put("metrics", key=key, values={"loss": n + 0.3, "kl": 0.5}, step=3)
        table = {"columns": ["id"], "data": [["é"]]}
        for names in (["answers.json", "deep/rows.json"], ["answers.json"]):
            box.put("tables", key=key, tables=dict.fromkeys(names, table))
        box.put("text", key=key, name="config/config.yaml", text="a: 1")
        box.put("datasets", key=key, datasets=[asdict(GIVEN)])
        box.put("file", key=key, path=str(files / "result.json"), to="result")
        box.put("folder", key=key, path=str(files / "adapter"), to="adapter")
        box.put("tags", key=key, tags={"state": "complete"})
        box.put("finish", key=key, status="FINISHED")
    box.put("metrics", key="s", values={f"m{i}": float(i) for i in range(950)}, step=0)
    box.put("tags", key="s", tags={f"t{i}": "x" for i in range(101)})
    box.put("finish", key="s", status="FINISHED")


def told(uri: str, experiment: str, spool: Path, files: Path, plan: Mapping[int, How]) -> Luck:
    """Tell the small search, going on with a new outbox where a sender died."""
    luck = Luck(plan)
    box = Outbox(spool, UnluckyDelivery(uri, experiment, luck))
    tell(box, files)
    patience = time.monotonic() + 120
    while sent_or_dead(box) == "dead":
        assert time.monotonic() < patience
        box.close(0.0)
        box = Outbox(spool, UnluckyDelivery(uri, experiment, luck))
    assert box.close(0.0) == 0
    assert not spool.with_name(f"{SPOOL}.refused").exists()
    return luck


def sent_or_dead(box: Outbox) -> str:
    while box.flush(0.02):
        if not any(thread.name == "mlflow" for thread in threading.enumerate()):
            return "dead"
    return "sent"


@pytest.fixture(scope="module")
def undisturbed(uri: str, files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What MLflow holds where nothing fails."""
    luck = told(uri, "undisturbed", tmp_path_factory.mktemp("undisturbed") / SPOOL, files, {})
    assert luck.calls >= CALLS
    return contents(uri, "undisturbed")


def test_the_small_search_is_recorded_whole(undisturbed: dict[str, Any]) -> None:
    assert sorted(undisturbed) == ["s", "s/0", "s/1"]
    trial = undisturbed["s/1"]
    assert (trial["parent"], trial["status"], len(trial["params"])) == ("s", "FINISHED", 110)
    assert trial["metrics"]["loss"] == [(1, 1.1), (2, 1.2), (3, 1.3)]
    written = ["adapter/a.bin", "adapter/deeper/b.bin", "answers.json", "config/config.yaml"]
    assert sorted(trial["files"]) == [*written, "deep/rows.json", "result/result.json"]
    assert trial["datasets"] == [("pairs", "abc123")]
    assert (len(undisturbed["s"]["metrics"]), len(undisturbed["s"]["tags"])) == (950, 103)


@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(plan={3: "fails after", 5: "fails after", 7: "dies after"})  # a run's creation, a trial's, its first metrics
@example(plan={5: "dies after"})
@given(plan=st.dictionaries(st.integers(0, 2 * CALLS), st.sampled_from(HOWS), max_size=CALLS))
def test_whatever_fails_mlflow_comes_to_hold_the_same(
    uri: str, files: Path, tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, Any], plan: dict[int, How]
) -> None:
    folder = tmp_path_factory.mktemp("disturbed")
    told(uri, folder.name, folder / SPOOL, files, plan)
    assert contents(uri, folder.name) == undisturbed


@pytest.mark.faults
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("first", range(3))
def test_a_failure_at_every_third_call_changes_nothing(
    uri: str, files: Path, tmp_path: Path, undisturbed: dict[str, Any], how: How, first: int
) -> None:
    told(uri, f"{how} {first}", tmp_path / SPOOL, files, dict.fromkeys(range(first, 4 * CALLS, 3), how))
    assert contents(uri, f"{how} {first}") == undisturbed


def test_a_run_that_was_created_without_an_answer_is_found_and_not_created_again(
    uri: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    create, names = MlflowClient.create_run, []

    def cut(client: Any, experiment: str, at: int, tags: Mapping[str, str], name: str) -> None:
        names.append(name)
        create(client, experiment, at, tags, name)
        raise MlflowException("the connection was cut")

    box = Outbox(spool, Delivery(uri, "cut"))
    box.put("run", key="s", name="search", parent=None, tags={}, params={})
    assert box.flush(60) == 0
    monkeypatch.setattr(MlflowClient, "create_run", cut)
    box.put("run", key="s/0", name="trial", parent="s", tags={}, params={"a": "1"})
    box.put("run", key="t", name="another", parent=None, tags={}, params={})
    assert box.close(60) == 0
    assert names == ["trial", "another"]
    assert contents(uri, "cut")["s/0"]["params"] == {"a": "1"}


def test_a_run_whose_creation_arrives_after_it_was_given_up_has_no_twin(uri: str, spool: Path) -> None:
    """The first attempt reaches the server once the second has been answered, and a third is found by a new sender."""

    class Late(Delivery):
        def __init__(self, experiment: str) -> None:
            super().__init__(uri, experiment)
            self.given_up: list[partial[Any]] = []

        def _connect(self) -> tuple[Any, str]:
            client, experiment = super()._connect()
            return Tardy(client, self.given_up), experiment

    def twins() -> list[str]:
        client = open_client(uri)
        found = client.search_runs([client.get_experiment_by_name("late").experiment_id])
        return sorted(run.data.tags[RUN_KEY] for run in found)

    delivery = Late("late")
    box = Outbox(spool, delivery)
    box.put("run", key="s", name="search", parent=None, tags={}, params={"a": "1"})
    box.put("run", key="s/0", name="trial", parent="s", tags={}, params={"a": "1"})
    assert box.flush(60) == 0
    for create in delivery.given_up:
        create()
    assert twins() == ["s", "s", "s/0", "s/0"]
    box.put("finish", key="s/0", status="FINISHED")
    assert box.close(60) == 0
    assert twins() == ["s", "s", "s/0"]
    box = Outbox(spool, Delivery(uri, "late"))
    box.put("metrics", key="s", values={"loss": 1.0}, step=1)
    assert box.close(60) == 0
    assert contents(uri, "late")["s"]["params"] == {"a": "1"}


class Tardy:
    """A client whose first attempt at each run is given up, and kept to arrive later."""

    def __init__(self, client: Any, given_up: list[partial[Any]]) -> None:
        self._client, self._given_up = client, given_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_run(self, experiment: str, at: int, tags: Mapping[str, str], name: str) -> Any:
        attempt = partial(self._client.create_run, experiment, at, dict(tags), name)
        if all(name not in given.args for given in self._given_up):
            self._given_up.append(attempt)
            raise MlflowException("timeout")
        return attempt()
