"""The journal of a study: Optuna reads it, and what is not as it was written is refused or cut."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from phasegpt.lines import DamagedLineError
from tune.journal import CheckedJournal, parsed
from tune.study_store import open_study


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
