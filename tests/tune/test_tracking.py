"""What a tracker says arrives in MLflow once: one real SQLite MLflow, and an address where nobody answers."""

import errno
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phasegpt.lines import append
from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tune import outbox
from tune import spool as spooling
from tune.delivery import RUN_KEY
from tune.spool import SPOOL, TrackingError, read_spool
from tune.sync import sync
from tune.tracking import Status, Tracker, flat_params

NOBODY = "http://someone:secret@127.0.0.1:9"
ENOUGH = 30.0


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated database for the module."""
    address = migrated(tmp_path_factory.mktemp("mlflow"))
    open_client(address)
    return address


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "search" / SPOOL


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def runs_of(uri: str, experiment: str) -> dict[str, Any]:
    """{run key: run} of an experiment; fails where a key has two runs."""
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    by_key = {run.data.tags[RUN_KEY]: run for run in runs}
    assert len(by_key) == len(runs)
    return by_key


def history(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in open_client(uri).get_metric_history(run.info.run_id, metric)]


def a_small_search(tracker: Tracker, trials: int = 2, steps: int = 3) -> None:
    tracker.run("s", "search s", tags={"track": "b"}, params={"search.trials": "2"})
    for trial in range(trials):
        key = f"s/trial-{trial}"
        tracker.run(key, f"trial {trial}", parent="s", params={"training.beta": "0.1"})
        for step in range(steps):
            tracker.metrics(key, {"loss": trial + step / 10}, step)
        tracker.finish(key)


def test_params_are_flat_and_texts_stay_as_they_are() -> None:
    config = {"a": {"b": 5e-5, "c": ["x", 1]}, "d": None, "e": True, "f": "text", "g": {}}
    flat = {"a.b": "5e-05", "a.c": '["x", 1]', "d": "null", "e": "true", "f": "text", "g": "{}"}
    assert flat_params(config) == flat


def test_what_is_said_together_is_one_write_and_arrives_in_order(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "together", spool)
    with tracker.together():
        tracker.run("s", "search s")
        other = threading.Thread(target=tracker.run, args=("t", "what another thread says goes out at once"))
        other.start()
        other.join()
        at_once = [event["key"] for event in read_spool(spool)[1:]]
        tracker.metrics("s", {"loss": 1.0}, 0)
        tracker.finish("s")
    assert at_once == ["t"]
    assert [event["kind"] for event in read_spool(spool)[2:]] == ["run", "metrics", "finish"]
    assert tracker.close(timeout=ENOUGH) == 0
    runs = runs_of(uri, "together")
    assert runs["s"].info.status == "FINISHED"
    assert runs["s"].data.metrics == {"loss": 1.0}


def test_runs_metrics_tables_and_files_arrive(uri: str, spool: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    tracker = Tracker(uri, "arrive", spool)
    a_small_search(tracker)
    tracker.table("s", [{"id": "p1", "score": 0.5}, {"id": "p2", "score": float("nan")}], "answers.json")
    tracker.file("s", tmp_path / "note.txt", "notes")
    tracker.folder("s", tmp_path, "all")
    tracker.tags("s", {"winner": "trial-1", "address": "http://u:p@host"})
    assert tracker.close(ENOUGH) == 0
    runs = runs_of(uri, "arrive")
    parent, child = runs["s"], runs["s/trial-1"]
    assert parent.info.run_id == tracker.run_id("s")
    assert (parent.info.run_name, parent.info.status, child.info.status) == ("search s", "RUNNING", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"training.beta": "0.1"}
    assert parent.data.tags["address"] == "http://host"
    assert history(uri, child, "loss") == [(0, 1.0), (1, 1.1), (2, 1.2)]
    table = Path(open_client(uri).download_artifacts(parent.info.run_id, "answers.json"))
    assert json.loads(table.read_text()) == {"columns": ["id", "score"], "data": [["p1", 0.5], ["p2", None]]}
    assert json.loads(parent.data.tags["mlflow.loggedArtifacts"]) == [{"path": "answers.json", "type": "table"}]
    assert {f.path for f in open_client(uri).list_artifacts(parent.info.run_id)} == {"answers.json", "notes", "all"}


def test_artifacts_of_an_sqlite_file_lie_beside_it(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "beside", spool)
    tracker.run("s", "search")
    assert tracker.close(ENOUGH) == 0
    place = runs_of(uri, "beside")["s"].info.artifact_uri
    assert place.startswith(Path(uri.removeprefix("sqlite:///")).with_name("mlartifacts").as_uri())


def test_limits_of_a_call_are_kept_by_cutting(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "limits", spool)
    tracker.run("s", "search", params={f"p{n}": "x" for n in range(230)} | {"long": "y" * 7000})
    tracker.metrics("s", {f"m{n}": float(n) for n in range(1100)}, step=1)
    tracker.tags("s", {f"t{n}": "z" for n in range(120)})
    assert tracker.close(ENOUGH) == 0
    data = runs_of(uri, "limits")["s"].data
    assert (len(data.params), len(data.params["long"]), len(data.metrics)) == (231, 6000, 1100)
    assert data.tags["t119"] == "z"


def test_a_value_that_is_no_number_is_left_out_and_noted(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "nan", spool)
    tracker.run("s", "search")
    tracker.metrics("s", {"loss": float("nan"), "kl": 0.5, "margin": float("inf")}, step=3)
    assert tracker.close(ENOUGH) == 0
    data = runs_of(uri, "nan")["s"].data
    assert data.metrics == {"kl": 0.5}
    assert (data.tags["not_finite.loss"], data.tags["not_finite.margin"]) == ("nan at step 3", "inf at step 3")


def test_with_the_server_away_everything_waits_and_sync_sends_it_once(
    uri: str, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(NOBODY, "away", spool)
    a_small_search(tracker)
    waiting = tracker.close(0.2)
    assert waiting == len(read_spool(spool)) == 12
    assert "events wait" in caplog.text or "they wait in" in caplog.text
    assert "secret" not in caplog.text + spool.read_text()
    assert sync(spool, uri) == 0
    assert sync(spool, uri) == 0
    runs = runs_of(uri, "away")
    assert sorted(runs) == ["s", "s/trial-0", "s/trial-1"]
    for trial in (0, 1):
        steps = [(step, trial + step / 10) for step in range(3)]
        assert history(uri, runs[f"s/trial-{trial}"], "loss") == steps


def test_a_crash_between_sending_and_noting_it_doubles_nothing(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "doubt", spool)
    a_small_search(tracker)
    assert tracker.close(ENOUGH) == 0
    sent = spool.with_name(f"{SPOOL}.sent")
    total = json.loads(sent.read_text())["sent"]
    for arrived in (total - 1, 4, 2, 0):
        sent.write_text(json.dumps({"sent": arrived, "doubt": total}))
        assert Tracker(uri, "doubt", spool).close(ENOUGH) == 0
    sent.unlink()
    assert Tracker(uri, "doubt", spool).close(ENOUGH) == 0
    runs = runs_of(uri, "doubt")
    assert len(runs) == 3
    assert history(uri, runs["s/trial-0"], "loss") == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_metrics_that_arrived_are_not_sent_again(uri: str, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(uri, "asked", spool)
    a_small_search(tracker, trials=1)
    assert tracker.close(ENOUGH) == 0
    spool.with_name(f"{SPOOL}.sent").unlink()
    from mlflow import MlflowClient

    def refuse(*_: Any, metrics: Any = (), **__: Any) -> None:
        assert not metrics

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    assert Tracker(uri, "asked", spool).close(ENOUGH) == 0


def test_the_search_goes_on_through_server_errors(uri: str, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real, dice, failures = MlflowClient.log_batch, random.Random(0), []  # noqa: S311 - not for secrets

    def flaky(*given: Any, **named: Any) -> None:
        """Fails half of the time, half of those after the rows were written."""
        luck = dice.random()
        if luck > 0.25:
            real(*given, **named)
        if luck < 0.5:
            failures.append(luck)
            raise MlflowException("500 Internal Server Error")

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.01)
    tracker = Tracker(uri, "flaky", spool)
    a_small_search(tracker)
    assert tracker.close(ENOUGH) == 0
    assert len(failures) > 2
    assert history(uri, runs_of(uri, "flaky")["s/trial-1"], "loss") == [(0, 1.0), (1, 1.1), (2, 1.2)]


def test_an_event_that_mlflow_refuses_is_set_aside_and_the_rest_arrives(uri: str, spool: Path) -> None:
    tracker = Tracker(uri, "refused", spool)
    tracker.run("s", "search", params={"lr": "1"})
    tracker.metrics("s", {"loss": 1.0}, 0)
    tracker.metrics("nobody", {"loss": 9.0}, 0)
    tracker.metrics("s", {"loss": 2.0}, 1)
    tracker.run("s", "search", params={"lr": "2"})
    tracker.file("s", spool.parent / "missing.txt")
    tracker._outbox.put("of a later version", key="s")
    tracker.finish("s")
    assert tracker.close(ENOUGH) == 0
    run = runs_of(uri, "refused")["s"]
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "1"})
    assert history(uri, run, "loss") == [(0, 1.0), (1, 2.0)]
    refused = read_spool(spool.with_name(f"{SPOOL}.refused"))
    assert [row["line"] for row in refused] == [4, 6, 7, 8]
    assert "no run 'nobody'" in refused[0]["reason"]


@pytest.mark.parametrize("ended", ["KILLED", "FINISHED"])
def test_a_run_that_is_begun_again_goes_on_and_says_nothing_twice(uri: str, spool: Path, ended: Status) -> None:
    for step in (0, 1):
        tracker = Tracker(uri, ended, spool)
        tracker.run("s", "search", params={"lr": "1"})
        for each in range(step + 1):
            tracker.metrics("s", {"loss": 1.0}, each)
        tracker.finish("s", ended)
        assert tracker.close(ENOUGH) == 0
    assert history(uri, runs_of(uri, ended)["s"], "loss") == [(0, 1.0), (1, 1.0)]


def test_runs_that_an_earlier_driver_left_are_ended(uri: str, spool: Path) -> None:
    first = Tracker(uri, "left", spool)
    for key in ("family", "s", "s/1", "s/2", "s/3"):
        first.run(key, key)
    first.finish("s/3")
    assert first.close(ENOUGH) == 0
    second = Tracker(uri, "left", spool)
    second.run("s", "s")
    second.run("s/1", "s/1")
    assert second.reconcile("s") == ["s/2"]
    assert second.close(ENOUGH) == 0
    states = {key: run.info.status for key, run in runs_of(uri, "left").items()}
    assert states == {
        "family": "RUNNING", "s": "RUNNING", "s/1": "RUNNING", "s/2": "KILLED", "s/3": "FINISHED",
    }  # fmt: skip


def test_a_torn_last_line_is_cut_with_a_warning(uri: str, spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Tracker(NOBODY, "torn", spool)
    first.run("s", "search")
    first.close(0.0)
    with spool.open("ab") as handle:
        handle.write(b'{"sum":"0000')
    with caplog.at_level(logging.WARNING, "tune.spool"):
        second = Tracker(uri, "torn", spool)
    assert f"{spool}:3: a torn last line was cut" in caplog.text
    assert second.close(ENOUGH) == 0
    assert list(runs_of(uri, "torn")) == ["s"]
    assert [event["kind"] for event in read_spool(spool)] == ["open", "run", "open"]


def test_what_a_full_disk_did_not_take_is_written_and_sent_in_its_turn_later(
    uri: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, full = Tracker(uri, "full", spool), [False]

    def write(path: Path, *events: dict[str, Any]) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, *events)

    monkeypatch.setattr(outbox, "append", write)
    tracker.run("s", "search")
    full[0] = True
    tracker.metrics("s", {"loss": 1.0}, 1)
    tracker.metrics("s", {"loss": 0.5}, 2)
    full[0] = False
    tracker.finish("s")
    assert tracker.close(ENOUGH) == 0
    assert [event["kind"] for event in read_spool(spool)] == ["open", "run", "metrics", "metrics", "finish"]
    run = runs_of(uri, "full")["s"]
    assert run.info.status == "FINISHED"
    assert history(uri, run, "loss") == [(1, 1.0), (2, 0.5)]


def test_an_end_that_was_never_written_is_missed(uri: str, spool: Path) -> None:
    first = Tracker(NOBODY, "missed", spool)
    assert not first.missed("s/1", "FINISHED")  # a spool that begins may have been begun anew by hand
    for key in ("s/1", "s/2", "s/3"):
        first.run(key, key)
    first.finish("s/1")
    first.finish("s/2", "KILLED")
    first.close(0.0)
    second = Tracker(NOBODY, "missed", spool)
    assert [second.missed(f"s/{number}", "FINISHED") for number in (1, 2, 3, 4)] == [False, True, True, True]
    second.close(0.0)


def test_two_senders_on_one_spool_are_refused(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "LEAVE", 0.1)
    first = Tracker(NOBODY, "two", spool)
    with pytest.raises(TrackingError, match="is in use"):
        Tracker(NOBODY, "two", spool)
    first.close(0.0)


def test_the_first_use_of_a_database_is_quiet(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from phasegpt.mlflow_client import tracking_uri; from tune.tracking import Tracker\n"
        "root = Path(sys.argv[1]); t = Tracker(tracking_uri(root, None), 'quiet', root / 's.jsonl')\n"
        "t.run('s', 'search'); t.finish('s'); sys.exit(t.close(60))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
