"""Serves a blind judgement to a browser on this machine, until the names are revealed.

Loopback only. All pages lie below a path that is drawn anew for every run, so that neither another site nor another
user of the machine finds them; the Host header is checked as well (DNS rebinding), and the Origin of what changes
something. Nothing is read from the disk but what the pages load. Before the reveal no answer tells the sides apart.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs

from phasegpt.blind import CHOICES, BlindError, Votes
from phasegpt.blind_page import FILES, PAGES, overview_page, pair_page, result_page

LONGEST_FORM = 200
"""Bytes of a form that is read; ours have 30."""

PATIENCE = 10
"""Seconds that a browser may take over its request."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # no-referrer would take the Origin from our own forms
    "X-Content-Type-Options": "nosniff",
}
KEPT = {"Cache-Control": "private, max-age=86400"}
"""For what the pages load: the result is shown when the server has gone."""

HTML, PLAIN = "text/html; charset=utf-8", "text/plain; charset=utf-8"

log = logging.getLogger("phasegpt")
Form = Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    text: str = ""
    status: HTTPStatus = HTTPStatus.OK
    kind: str = HTML
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """A request that is not answered: a status and a sentence."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class BlindServer(ThreadingMixIn, TCPServer):
    """The server of one judgement; `address` is what to open. `serve_forever` returns after the reveal.

    Raises BlindError where the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, votes: Votes, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise BlindError(f"--port {port}: {error.strerror}; leave the option out for a free one") from error
        self.root = f"/{secrets.token_urlsafe(16)}/"
        own = self.server_address[1]
        self.hosts = (f"127.0.0.1:{own}", f"localhost:{own}")
        self._votes, self._lock = votes, threading.Lock()

    @property
    def address(self) -> str:
        """Where the judge looks."""
        return f"http://{self.hosts[0]}{self.root}"

    def answer(self, method: str, path: str, form: Form) -> Answer:
        """What a request below the root gets; raises RefusedError."""
        with self._lock:
            try:
                return self._posted(path, form) if method == "POST" else self._got(path)
            except BlindError as error:
                raise RefusedError(HTTPStatus.CONFLICT, str(error)) from error
            except OSError as error:
                why = f"Not saved: {error.strerror}"
                raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, why) from error

    @property
    def revealed(self) -> bool:
        """Whether the judge has been told the names."""
        return self._votes.closed

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle is nobody's concern."""
        log.debug("a request broke off", exc_info=True)

    def _got(self, path: str) -> Answer:
        votes = self._votes
        if path in FILES:
            return Answer((PAGES / path).read_text(encoding="utf-8"), kind=FILES[path], headers=KEPT)
        if votes.closed:
            return Answer(result_page(votes, self.root))
        if path == "overview" or (path == "" and not votes.open):
            return Answer(overview_page(votes, self.root))
        return Answer(pair_page(votes, votes.open[0] if path == "" else self._place(path), self.root))

    def _place(self, path: str) -> int:
        """The pair that pair/N names."""
        name, _, number = path.partition("/")
        if name == "pair" and number.isascii() and number.isdigit() and len(number) < 10:
            place = int(number) - 1
            if 0 <= place < len(self._votes.ballot.pairs):
                return place
        raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _posted(self, path: str, form: Form) -> Answer:
        votes = self._votes
        if path == "vote":
            place, choice = self._place(f"pair/{form.get('pair', '')}"), form.get("choice", "")
            if choice not in CHOICES:
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"choice: expected one of {', '.join(CHOICES)}")
            votes.cast(place, choice)
            return self._go_to(votes.after(place))
        if path == "undo":
            return self._go_to(votes.undo())
        if path == "reveal":
            votes.close()
            return Answer(result_page(votes, self.root))
        raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _go_to(self, place: int | None) -> Answer:
        where = "overview" if place is None else f"pair/{place + 1}"
        return Answer(status=HTTPStatus.SEE_OTHER, headers={"Location": self.root + where})


class _Handler(BaseHTTPRequestHandler):
    """One request. Speaks HTTP/1.0: one connection each, so that none is left open."""

    server: BlindServer
    timeout = PATIENCE
    server_version, sys_version = "phasegpt", ""

    def do_GET(self) -> None:
        """A page, or what it loads."""
        self._answer("GET")

    def do_POST(self) -> None:
        """A vote, undo or the reveal; after the latter the server stops."""
        self._answer("POST")
        if self.server.revealed:
            self.server.shutdown()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold the secret path."""

    def _answer(self, method: str) -> None:
        try:
            path = self._path()
            form = self._form() if method == "POST" else {}
            self._send(self.server.answer(method, path, form))
        except RefusedError as error:
            self._send(Answer(f"{error}\n", error.status, PLAIN))

    def _path(self) -> str:
        """The path below the root; a stranger learns only that there is nothing."""
        if self.headers.get("Host") not in self.server.hosts:
            raise RefusedError(HTTPStatus.FORBIDDEN, "this address is not served here")
        path = self.path.partition("?")[0]
        head, _, below = path.lstrip("/").partition("/")
        if not secrets.compare_digest(f"/{head}/".encode(), self.server.root.encode()):
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        return below

    def _form(self) -> Form:
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            raise RefusedError(HTTPStatus.FORBIDDEN, "only the page itself may vote")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "a form with its length was expected")
        if len(length) > 6 or int(length) > LONGEST_FORM:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a form has at most {LONGEST_FORM} bytes")
        try:
            fields = parse_qs(self.rfile.read(int(length)).decode(), strict_parsing=int(length) > 0, max_num_fields=4)
        except ValueError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "this is no form") from error
        return {name: values[-1] for name, values in fields.items()}

    def _send(self, answer: Answer) -> None:
        body = answer.text.encode()
        self.send_response(answer.status)
        for name, value in {**HEADERS, **answer.headers, "Content-Type": answer.kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def serve(votes: Votes, port: int, say: Callable[[str], None]) -> None:
    """Serve until the names are revealed, or until Ctrl-C; `say` is told the address once it can be opened."""
    with BlindServer(votes, port) as server:
        say(server.address)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            return
