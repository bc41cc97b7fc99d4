"""What one node tells, asked here without a cluster."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import probe
from cluster.asking import told_by
from phasegpt.object_store import ObjectStore
from tests.object_server import Bucket
from tune.request import RequestError


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    return {"id": "x", "storage": str(tmp_path / "shared"), "packages": ["pytest", "no-such-package"], "paths": []}


def test_a_node_tells_versions_and_what_is_missing(asked: dict[str, Any], tmp_path: Path) -> None:
    found = probe.look({**asked, "paths": [str(tmp_path), "/no/such/path"]})
    assert found["packages"]["pytest"] == pytest.__version__
    assert found["packages"]["no-such-package"] is None
    assert found["missing_paths"] == ["/no/such/path"]


def test_a_storage_is_shared_only_where_the_heads_folder_is_seen(asked: dict[str, Any], tmp_path: Path) -> None:
    assert "No such file" in probe.look(asked)["storage_error"]
    assert probe._make_room(asked) == ""
    assert probe.look(asked)["storage_error"] == ""
    probe._clear(asked)
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_storage_that_cannot_be_made_is_told_with_why(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in probe._make_room({**asked, "storage": str(tmp_path / "file")})


def test_a_node_tries_object_storage_itself_and_leaves_nothing_there(asked: dict[str, Any], bucket: Bucket) -> None:
    far = {**asked, "storage": bucket.address}
    assert (probe._make_room(far), probe.look(far)["storage_error"]) == ("", "")
    assert ObjectStore(bucket.address).list("") == {}
    assert "NO_SUCH_BUCKET" in probe.look({**asked, "storage": "s3://no-such-bucket/x"})["storage_error"]


class _Server(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    served = http.server.HTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/"
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.mark.parametrize(("status", "error"), [(200, ""), (401, ""), (500, "500 Internal Server Error")])
def test_an_mlflow_that_asks_for_a_password_is_reached_one_that_fails_is_not(
    server: str, status: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Server, "status", status)
    assert probe.tracking_error(server) == error


def test_an_mlflow_that_is_not_there_is_told_with_why() -> None:
    assert "refused" in probe.tracking_error("http://127.0.0.1:9")


def test_a_probe_that_failed_is_told_with_its_last_lines() -> None:
    with pytest.raises(RequestError, match=r"(?s)first small job \(probe-1\) failed.*\n  No module named ray"):
        told_by("begin\nNo module named ray\n", "probe-1", None, 1)


def test_what_a_probe_printed_among_other_lines_is_read() -> None:
    line = probe.MARK + '{"storage_error": "", "tracking_error": "no", "nodes": []}'
    assert told_by(f"before\n{line}\nafter\n", "probe-1", None, 0).tracking_error == "no"
