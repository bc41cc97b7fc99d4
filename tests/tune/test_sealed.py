"""A search's own files on their way through a real S3 server, without a search."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phasegpt import object_store
from phasegpt.files import read_json, write_json
from phasegpt.lines import append
from phasegpt.mirror import mirror_folder, mirror_of
from phasegpt.object_store import ObjectStore, StorageError
from tests.object_server import Bucket
from tune.backup import BusyError, kept
from tune.commands import Command, Commands, give
from tune.control import running
from tune.request import RequestError, SearchPlaces, resumed_request
from tune.sealed import STATE, put_commands, restore
from tune.spool import SPOOL, UNSEEN, read_spool
from tune.sweep import Going, remove

On = Callable[[str], SearchPlaces]


@pytest.fixture
def on(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> On:
    """The places of one search on each of several machines."""

    def places(machine: str) -> SearchPlaces:
        monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / machine))
        return SearchPlaces(mirror_folder(bucket.address), "b", "s")

    return places


def begun(places: SearchPlaces) -> SearchPlaces:
    """A search with a study and three events, of which one was sent."""
    places.folder.mkdir(parents=True)
    (places.folder / "study.journal").write_text("asked\n")
    spool = places.folder / SPOOL
    append(spool, {"kind": "run", "key": "s"})
    append(spool, {"kind": "file", "key": "s", "path": str(places.results / "trial-000.json")})
    append(spool, {"kind": "file", "key": "s", "path": "/elsewhere/picture.png"})
    write_json(spool.with_name(f"{SPOOL}.sent"), {"sent": 1, "doubt": 1})
    return places


def test_a_search_comes_back_with_what_was_not_surely_sent_in_doubt_and_its_files_where_they_lie_now(on: On) -> None:
    first = begun(on("one"))
    with kept(first, resumed=False):
        pass
    write_json(first.results / "trial-000.json", {})
    mirror = mirror_of(first.storage)
    assert mirror is not None
    mirror.push(first.results)
    second = on("two")
    restore(second)
    assert (second.folder / "study.journal").read_text() == "asked\n"
    assert read_json(second.folder / f"{SPOOL}.sent") == {"sent": 1, "doubt": 3 + UNSEEN}
    paths = [event["path"] for event in read_spool(second.folder / SPOOL)[1:]]
    assert paths == [str(second.results / "trial-000.json"), "/elsewhere/picture.png"]
    assert Path(paths[0]).is_file()


def test_the_machine_that_wrote_last_keeps_what_it_has_and_takes_over_what_another_went_on_with(on: On) -> None:
    first = begun(on("one"))
    with kept(first, resumed=False):
        pass
    (first.folder / "study.journal").write_text("asked\nand told before the power went\n")
    restore(first)
    assert "told before" in (first.folder / "study.journal").read_text()
    second = on("two")
    with kept(second, resumed=True):
        (second.folder / "study.journal").write_text("asked\nand told elsewhere\n")
    restore(first)
    assert (first.folder / "study.journal").read_text() == "asked\nand told elsewhere\n"


def test_a_search_that_a_driver_elsewhere_holds_is_refused_until_its_claim_has_run_out(
    on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("phasegpt.once", "tune.backup"):
        monkeypatch.setattr(f"{module}.COUNTS", 3.0)
    first = begun(on("one"))
    second = on("two")
    with kept(first, resumed=False):
        with pytest.raises(BusyError), kept(second, resumed=True):
            pass
        with kept(first, resumed=True):  # this machine's own driver.lock says whether it is alone
            pass
    with kept(second, resumed=True):
        assert (second.folder / "study.journal").is_file()


def test_what_is_asked_on_another_machine_reaches_the_driver(on: On) -> None:
    first = begun(on("one"))
    with kept(first, resumed=False):
        seen = Commands(first.folder)
        second = on("two")
        until(lambda: _is_there(second))
        give(second.folder, Command("extend", trials=2))
        put_commands(second)
        assert running(second.folder)
        until(lambda: bool(seen.all()))
        assert [command.trials for command in seen.all()] == [2]
    assert not running(second.folder)


def _is_there(places: SearchPlaces) -> bool:
    restore(places)
    return places.folder.is_dir()


def until(true: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not true() and time.monotonic() < patience:
        time.sleep(0.05)
    assert true()


def test_a_storage_that_goes_away_does_not_end_a_search_and_has_its_state_once_it_is_back(
    on: On, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(object_store, "PAUSES", ())
    first = begun(on("one"))
    attempts: list[str] = []

    def away(_: ObjectStore, name: str, content: bytes) -> None:
        attempts.append(name)
        raise OSError("away")

    with kept(first, resumed=False):
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "write", away)
            (first.folder / "study.journal").write_text("asked\ntold\n")
            until(lambda: any(name.endswith(STATE) for name in attempts))
        until(lambda: _journal(on("two")) == "asked\ntold\n")
    assert "its last state is here alone" not in capsys.readouterr().err


def _journal(places: SearchPlaces) -> str:
    restore(places)
    journal = places.folder / "study.journal"
    return journal.read_text() if journal.is_file() else ""


def test_a_state_that_is_damaged_is_told_and_not_taken(on: On) -> None:
    first = begun(on("one"))
    with kept(first, resumed=False):
        pass
    mirror = mirror_of(first.storage)
    assert mirror is not None
    name = mirror.name(first.folder / STATE)
    whole = mirror.store.read(name)
    assert whole is not None
    mirror.store.write(name, whole[:100])
    with pytest.raises(StorageError, match="not a zip file"):
        restore(on("two"))


def test_a_search_that_the_storage_does_not_have_is_told_with_those_that_it_has(on: On, bucket: Bucket) -> None:
    with kept(begun(on("one")), resumed=False):
        pass
    on("two")
    with pytest.raises(RequestError, match=rf"no such search in {bucket.address}/.*/track_b; there are: s"):
        resumed_request("b", "other", bucket.address)


def test_what_the_sweep_removes_goes_from_the_storage_too(on: On) -> None:
    places = on("one")
    mirror = mirror_of(places.storage)
    assert mirror is not None
    folder = places.checkpoints / "trial-000"
    for name in ("checkpoint-2", "checkpoint-4", "adapter_model"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights.safetensors").write_text(name)
    mirror.push(folder)
    remove(Going(folder, ["checkpoint-2", "adapter_model"], 0, adapter_stays=False))
    assert [name.rsplit("/", 2)[1] for name in mirror.store.list("checkpoints")] == ["checkpoint-4"]
    assert [path.name for path in folder.iterdir()] == ["checkpoint-4"]
