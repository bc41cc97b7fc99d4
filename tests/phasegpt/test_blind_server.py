"""The server of a blind judgement over real HTTP: what it answers, what it refuses, and what it never says."""

import http.client
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from phasegpt.blind import CHOICES, Votes, read_votes, voting
from phasegpt.blind_server import LONGEST_FORM, BlindServer
from tests.phasegpt.ballots import SECRETS, ballot


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass
class Served:
    """A judgement that is being served."""

    server: BlindServer
    votes: Votes
    thread: threading.Thread

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> Reply:
        """One request as the page makes it; words change headers, empty ones leave them out."""
        host = self.server.hosts[0]
        sent = {"Host": host, "Origin": f"http://{host}" if method == "POST" else ""} | headers
        link = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=20)
        link.request(method, path, body, {name.replace("_", "-"): value for name, value in sent.items() if value})
        reply = link.getresponse()
        found = Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode())
        link.close()
        return found

    def get(self, below: str = "", **headers: str) -> Reply:
        return self.ask("GET", self.server.root + below, **headers)

    def post(self, below: str, body: str = "", **headers: str) -> Reply:
        return self.ask("POST", self.server.root + below, body, **headers)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with voting(tmp_path / "votes.jsonl", ballot(1)) as votes, BlindServer(votes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Served(server, votes, thread)
        server.shutdown()
        thread.join(20)


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_vote_leads_to_the_next_open_pair_and_the_last_to_the_overview(served: Served) -> None:
    assert "Pair 1 of 5" in served.get().text
    root = served.server.root
    where = [served.post("vote", f"pair={n}&choice=first").headers["location"] for n in (1, 3, 2, 4, 5)]
    assert where == [f"{root}{page}" for page in ("pair/2", "pair/4", "pair/4", "pair/5", "overview")]
    assert "All pairs are judged" in served.get().text
    assert served.votes.choices == {n: pair.first for n, pair in enumerate(served.votes.ballot.pairs)}


def test_an_undo_leads_back_to_its_pair(served: Served) -> None:
    served.post("vote", "pair=2&choice=tie")
    assert "Last: pair 2, neither is better" in served.get().text
    assert served.post("undo").headers["location"].endswith("/pair/2")
    assert served.votes.choices == {}
    assert served.post("undo").headers["location"].endswith("/overview")


def test_before_the_reveal_no_answer_tells_the_sides_apart(served: Served) -> None:
    pages = [served.get(page) for page in ("", "overview", "pair/1", "pair/5", "pair/9", "blind.js", "blind.css", "x")]
    for n, choice in enumerate((*CHOICES, "b"), 1):
        pages += [served.post("vote", f"pair={n}&choice={choice}"), served.get(), served.get(f"pair/{n}")]
    pages += [served.post("undo"), served.get("overview"), served.post("vote", "pair=a&choice=a")]
    assert [page.status for page in pages[:8]] == [200, 200, 200, 200, 404, 200, 200, 404]
    first = served.votes.ballot.pairs[0]
    assert escape(first.a) in pages[2].text
    assert escape(first.b) in pages[2].text
    for page in pages:
        everything = page.text + str(page.headers)
        assert [secret for secret in (*SECRETS, "votes.jsonl") if secret in everything] == []


def test_pages_do_not_depend_on_which_side_stands_first(tmp_path: Path) -> None:
    """The same texts in the same places, from the other side each: the pages are the same to the letter."""
    from dataclasses import replace

    from phasegpt.blind_page import overview_page, pair_page

    made = ballot()
    swap = {"a": "b", "b": "a"}
    swapped = tuple(
        replace(p, a=p.b, b=p.a, first=swap[p.first], scores={"spiral_score": p.scores["spiral_score"][::-1]})
        for p in made.pairs
    )
    one, other = (Votes(tmp_path / "v", b) for b in (made, replace(made, pairs=swapped, a=made.b, b=made.a)))
    for votes in (one, other):
        votes.cast(0, "first")
        votes.cast(1, "second")
    assert overview_page(one, "/") == overview_page(other, "/")
    assert [pair_page(one, n, "/") for n in range(5)] == [pair_page(other, n, "/") for n in range(5)]


def test_the_reveal_tells_all_and_ends_the_server(served: Served) -> None:
    served.post("vote", "pair=1&choice=tie")
    page = served.post("reveal")
    assert page.status == 200
    assert [secret for secret in SECRETS if secret not in page.text] == []
    assert served.votes.path.name in page.text
    served.thread.join(20)
    assert not served.thread.is_alive()
    assert read_votes(served.votes.path).closed


def test_texts_of_prompts_and_answers_are_text(served: Served) -> None:
    for page in (*(served.get(f"pair/{n}") for n in range(1, 6)), served.get("overview")):
        shown = Tags(page.text)
        assert shown.tags.count("script") == 1
        assert not {"b", "i"} & set(shown.tags)
        assert "<b>" in shown.text
    shown = Tags(served.post("reveal").text)
    assert shown.tags.count("script") == 1
    assert "<script>alert(1)</script>" in shown.text


def test_every_answer_forbids_what_the_pages_do_not_need(served: Served) -> None:
    for reply in (served.get(), served.get("blind.js"), served.post("undo"), served.ask("GET", "/")):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert ("no-store" in reply.headers["cache-control"]) == ("javascript" not in reply.headers["content-type"])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "Python" not in reply.headers["server"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "[::1]"])
