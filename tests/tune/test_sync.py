"""What waits is found by name and sent by command: spools of several searches, a real SQLite MLflow, and nobody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phasegpt.mlflow_client import open_client
from tests.mlflow_store import contents, migrated
from tune import sync as syncing
from tune.spool import SPOOL
from tune.sync import left_behind, look, main
from tune.tracking import Tracker

NOBODY = "http://someone:secret@127.0.0.1:9"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated database for the module."""
    address = migrated(tmp_path_factory.mktemp("mlflow"))
    open_client(address)
    return address


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(syncing, "PROGRESS", 0.2)
    monkeypatch.setattr(syncing, "PATIENCE", 0.4)


def spool_of(storage: Path, name: str, track: str = "track_b") -> Path:
    return storage / "experiments" / "v14" / track / name / SPOOL


def leave(storage: Path, name: str, track: str = "track_b", uri: str = NOBODY, experiment: str = "left") -> Path:
    """A search that ended and could not send; the spool."""
    spool = spool_of(storage, name, track)
    tracker = Tracker(uri, experiment, spool)
    tracker.run(name, name, params={"a": "1"})
    tracker.metrics(name, {"loss": 1.0}, 1)
    tracker.finish(name)
    tracker.close(30 if uri != NOBODY else 0)
    return spool


def test_help_comes_at_once_with_examples() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tune.tracking", "sync", "--help"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--all" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.endswith((" mlflow", " torch", " ray", " optuna"))]


def test_a_search_is_sent_by_its_name_and_once(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, "one", experiment="by-name")
    words = ["one", "--storage", str(tmp_path)]
    assert main(["status", *words]) == 1
    assert "one: 4 of 4 events wait for http://127.0.0.1:9" in capsys.readouterr().out
    assert main(["sync", *words, "--tracking-uri", uri]) == 0
    assert "one: everything is sent" in capsys.readouterr().out
    assert main(["sync", *words, "--tracking-uri", uri]) == 0
    assert main(["status", *words]) == 0
    assert "one: 4 events are in" in capsys.readouterr().out
    assert contents(uri, "by-name")["one"]["metrics"] == {"loss": [(1, 1.0)]}


def test_all_that_waits_is_sent_and_what_runs_is_left_to_itself(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for track, name in (("track_a", "one"), ("track_b", "two"), ("", "family")):
        leave(tmp_path, name, track, experiment="all")
    leave(tmp_path, "sent", uri=uri, experiment="all")
    running = Tracker(NOBODY, "all", spool_of(tmp_path, "running"))
    assert main(["status", "--storage", str(tmp_path), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"]: (row["waiting"], row["running"]) for row in rows} == {
        "one": (4, False), "two": (4, False), "family": (4, False), "sent": (0, False), "running": (1, True),
    }  # fmt: skip
    assert main(["sync", "--all", "--storage", str(tmp_path), "--tracking-uri", uri]) == 0
    assert sorted(contents(uri, "all")) == ["family", "one", "sent", "two"]
    running.close(0)


def test_who_starts_a_search_is_told_what_others_left(uri: str, tmp_path: Path) -> None:
    own = leave(tmp_path, "own")
    assert left_behind(tmp_path, own.parent) is None
    leave(tmp_path, "sent", uri=uri)
    assert left_behind(tmp_path, own.parent) is None
    leave(tmp_path, "other")
    leave(tmp_path, "third", "track_c")
    said = left_behind(tmp_path, own.parent)
    assert said == (
        "events of 2 earlier searches or runs wait for MLflow; send them with: "
        f"python -m tune.tracking sync --all --storage {tmp_path}"
    )


def test_a_damaged_spool_keeps_no_other_from_being_sent(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = leave(tmp_path, "damaged", experiment="damaged")
    damaged.write_bytes(damaged.read_bytes().replace(b'"loss"', b'"less"'))
    damaged.with_name(f"{SPOOL}.sent").write_text("{")
    assert left_behind(tmp_path, tmp_path) is None
    leave(tmp_path, "whole", experiment="damaged")
    assert main(["sync", "--all", "--storage", str(tmp_path), "--tracking-uri", uri]) == 0
    said = capsys.readouterr()
    assert f"{damaged}:3: this line is damaged" in said.err
    assert "whole: everything is sent" in said.out


def test_a_server_that_stays_away_leaves_everything_in_the_spool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = leave(tmp_path, "one")
    assert main(["sync", "one", "--storage", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "one: 4 events still wait" in said.out
    assert "one: 0 of 4 events sent" in said.err
    assert look(spool).waiting == 4
    assert "secret" not in said.out + said.err + "".join(path.read_text() for path in spool.parent.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sync", "nobody"], "nobody: no such search or run in"),
        (["sync", "both"], "both: track_a and track_b have a search of this name; add --track"),
        (["sync"], "name a search or run, or give --all"),
        (["status", "empty"], "holds no events"),
        (["status", "--storage", "ftp://bucket"], "expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    ],
)
def test_a_name_that_says_no_one_spool_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for track in ("track_a", "track_b"):
        leave(tmp_path, "both", track)
    (tmp_path / "empty").mkdir()
    assert main([*words, *([] if "--storage" in words else ["--storage", str(tmp_path)])]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1


def test_one_track_of_several_is_chosen(uri: str, tmp_path: Path) -> None:
    for track in ("track_a", "track_b"):
        leave(tmp_path, "both", track, experiment="both")
    words = ["sync", "both", "--track", "b", "--storage", str(tmp_path), "--tracking-uri", uri]
    assert main(words) == 0
    assert [look(spool_of(tmp_path, "both", track)).waiting for track in ("track_a", "track_b")] == [4, 0]


def test_a_search_that_runs_is_not_sent_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.spool.LEAVE", 0.1)
    running = Tracker(NOBODY, "left", spool_of(tmp_path, "running"))
    assert main(["sync", "running", "--storage", str(tmp_path)]) == 2
    assert "is in use: a running search sends its events itself" in capsys.readouterr().err
    running.close(0)


def test_a_database_without_its_driver_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    leave(tmp_path, "one")
    words = ["one", "--storage", str(tmp_path), "--tracking-uri", "postgresql://me:canary@127.0.0.1/db"]
    assert main(["sync", *words]) == 2
    said = capsys.readouterr().err
    assert 'the Python package psycopg is not installed; pip install "phasegpt-tune[postgres]"' in said
    assert "canary" not in said
