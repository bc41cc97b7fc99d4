"""Folders that mirror object storage, on a real S3 server."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from phasegpt import object_store
from phasegpt.checkpoint_files import newest_checkpoint, seal
from phasegpt.mirror import Mirror, address_of, mirror_folder, mirror_of
from phasegpt.object_store import ObjectStore, StorageError, checked_address
from phasegpt.once import Claim, made_once
from tests.object_server import Bucket

Machine = Callable[[str], Mirror]


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Machine:
    """The mirror of one bucket on each of several machines, which have a cache of their own."""

    def of(name: str) -> Mirror:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PHASEGPT_CACHE", str(tmp_path / name))
            found = mirror_of(mirror_folder(bucket.address))
        assert found is not None
        return found

    return of


def checkpoint(run: Path, step: int, content: str = "weights") -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "adapter_model").mkdir(parents=True)
    (folder / "adapter_model" / "adapter_model.safetensors").write_text(content)
    (folder / "trainer_state.json").write_text("{}")
    seal(folder, step)
    return folder


def test_what_one_machine_pushes_another_pulls(machine: Machine) -> None:
    here, there = machine("one"), machine("two")
    checkpoint(here.folder / "run", 2)
    here.push(here.folder / "run")
    assert there.pull(there.folder / "run") == 3
    newest = newest_checkpoint(there.folder / "run")
    assert newest == there.folder / "run" / "checkpoint-2"
    assert there.pull(there.folder / "run") == 0


def test_an_ordinary_folder_has_no_storage(tmp_path: Path) -> None:
    assert mirror_of(tmp_path / "any") is None
    assert address_of(tmp_path) == str(tmp_path)
    with made_once(tmp_path / "any", lambda: False):
        (tmp_path / "made").touch()
    assert (tmp_path / "made").exists()


def test_a_folder_of_the_storage_knows_its_address(machine: Machine, bucket: Bucket) -> None:
    assert address_of(machine("one").folder) == bucket.address


def test_a_checkpoint_whose_push_was_cut_passes_for_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = machine("one"), machine("two")
    checkpoint(here.folder / "run", 2)
    here.push(here.folder / "run")
    checkpoint(here.folder / "run", 4)
    write = ObjectStore.write

    def cut(store: ObjectStore, name: str, content: bytes) -> None:
        if name.endswith("checkpoint-4/trainer_state.json"):
            raise OSError("the machine is gone")
        write(store, name, content)

    monkeypatch.setattr(ObjectStore, "write", cut)
    with pytest.raises(OSError, match="gone"):
        here.push(here.folder / "run")
    there.pull(there.folder / "run")
    assert (there.folder / "run" / "checkpoint-4" / "adapter_model").is_dir()
    assert newest_checkpoint(there.folder / "run") == there.folder / "run" / "checkpoint-2"


def test_a_write_that_is_cut_short_leaves_the_object_that_was_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one").store
    store.write("search/state.zip", b"whole")
    copy = object_store.shutil.copyfileobj

    def cut(source: BinaryIO, target: BinaryIO, length: int) -> None:
        copy(io.BytesIO(source.read(3)), target, length)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(object_store.shutil, "copyfileobj", cut)
        with pytest.raises(KeyboardInterrupt):
            store.write("search/state.zip", b"newer")
    assert store.read("search/state.zip") == b"whole"
    there = machine("two")
    assert there.pull(there.folder / "search") == 1


def test_what_was_removed_here_goes_there_with_an_exact_push_alone(machine: Machine) -> None:
    here, there = machine("one"), machine("two")
    run = here.folder / "run"
    for step in (2, 4):
        checkpoint(run, step)
    here.push(run)
    for path in sorted((run / "checkpoint-2").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    here.push(run)
    assert "run/checkpoint-2/complete.json" in here.store.list("run")
    here.push(run, exact=True)
    there.pull(there.folder / "run")
    assert [path.name for path in (there.folder / "run").iterdir()] == ["checkpoint-4"]


def test_a_change_that_keeps_the_size_is_pushed(machine: Machine) -> None:
    here, there = machine("one"), machine("two")
    file = here.folder / "run" / "reached.json"
    file.parent.mkdir()
    file.write_text("1")
    here.push(file)
    there.pull(there.folder / "run")
    (there.folder / "run" / "reached.json").write_text("2")
    there.push(there.folder / "run")
    assert here.store.read("run/reached.json") == b"2"


def test_locks_marks_and_half_made_files_stay_on_their_machine(machine: Machine) -> None:
    here = machine("one")
    run = here.folder / "run"
    (run / ".adapter_model.x1").mkdir(parents=True)
    for name in ("a.lock", "used", ".half", ".adapter_model.x1/file", "kept.json"):
        (run / name).write_text("x")
    here.push(run)
    assert set(here.store.list("run")) == {"run/kept.json"}


def test_a_log_that_grew_elsewhere_is_fetched_again_and_nothing_else_is(machine: Machine) -> None:
    here, there = machine("one"), machine("two")
    here.folder.joinpath("run").mkdir()
    for name in ("job.log", "kept.json"):
        (here.folder / "run" / name).write_text("more")
    here.push(here.folder / "run")
    there.folder.joinpath("run").mkdir()
    for name in ("job.log", "kept.json"):
        (there.folder / "run" / name).write_text("own")
    there.pull(there.folder / "run")
    assert (there.folder / "run" / "job.log").read_text() == "more"
    assert (there.folder / "run" / "kept.json").read_text() == "own"


def test_of_two_machines_one_makes_what_both_need(machine: Machine) -> None:
    made: list[str] = []
    folders = {name: machine(name).folder / "shared" / "key" for name in ("one", "two", "three")}

    def make(name: str) -> None:
        folder = folders[name]
        with made_once(folder, (folder / "part.json").is_file):
            if not (folder / "part.json").is_file():
                time.sleep(1.5)
                made.append(name)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "part.json").write_text(name)

    machines = [threading.Thread(target=make, args=(name,)) for name in folders]
    for thread in machines:
        thread.start()
    for thread in machines:
        thread.join()
    assert len(made) == 1
    assert {(folder / "part.json").read_text() for folder in folders.values()} == {made[0]}


def test_claims_of_all_holders_have_one_size(machine: Machine) -> None:
    mirror = machine("one")
    sizes = set()
    for holder in ("a", "a-machine-with-a-long-name" * 4):
        Claim(mirror, "work.claim", holder)._write()
        content = mirror.store.read("work.claim")
        assert content is not None
        sizes.add(len(content))
        assert Claim(mirror, "work.claim").other() == holder
    assert len(sizes) == 1


def test_a_claim_that_nobody_renews_runs_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegpt.once.COUNTS", -1.0)
    mirror = machine("one")
    dead = Claim(mirror, "work.claim", "dead")
    dead._write()
    monkeypatch.setattr("phasegpt.once.COUNTS", 60.0)
    claim = Claim(mirror, "work.claim", "living")
    assert claim.take()
    assert Claim(mirror, "work.claim", "third").take() is False
    claim.release()
    assert Claim(mirror, "work.claim", "third").other() is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/folder", "expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
        ("s3://", "names no bucket"),
        ("s3://me:secret@bucket/a", "leave user and password to the environment"),
        ("s3://bucket/a?access_key=secret", "leave user and password to the environment"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_its_secret(address: str, said: str) -> None:
    with pytest.raises(StorageError, match=said) as error:
        checked_address(address)
    assert "secret" not in str(error.value)


def test_a_bucket_that_is_not_there_is_told_in_one_line_with_the_cure(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PAUSES", ())
    with pytest.raises(StorageError) as error:
        ObjectStore("s3://no-such-bucket/a").check()
    assert "\n" not in str(error.value)
    assert "NO_SUCH_BUCKET" in str(error.value)
    assert "check the bucket, the network and the credentials" in str(error.value)


def test_a_storage_that_can_be_written_to_passes_and_nothing_of_the_check_is_left(bucket: Bucket) -> None:
    store = ObjectStore(bucket.address)
    store.check()
    assert store.list("") == {}


def test_a_short_absence_is_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PAUSES", (0.0, 0.0))
    store, put, failures = machine("one").store, ObjectStore._put, [OSError("away"), OSError("away")]

    def away(self: ObjectStore, *given: Any) -> None:
        if failures:
            raise failures.pop()
        put(self, *given)

    monkeypatch.setattr(ObjectStore, "_put", away)
    store.write("state", b"here")
    assert store.read("state") == b"here"
