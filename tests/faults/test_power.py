"""A loss of power after each single call of a writer: what was said to be on the disk is there, and nothing is half."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phasegpt.files import read_json, remove_stages
from phasegpt.lines import append, read_lines
from tests.faults.disk import Content, Disk, Op, lay
from tests.faults.recording import record, strace

pytestmark = pytest.mark.skipif(strace() is None, reason="strace is not installed")
ENTRIES = 5
WRITER = """
import sys
from pathlib import Path
from phasegpt.files import whole_folder, write_json
from phasegpt.lines import append
folder = Path(sys.argv[1])
for number in range(5):
    append(folder / "journal", {"number": number, "text": "long" * 50})
    write_json(folder / "deep" / "a.json", number)
    with whole_folder(folder / "checkpoints" / f"checkpoint-{number}") as stage:
        (stage / "one").write_text(str(number))
        (stage / "two").write_text(str(number))
"""


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory) -> list[Op]:
    folder = tmp_path_factory.mktemp("recorded") / "store"
    folder.mkdir()
    return record([sys.executable, "-c", WRITER, str(folder)], folder, os.environ)


def left(disk: Disk) -> Iterator[Content]:
    """What a killed process leaves, and what several losses of power."""
    yield disk.as_it_is()
    yield disk.without_power(lambda path: False)
    for seed in range(3):
        yield disk.without_power(lambda path: False, seed)


def test_what_was_said_to_be_on_the_disk_is_there_and_nothing_is_half(ops: list[Op], tmp_path: Path) -> None:
    store, moments = tmp_path / "store", 0
    for moment in range(len(ops) + 1):
        done = ops[:moment]
        for content in left(Disk().apply(done)):
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir()
            lay(content, store)
            check(store, done)
            moments += 1
    assert moments > 500


def check(store: Path, done: list[Op]) -> None:
    entries = [entry["number"] for entry in read_lines(store / "journal")[0]]
    ends = [op for op in done if op.kind == "rename"]
    written = [op.to for op in ends[:-1]]  # of the last one the folder may not be synced yet
    assert entries == list(range(len(entries)))
    assert len(entries) >= written.count("deep/a.json")
    if (store / "deep" / "a.json").exists():
        assert read_json(store / "deep" / "a.json") in range(ENTRIES)
    else:
        assert "deep/a.json" not in written
    for name in written:
        assert (store / name).exists()
    for folder in (store / "checkpoints").glob("checkpoint-*"):
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
            ("one", "two"), folder.name[-1]
        )
    remove_stages(store)
    assert not list(store.rglob(".*"))
    append(store / "journal", {"number": len(entries)})
    assert len(read_lines(store / "journal")[0]) == len(entries) + 1
