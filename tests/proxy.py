"""An HTTP proxy of ours before a real server, which fails as it is told to: the network on its worst days.

It notes every request that it gets, and fails those of a plan: {number of the request, from 0: how}.

- refuse: the connection is closed before anything is read
- hang: the request is read and never answered
- late: as hang, and the server gets it once the client has given up
- 400, 404, 500, 503: answered without the server
- after 500: the server does the work, and the answer is 500
- cut: the server does the work, and the connection is closed without an answer
- kill: the server is killed, and started again after a while: `restart` does so
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Literal

How = Literal["refuse", "hang", "late", "400", "404", "500", "503", "after 500", "cut", "kill"]
HELD = 4.0
"""Seconds that a request which hangs is held: longer than the clients of tests wait."""
CLIENT_WAITS = "2"
"""What those set MLFLOW_HTTP_REQUEST_TIMEOUT to."""


class Proxy(ThreadingHTTPServer):
    """Listens on a free loopback port and passes on to `port`. `away` makes every request fail, `token` asks for it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, plan: Mapping[int, How], token: str | None, restart: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.plan, self.token, self.restart = port, dict(plan), token, restart
        self.away: How | None = None
        self.requests: list[tuple[str, str]] = []
        self.failed: list[tuple[int, How, str]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fate(self, method: str, path: str) -> How | None:
        """Note a request; how it shall fail."""
        with self.lock:
            how = self.away or self.plan.get(len(self.requests))
            if how:
                self.failed.append((len(self.requests), how, path))
            self.requests.append((method, path.partition("?")[0]))
            return how

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        how = self.server.fate(self.command, self.path)
        if how in ("refuse", "kill"):
            self._close()
            if how == "kill":
                self.server.restart()
            return
        body = self._body()
        if how in ("hang", "late"):
            time.sleep(HELD)
            if how == "late":
                self._ask(body)
            self._close()
        elif how is not None and how.isdigit():
            self._answer(int(how), b"Service Unavailable", {})
        elif self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, json.dumps({"error_code": "UNAUTHENTICATED", "message": "no token"}).encode(), {})
        else:
            self._pass_on(body, how)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - names of http.server

    def _pass_on(self, body: bytes, how: How | None) -> None:
        try:
            answer = self._ask(body)
        except OSError:
            self._close()
            return
        if how == "cut":
            self._close()
        elif how == "after 500":
            self._answer(500, b"Internal Server Error", {})
        else:
            self._answer(*answer)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _ask(self, body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        """What the server answers."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        dropped = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type", "text/plain")}
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            upstream.close()

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _close(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


@contextmanager
def before(
    port: int,
    plan: Mapping[int, How] = MappingProxyType({}),
    token: str | None = None,
    restart: Callable[[], None] = lambda: None,
) -> Iterator[Proxy]:
    """A proxy before a server on `port` while the block lasts."""
    with Proxy(port, plan, token, restart) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
