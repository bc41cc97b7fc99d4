"""Real MLflow servers as they stand on networks: plain, on PostgreSQL, behind passwords, behind a token, and slow."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phasegpt.mlflow_client import open_client
from tests.mlflow_server import MlflowServer, running
from tests.mlflow_store import contents, migrated
from tests.postgres import Postgres
from tests.proxy import How, before
from tune import outbox
from tune.datasets import Dataset
from tune.spool import SPOOL
from tune.sync import look, main, sync
from tune.tracking import Tracker

ENOUGH = 240.0
ADMIN, PASSWORD, TOKEN = "admin", "canary-password-1", "canary-token-2"
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CREDENTIALS, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)


@pytest.fixture(scope="module")
def on_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server whose runs lie in PostgreSQL, and its files with itself."""
    backend = postgres.with_password(postgres.database("mlflow"))
    with running(MlflowServer(tmp_path_factory.mktemp("on-postgres"), backend)) as server:
        yield server


@pytest.fixture(scope="module")
def with_passwords(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server with MLflow's own accounts."""
    folder = tmp_path_factory.mktemp("with-passwords")
    accounts = folder / "accounts.ini"
    accounts.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 600\n"  # hashing a password takes long where much else runs
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(accounts), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-tests"}
    with running(MlflowServer(folder, options=("--app-name", "basic-auth"), environment=environment)) as server:
        yield server


def a_search(uri: str, spool: Path, files: Path, wait: float = ENOUGH, experiment: str = "search") -> Tracker:
    """Two trials with everything that a run can hold."""
    (files / "adapter").mkdir(exist_ok=True)
    (files / "adapter" / "weights.bin").write_bytes(b"\0\1")
    (files / "empty.txt").write_bytes(b"")
    tracker = Tracker(uri, experiment, spool)
    tracker.run("s", "search", tags={"kind": "search"}, params={"a": "é"})
    for n in range(2):
        key = f"s/{n}"
        tracker.run(key, f"trial {n}", parent="s", params={f"p{i}": "x" for i in range(130)})
        for step in range(3):
            tracker.metrics(key, {"loss": n + step / 10, "kl": 1e-12}, step)
        tracker.table(key, [{"id": "p", "score": 0.5}], "answers.json")
        tracker.file(key, files / "empty.txt", "result")
        tracker.folder(key, files / "adapter", "adapter")
        tracker.tags(key, {"note": "ü" * 500})
        tracker.finish(key)
    tracker.finish("s")
    tracker.close(wait)
    return tracker


def test_a_server_on_postgresql_holds_what_an_sqlite_file_does(on_postgres: MlflowServer, tmp_path: Path) -> None:
    local = migrated(tmp_path)
    a_search(local, tmp_path / "local" / SPOOL, tmp_path)
    a_search(on_postgres.url, tmp_path / "remote" / SPOOL, tmp_path)
    found = contents(on_postgres.url, "search")
    assert found == contents(local, "search")
    assert len(found["s/1"]["params"]) == 130


def test_postgresql_without_a_server_is_written_to_directly(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.with_password(postgres.database("direct"))
    tracker = Tracker(url, "direct", tmp_path / SPOOL)
    tracker.run("s", "search", params={"a": "1"})
    tracker.finish("s")
    assert tracker.close(ENOUGH) == 0
    assert contents(url, "direct")["s"]["params"] == {"a": "1"}
    assert postgres.password not in (tmp_path / SPOOL).read_text()


def test_the_right_password_is_enough(with_passwords: MlflowServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    a_search(with_passwords.url, tmp_path / SPOOL, tmp_path)
    assert look(tmp_path / SPOOL).waiting == 0
    assert len(contents(with_passwords.url, "search")) == 3
    assert_no_canary(tmp_path)


@pytest.mark.parametrize("given", [{}, {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": "canary-wrong"}])
def test_without_the_right_password_rows_wait_and_one_line_says_why(
    with_passwords: MlflowServer, tmp_path: Path, monkeypatch: Any, caplog: Any, capsys: Any, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tracker = a_search(with_passwords.url, tmp_path / SPOOL, tmp_path, wait=2.0)
    assert "it refuses the credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in tracker.trouble
    assert caplog.text.count("refuses the credentials") == 1
    assert look(tmp_path / SPOOL).waiting == look(tmp_path / SPOOL).events
    assert main(["sync", str(tmp_path)]) == 1
    assert "refuses the credentials" in caplog.text
    assert_no_canary(tmp_path, caplog.text, capsys.readouterr().err)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert main(["sync", str(tmp_path)]) == 0
    assert look(tmp_path / SPOOL).refused == 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that asks nobody who they are."""
    with running(MlflowServer(tmp_path_factory.mktemp("plain"))) as server:
        yield server


def test_what_a_run_is_given_and_holds_arrives_through_a_server(plain: MlflowServer, tmp_path: Path) -> None:
    profile = json.dumps({"num_rows": 2})
    schema = json.dumps({"mlflow_colspec": [{"name": "prompt", "type": "string"}]})
    given = Dataset("pairs", "0123456789abcdef", "training", json.dumps({"uri": "/data/pairs.jsonl"}), schema, profile)
    tracker = Tracker(plain.url, "served", tmp_path / SPOOL)
    tracker.run("s", "trial-003 λ=0.1", tags={"track": "b", "why": ""})
    tracker.datasets("s", [given])
    tracker.datasets("s", [given])
    tracker.metrics("s", {"spiral_score": 0.9, "system/cpu_utilization_percentage": 50.0}, 0)
    tracker.tables("s", {"answers.json": [{"id": "p1"}], "none.json": [], "pairs.json": [{"id": "q1"}]})
    tracker.text("s", "training: {}\n", "config/config.yaml")
    tracker.experiment_tag("mlflow.sharedViewState.s", "{}")
    tracker.finish("s")
    assert tracker.close(ENOUGH) == 0
    client = open_client(plain.url)
    experiment = client.get_experiment_by_name("served")
    assert experiment.tags["mlflow.sharedViewState.s"] == "{}"
    words = "metrics.spiral_score > 0.8 and tags.track = 'b'"
    [run] = client.search_runs([experiment.experiment_id], words)
    assert (run.info.run_name, run.info.status) == ("trial-003 λ=0.1", "FINISHED")
    [kept] = run.inputs.dataset_inputs
    assert (kept.dataset.digest, kept.dataset.profile, kept.tags[0].value) == (given.digest, profile, "training")
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in shown] == ["answers.json", "pairs.json"]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"answers.json", "pairs.json", "config"}


def test_a_token_is_sent_where_one_is_asked_for(plain: MlflowServer, tmp_path: Path, monkeypatch: Any) -> None:
    with before(plain.port, token=TOKEN) as proxy:
        tracker = a_search(proxy.url, tmp_path / SPOOL, tmp_path, wait=1.0)
        assert "refuses the credentials" in tracker.trouble
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        assert sync(tmp_path / SPOOL) == 0
    assert len(contents(plain.url, "search")) == 3
    assert_no_canary(tmp_path)


def assert_no_canary(folder: Path, *texts: str) -> None:
    """No secret is in a spool, nor in what was said."""
    written = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in (*written, *texts) if "canary" in text]


def test_what_a_gateway_says_in_mlflows_place_refuses_no_event(plain: MlflowServer, tmp_path: Path) -> None:
    """One that answers 400, 404 or 500 with a page of its own: the events wait for MLflow itself."""
    statuses: tuple[How, ...] = ("400", "404", "500")
    for status in statuses:
        spool = tmp_path / status / SPOOL
        with before(plain.port) as proxy:
            proxy.away = status
            tracker = Tracker(proxy.url, f"gateway-{status}", spool)
            tracker.run("s", "search")
            assert tracker.close(1.0) == 2
            proxy.away = None
            assert sync(spool) == 0
        assert look(spool).refused == 0
        assert list(contents(plain.url, f"gateway-{status}")) == ["s"]


def test_who_tells_never_waits_for_a_server_that_hangs(plain: MlflowServer, tmp_path: Path, monkeypatch: Any) -> None:
    """Every request on the server is one of the sender's thread, and all is told before the first is answered."""
    from requests import Session

    asked, request = [], Session.request

    def noted(*given: Any, **named: Any) -> Any:
        asked.append(threading.current_thread().name)
        return request(*given, **named)

    monkeypatch.setattr(Session, "request", noted)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with before(plain.port) as proxy:
        proxy.away = "hang"
        a_search(proxy.url, tmp_path / SPOOL, tmp_path, wait=0.0, experiment="hangs")
        assert look(tmp_path / SPOOL).waiting == look(tmp_path / SPOOL).events == 21
        proxy.away = None
        assert sync(tmp_path / SPOOL) == 0
    assert set(asked) == {"mlflow"}


def test_a_trial_under_a_new_search_costs_no_question(plain: MlflowServer, tmp_path: Path) -> None:
    """What is asked at all is whether the experiment and the search are there."""
    with before(plain.port) as proxy:
        a_search(proxy.url, tmp_path / SPOOL, tmp_path, experiment="costs")
        asked = [path.rsplit("/", 1)[-1] for method, path in proxy.requests if method == "GET" or "search" in path]
    assert asked == ["get-by-name", "search"]