def test_another_name_for_this_machine_is_refused(served: Served, host: str) -> None:
    assert served.get(Host=host).status == 403
    assert served.post("vote", "pair=1&choice=tie", Host=host).status == 403
    assert served.votes.choices == {}


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://127.0.0.1"])
def test_only_the_page_itself_may_vote(served: Served, origin: str) -> None:
    for page in ("vote", "undo", "reveal"):
        assert served.post(page, "pair=1&choice=tie", Origin=origin).status == 403
    assert served.votes.choices == {}
    assert not served.votes.closed


@pytest.mark.parametrize(
    "path",
    ["/", "/overview", "/vote", "//", "/x/overview", "/ü/", "ROOT../README.md", "ROOTblind.html", "ROOT/etc/passwd",
     "ROOT%2e%2e/blind.py", "ROOTpair/0", "ROOTpair/6", "ROOTpair/-1", "ROOTpair/1/", "ROOTpair/²", "ROOTfavicon.ico"],
)  # fmt: skip
def test_nothing_else_is_served(served: Served, path: str) -> None:
    asked = path.replace("ROOT", served.server.root).encode().decode("latin-1")
    link = http.client.HTTPConnection("127.0.0.1", served.server.server_address[1], timeout=20)
    link._validate_path = lambda url: None  # type: ignore[attr-defined]
    link._encode_request = lambda request: request.encode("latin-1")  # type: ignore[attr-defined]
    link.request("GET", asked, headers={"Host": served.server.hosts[0]})
    reply = link.getresponse()
    assert (reply.status, reply.read()) == (404, b"there is no such page\n")
    link.close()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("pair=1&choice=c", {}, 400),
        ("pair=1", {}, 400),
        ("choice=tie", {}, 404),
        ("pair=9&choice=tie", {}, 404),
        ("nonsense", {}, 400),
        ("a=1&b=2&c=3&d=4&e=5", {}, 400),
        ("pair=1&choice=" + "x" * LONGEST_FORM, {}, 413),
        ("", {"Content_Length": "9" * 30}, 413),
        ("", {"Content_Length": "-1"}, 411),
        ("", {"Content_Length": "1_0"}, 411),
    ],
)
def test_what_is_no_vote_is_refused_and_changes_nothing(
    served: Served, body: str, headers: dict[str, str], status: int
) -> None:
    assert served.post("vote", body, **headers).status == status
    assert served.votes.choices == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_not_there(served: Served, method: str) -> None:
    assert served.ask(method, served.server.root).status == 501


def test_a_vote_that_cannot_be_written_is_said_and_does_not_count(served: Served) -> None:
    served.votes.path.unlink()
    served.votes.path.mkdir()
    reply = served.post("vote", "pair=1&choice=tie")
    assert (reply.status, reply.text) == (500, "Not saved: Is a directory\n")
    assert served.votes.choices == {}


def test_it_listens_on_loopback_alone(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    assert len(served.server.root) > 20
