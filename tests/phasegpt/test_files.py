"""Files and folders that are there complete or not at all."""

import math
from pathlib import Path

import pytest

from phasegpt.files import file_sha256, read_json, text_sha256, whole_folder, write_json, write_text


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    write_text(path, "new – neu\n")
    assert path.read_text(encoding="utf-8") == "new – neu\n"
    assert names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_can_be_for_its_owner_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "secret", "token", 0o600)
    write_text(tmp_path / "plain", "text")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("secret", "plain")] == [0o600, 0o644]


def test_a_crash_while_writing_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def crash(descriptor: int) -> None:
        raise Cut

    monkeypatch.setattr("phasegpt.files.os.fsync", crash)
    with pytest.raises(Cut):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_with_a_number_that_is_none_is_refused_and_leaves_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [0.1]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": value})
    assert read_json(path) == {"a": [0.1], "b": 1}


def test_a_damaged_json_file_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\); remove it and run again"):
        read_json(tmp_path / "a.json")


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for content in ("old", "new"):
        with whole_folder(path) as stage:
            (stage / content).mkdir()
            (stage / content / "file").write_text(content)
            assert names(path.parent) == sorted({stage.name, *(["folder"] if content == "new" else [])})
    assert names(path) == ["new"]
    assert names(path.parent) == ["folder"]


def test_a_crash_while_filling_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as stage:
        (stage / "old").touch()

    def crash() -> None:
        with whole_folder(path) as stage:
            (stage / "new").touch()
            raise Cut

    with pytest.raises(Cut):
        crash()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_crash_while_the_old_folder_is_removed_leaves_no_half_of_it_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as stage:
        (stage / "old").touch()

    def crash(folder: Path, ignore_errors: bool) -> None:
        raise Cut

    monkeypatch.setattr("phasegpt.files.shutil.rmtree", crash)
    with pytest.raises(Cut), whole_folder(path) as stage:
        (stage / "new").touch()
    assert names(path) == ["new"]
    assert all(name == "folder" or name.startswith(".folder.") for name in names(tmp_path))


def test_hashes_are_sha256_of_the_bytes_and_tell_parts_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "a") == abc
    assert text_sha256("abc") == abc
    assert text_sha256("ab", "c") != text_sha256("a", "bc")
