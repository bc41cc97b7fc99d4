"""Journals: what is appended behind a torn line can be read, and a bit that has changed is found."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phasegpt.lines import DamagedLineError, append, read_lines


def test_an_entry_behind_a_torn_line_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = tmp_path / "journal"
    append(journal, {"number": 1})
    with journal.open("ab") as handle:
        handle.write(b'{"sum":"0000')
    with caplog.at_level(logging.WARNING, "phasegpt"):
        append(journal, {"number": 2})
    assert read_lines(journal)[0] == [{"number": 1}, {"number": 2}]
    assert f"{journal}: a torn last line was cut" in caplog.text


def test_a_journal_of_one_torn_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b'{"su')
    append(tmp_path / "journal", {"number": 1})
    assert read_lines(tmp_path / "journal")[0] == [{"number": 1}]


def read(journal: Path) -> object:
    """The first entry, or why there is none."""
    try:
        return read_lines(journal)[0][0]
    except DamagedLineError as error:
        return str(error)


def test_a_bit_that_has_changed_is_found_or_changes_nothing(tmp_path: Path) -> None:
    journal, first = tmp_path / "journal", {"number": 0, "text": "ä"}
    append(journal, first)
    append(journal, {"number": 1})
    whole, found = journal.read_bytes(), 0
    for place in range(whole.index(b"\n")):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            journal.write_bytes(changed)
            said = read(journal)
            found += said != first
            assert said in (first, f"{journal}:1: this line is damaged (its checksum does not fit)")
    assert found > 0.99 * 8 * whole.index(b"\n")  # but for the E of \\u00E4


def test_an_append_that_the_disk_refuses_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    append(journal, {"number": 1})
    before = journal.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            append(journal, {"number": 2})
    assert journal.read_bytes() == before


def test_an_append_for_which_there_is_no_room_leaves_no_part_of_its_line(tmp_path: Path) -> None:
    """The system takes a part of the line before it says that there is no room for the rest."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from phasegpt.lines import append\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); journal = Path(sys.argv[1])\n"
        "append(journal, {'number': 1}); resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "try: append(journal, {'text': 'long' * 100})\n"
        "except OSError as error: print(error.strerror)\n"
        "print(len(journal.read_bytes().splitlines()))"
    )
    journal = tmp_path / "journal"
    done = subprocess.run([sys.executable, "-c", code, str(journal)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n1\n"
    assert done.stderr == ""
    assert read_lines(journal) == ([{"number": 1}], journal.stat().st_size)
