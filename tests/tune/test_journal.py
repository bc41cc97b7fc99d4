"""What belongs together is in a study's journal whole or not at all."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune.journal import OneWriterJournal
from tune.study_store import open_study, together


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
            study.set_user_attr("b", turn)
            assert study.user_attrs == {"before": 0, "a": turn, "b": turn}
            assert path.read_bytes() == lines
        assert path.read_bytes().startswith(lines)
        lines = path.read_bytes()
        assert read_anew(path) == study.user_attrs == {"before": 0, "a": turn, "b": turn}
    study.set_user_attr("after", 1)
    assert read_anew(path)["after"] == 1


def test_the_file_is_the_same_as_entry_by_entry_and_no_line_is_read_twice(tmp_path: Path) -> None:
    entries = [{"n": number} for number in range(7)]
    single, grouped = (OneWriterJournal(str(tmp_path / name)) for name in ("single", "grouped"))
    for entry in entries:
        single.append_logs([entry])
    grouped.append_logs(entries[:2])
    assert list(grouped.read_logs(0)) == entries[:2]
    with grouped.together():
        for number, entry in enumerate(entries[2:5], 2):
            grouped.append_logs([entry])
            assert list(grouped.read_logs(number)) == [entry]
        assert list(grouped.read_logs(1)) == entries[1:5]
    grouped.append_logs(entries[5:])
    assert list(grouped.read_logs(5)) == entries[5:]
    assert (tmp_path / "single").read_bytes() == (tmp_path / "grouped").read_bytes()
    assert grouped._log_number_offset == {n: 8 * n for n in range(len(entries) + 1)}
