"""The journal of a study: Optuna reads it, and what is not as it was written is refused or cut."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from phasegpt.lines import DamagedLineError
from tune.journal import CheckedJournal, parsed
from tune.study_store import open_study, together


def filled(path: Path) -> list[bytes]:
    """The lines of a study with two trials."""
    study = open_study("toy", path, ["minimize"])
    for value in (0.5, 0.25):
        trial = study.ask()
        trial.set_user_attr("text", 'ä "quoted"')
        study.tell(trial, value)
    return path.read_bytes().splitlines(keepends=True)


def values(path: Path) -> list[float | None]:
    return [trial.value for trial in open_study("toy", path, ["minimize"]).trials]


def test_optuna_reads_it_as_a_journal_of_its_own(tmp_path: Path) -> None:
    lines = filled(tmp_path / "study.journal")
    assert all(b',"sum":"' in line for line in lines)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    assert [trial.value for trial in optuna.load_study(study_name="toy", storage=storage).trials] == [0.5, 0.25]


def test_a_journal_that_optuna_wrote_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name="toy", storage=JournalStorage(JournalFileBackend(str(path))))
    study = open_study("toy", path, ["minimize"])
    study.tell(study.ask(), 0.5)
    assert values(path) == [0.5]


def test_a_changed_bit_is_refused_with_the_line_and_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    lines = filled(path)
    for number, line in enumerate(lines[:-1]):
        changed = bytearray(line)
        changed[len(line) // 3] ^= 1
        path.write_bytes(b"".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
        with pytest.raises(DamagedLineError, match=f"{path}:{number + 1}: this line is damaged.*head -n {number}"):
            open_study("toy", path, ["minimize"])


@pytest.mark.parametrize("damage", [lambda line: line[:-1], lambda line: line[:9], lambda line: b"\0" * len(line)])
def test_a_last_line_that_is_not_whole_is_cut(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "study.journal"
    lines = filled(path)
    assert callable(damage)
    path.write_bytes(b"".join([*lines[:-1], damage(lines[-1])]))
    assert values(path) == [0.5, None]
    assert path.read_bytes().startswith(b"".join(lines[:-1]))


def test_lines_are_given_from_any_number_on(tmp_path: Path) -> None:
    entries = [{"op_code": number} for number in range(5)]
    journal = CheckedJournal(tmp_path / "study.journal")
    journal.append_logs(entries[:2])
    assert [[entry["op_code"] for entry in journal.read_logs(start)] for start in (0, 2, 1)] == [[0, 1], [], [1]]
    journal.append_logs(entries[2:])
    assert [[entry["op_code"] for entry in journal.read_logs(start)] for start in (2, 4)] == [[2, 3, 4], [4]]


def test_a_line_is_no_entry_where_it_is_not_one_of_optunas() -> None:
    assert parsed(b"[]\n") is None
    assert parsed(json.dumps({"kind": "open"}).encode() + b"\n") is None
    assert parsed(b'{"op_code":1}') is None
    assert parsed(b'{"op_code":1}\n') == {"op_code": 1}


def read_anew(path: Path) -> dict[str, object]:
    """The attributes of the study by another process's reading of the file."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="s", storage=storage).user_attrs


def test_what_is_held_is_seen_at_once_and_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = open_study("s", path, ["minimize"])
    study.set_user_attr("before", 0)
    lines = path.read_bytes()
    for turn in range(3):
        with together(study):
            study.set_user_attr("a", turn)
            with together(study):  # it writes with the outer one
                study.set_user_attr("b", turn)
            assert study.user_attrs == {"before": 0, "a": turn, "b": turn}
            assert path.read_bytes() == lines
        assert path.read_bytes().startswith(lines)
        lines = path.read_bytes()
        assert read_anew(path) == study.user_attrs == {"before": 0, "a": turn, "b": turn}
    study.set_user_attr("after", 1)
    assert read_anew(path)["after"] == 1


def test_the_file_is_the_same_as_entry_by_entry_and_no_line_is_read_twice(tmp_path: Path) -> None:
    entries = [{"op_code": number} for number in range(7)]
    single, grouped = (CheckedJournal(tmp_path / name) for name in ("single", "grouped"))
    for entry in entries:
        single.append_logs([entry])

    def numbers(start: int) -> list[int]:
        return [entry["op_code"] for entry in grouped.read_logs(start)]

    grouped.append_logs(entries[:2])
    assert numbers(0) == [0, 1]
    before = grouped._length
    with grouped.together():
        for number, entry in enumerate(entries[2:5], 2):
            grouped.append_logs([entry])
            assert numbers(number) == [number]
            assert grouped._length == before
    grouped.append_logs(entries[5:])
    assert numbers(5) == [5, 6]
    assert (tmp_path / "single").read_bytes() == (tmp_path / "grouped").read_bytes()
    assert grouped._length == (tmp_path / "grouped").stat().st_size
