"""Two models side by side: differences worked by hand, and a page that says the same and gives nothing away."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from phasegpt.compare import Comparison, compare
from phasegpt.compare_page import page
from phasegpt.evaluation_report import comparison_text
from phasegpt.judged import Judged

SCORES = {"p1": (0.1, 0.6), "p2": (0.2, 0.6), "p3": (0.3, 0.8), "p4": (0.4, 0.9), "p5": (0.5, 0.95), "p6": (0.6, 0.9)}


def judged(name: str, side: int) -> Judged:
    """Six answers and three pairs: side 1 has more spiral_score in each, as much repetition, more eval_loss."""
    rows: list[dict[str, float | str]] = [
        {
            "id": key,
            "domain": "science",
            "prompt": f"What of <{key}>?",
            "answer": f"{name} says <b>{key}</b> & more",
            "spiral_score": values[side],
            "repetition": 0.1,
            "own:metric": -values[side],
        }
        for key, values in SCORES.items()
    ]
    pairs: list[dict[str, float | str]] = [
        {"id": f"q{n}", "eval_loss": 0.5 + 0.1 * n + side * (0.2 + 0.01 * n)} for n in range(3)
    ]
    return Judged(f"runs/{name}", "toy", tuple(rows), tuple(pairs), 20.0 + side)


@pytest.fixture
def found() -> Comparison:
    return compare(judged("left", 0), judged("right", 1), "final", ["A note with <angles>."])


def test_differences_are_b_minus_a_over_the_same_prompts(found: Comparison) -> None:
    by_name = {difference.metric: difference for difference in found.differences}
    assert list(by_name) == ["spiral_score", "repetition", "own:metric", "eval_loss", "perplexity"]
    spiral = by_name["spiral_score"]
    assert spiral.mean == pytest.approx((0.5 + 0.4 + 0.5 + 0.5 + 0.45 + 0.3) / 6)
    assert spiral.interval is not None
    assert spiral.interval.low < spiral.mean < spiral.interval.high
    assert spiral.interval.n == 6


def test_the_verdict_follows_the_direction_of_the_metric(found: Comparison) -> None:
    said = {d.metric: (d.verdict, d.wins and d.wins.rate) for d in found.differences}
    assert said == {
        "spiral_score": ("B is better", 1.0),
        "repetition": ("not distinguishable", 0.5),
        "own:metric": ("B is lower", 0.0),
        "eval_loss": ("A is better", 0.0),
        "perplexity": ("one number, no interval", None),
    }


def test_a_metric_of_ones_own_follows_what_it_declares() -> None:
    a, b = (replace(judged(name, side), better={"own:metric": "min"}) for side, name in enumerate(("a", "b")))
    own = next(d for d in compare(a, b, "final").differences if d.metric == "own:metric")
    assert own.wins is not None
    assert (own.verdict, own.wins.rate) == ("B is better", 1.0)


def test_a_single_pair_has_no_interval() -> None:
    a, b = (replace(judged("x", side), pairs=judged("x", side).pairs[:1]) for side in (0, 1))
    loss = next(d for d in compare(a, b, "final").differences if d.metric == "eval_loss")
    assert (loss.interval, loss.wins) == (None, None)
    assert loss.mean == pytest.approx(0.2)


def test_the_terminal_shows_every_metric_in_a_line(found: Comparison) -> None:
    lines = comparison_text(found, blind=False).splitlines()
    assert lines[:3] == ["A: runs/left on toy", "B: runs/right on toy", "6 prompts of the final half"]
    assert lines[4].split()[:4] == ["spiral_score", "0.35", "0.7917", "+0.4417"]
    assert lines[-1] == "A note with <angles>."


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds: its tags with attributes, whether every tag is closed, and the text outside style and script.

    `before_key` is the text up to the details element.
    """

    VOID = frozenset({"meta", "input", "br", "line", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.before_key = "", ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "details":
            self.before_key = self.text
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_shows_prompts_answers_scores_and_metrics(found: Comparison) -> None:
    shown = Page(page(found))
    assert len(shown.all("article")) == 6
    for key in SCORES:
        assert f"What of <{key}>?" in shown.text
        assert f"left says <b>{key}</b> & more" in shown.text
        assert f"right says <b>{key}</b> & more" in shown.text
    for difference in found.differences:
        assert f"{difference.mean:+.3g}" in shown.text
    assert "A note with <angles>." in shown.text
    assert shown.all("b") == []


def test_each_interval_is_a_bar_on_the_true_side_of_zero(found: Comparison) -> None:
    shown = Page(page(found))
    middle = float(str(shown.all("svg")[0]["width"])) / 2
    bars = [line for line in shown.all("line") if line.get("class") == "bar"]
    low, high = (float(str(bars[0][end])) for end in ("x1", "x2"))
    assert middle < low < high
    low, high = (float(str(bars[2][end])) for end in ("x1", "x2"))
    assert low < high < middle
    assert len(bars) == sum(difference.interval is not None for difference in found.differences)


@pytest.mark.parametrize("blind", [False, True])
def test_the_page_needs_nothing_else(found: Comparison, blind: bool) -> None:
    html = page(found, blind=blind)
    assert not re.search(r"https?:|\bsrc=|\bhref=|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html
    assert Page(html).all("script") == ([{}] if blind else [])


def test_a_blind_page_names_nothing_before_its_key() -> None:
    found = compare(judged("left", 0), judged("right", 1), "final", ["runs/left was read."], seed=3)
    shown = Page(page(found, blind=True))
    assert not re.search(r"runs/|was read|spiral_score|\bA\b|\bB\b", shown.before_key)
    assert "runs/left" in shown.text.removeprefix(shown.before_key)
    picks = [(str(radio["name"]), str(radio["value"])) for radio in shown.all("input")]
    assert len(picks) == 18
    assert {value for _, value in picks} == {"a", "b", "tie"}


def test_a_blind_page_puts_each_side_first_in_half_of_the_prompts_by_the_seed() -> None:
    orders = [
        tuple(p.first for p in compare(judged("left", 0), judged("right", 1), "final", seed=seed).prompts)
        for seed in (1, 1, 2, 3)
    ]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 1
    assert all(order.count("b") == 3 for order in orders)


def test_what_a_blind_page_shows_first_is_what_its_key_says() -> None:
    found = compare(judged("left", 0), judged("right", 1), "final", seed=3)
    html = page(found, blind=True)
    for prompt in found.prompts:
        article = html[html.index(f'<article id="{prompt.id}">') :].partition("</article>")[0]
        first = re.search(r"Answer 1</strong>\s*<p>(\w+) says", article)
        assert first is not None
        assert first[1] == ("left" if prompt.first == "a" else "right")
        assert re.findall(r'value="(\w+)"> answer (\d)', article)[0] == (prompt.first, "1")
