"""A blind judgement as a judge does it: by keyboard, with a second thought, a reload and a break, to the reveal."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from phasegpt.blind import Ballot, read_votes, voting
from phasegpt.compare import Comparison, SideBySide
from phasegpt.config_io import project_root
from phasegpt.judged import Judged
from tests.browser.conftest import PATIENCE, Open, Shoot
from tests.phasegpt.ballots import SECRETS, ballot

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(600)


class Judging:
    """`compare --votes FILE --blind --json` as it runs."""

    def __init__(self, path: Path) -> None:
        words = ["compare", "--votes", str(path), "--blind", "--json", "--no-open"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phasegpt", *words],
            cwd=project_root(), env=os.environ | {"PYTHONUNBUFFERED": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.counted = self.process.stderr.readline()
        self.address = self.process.stderr.readline().removeprefix("Judge at ").strip()

    def end(self, status: int) -> str:
        """What it printed until it ended with `status`."""
        out, err = self.process.communicate(timeout=PATIENCE / 1000)
        assert self.process.returncode == status, err
        return out

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


@pytest.fixture
def judge() -> Iterator[Callable[[Path], Judging]]:
    started: list[Judging] = []

    def start(path: Path) -> Judging:
        started.append(Judging(path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        with one.process:  # closes its pipes
            pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A judgement that nobody has begun."""
    with voting(tmp_path / "votes.jsonl", ballot(1)) as votes:
        return votes.path


def heading(page: "Page", text: str) -> None:
    """Wait for the text to be the heading, and for focus to be on it."""
    from playwright.sync_api import expect

    expect(page.locator("h1")).to_have_text(text)
    expect(page.locator("h1")).to_be_focused()


def test_a_judge_votes_by_keyboard_thinks_again_takes_a_break_and_learns_the_names(
    open_page: Open, judge: Callable[[Path], Judging], path: Path
) -> None:
    from playwright.sync_api import expect

    pairs = read_votes(path).ballot.pairs
    page, first = open_page(forgives=["ERR_CONNECTION_REFUSED"]), judge(path)
    page.goto(first.address)
    said = page.get_by_role("status")
    for place, (key, word) in enumerate([("1", "answer 1 is better"), ("ArrowRight", "answer 2 is better")]):
        heading(page, pairs[place].prompt)
        page.keyboard.press(key)
        expect(said).to_contain_text(f"Last: pair {place + 1}, {word}")
    heading(page, pairs[2].prompt)
    page.keyboard.press("Space")
    heading(page, pairs[3].prompt)
    page.keyboard.press("u")
    heading(page, pairs[2].prompt)
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "2")
    page.reload()
    heading(page, pairs[2].prompt)
    page.keyboard.press("2")
    heading(page, pairs[3].prompt)
    assert [secret for secret in SECRETS if secret in page.content()] == []
    first.interrupt()
    assert first.end(130) == ""
    page.keyboard.press("s")
    expect(said).to_contain_text("Not saved: the command has ended")
    assert read_votes(path).choice(2) == "second"
    assert len(read_votes(path).choices) == 3

    page, again = open_page(), judge(path)
    assert again.counted == f"{path}: 3 of 5 pairs judged\n"
    page.goto(again.address)
    heading(page, pairs[3].prompt)
    page.keyboard.press("s")
    heading(page, pairs[4].prompt)
    page.keyboard.press("=")
    heading(page, "All pairs are judged")
    page.get_by_role("button", name="Reveal the names and end").click()
    heading(page, "Your votes do not tell A and B apart")
    found = json.loads(again.end(0))
    for secret in SECRETS:
        assert secret in page.inner_text("main")
    assert f"sign test p = {found['preference']['p']:.3g}" in page.inner_text("main")
    expected = {"first": 1, "second": 2, "tie": 1, "skip": 1}
    votes = read_votes(path)
    assert {c: [votes.choice(n) for n in range(5)].count(c) for c in expected} == expected
    assert (found["wins"] + found["losses"], found["ties"], found["skipped"], found["alike"]) == (3, 2, 1, 1)


def test_keys_that_are_held_and_keys_behind_the_help_do_not_vote(
    open_page: Open, judge: Callable[[Path], Judging], path: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page()
    page.goto(judge(path).address)
    pairs = read_votes(path).ballot.pairs
    heading(page, pairs[0].prompt)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Control+2")
    assert read_votes(path).choices == {}
    page.keyboard.down("1")
    page.keyboard.down("1")  # as the keyboard repeats it
    heading(page, pairs[1].prompt)
    page.keyboard.up("1")
    page.keyboard.press("o")
    heading(page, "Overview")
    expect(page.get_by_role("listitem").first).to_contain_text("answer 1 is better")
    page.keyboard.press("Enter")
    heading(page, pairs[1].prompt)
    assert len(read_votes(path).choices) == 1


def test_a_vote_is_changed_from_the_overview(open_page: Open, judge: Callable[[Path], Judging], path: Path) -> None:
    from playwright.sync_api import expect

    page = open_page()
    page.goto(judge(path).address)
    pairs = read_votes(path).ballot.pairs
    page.keyboard.press("1")
    heading(page, pairs[1].prompt)
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name=pairs[0].prompt).click()
    expect(page.get_by_role("button", pressed=True)).to_contain_text("Answer 1 is better")
    page.get_by_role("button", name="Answer 2 is better").click()
    heading(page, pairs[1].prompt)
    assert read_votes(path).choice(0) == "second"


def test_without_scripts_the_forms_vote_as_well(open_page: Open, judge: Callable[[Path], Judging], path: Path) -> None:
    page, running = open_page(java_script_enabled=False), judge(path)
    page.goto(running.address)
    for _ in range(5):
        page.get_by_role("button", name="Answer 1 is better").click()
    page.get_by_role("button", name="Reveal the names and end").click()
    assert "runs/left" in page.inner_text("main")
    running.end(0)
    assert len(read_votes(path).choices) == 5


def written(path: Path) -> Path:
    """A judgement of real prose: chosen and rejected answers of the shipped pairs."""
    source = project_root() / "data" / "preferences_v14_100pairs.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()[::9]]
    prompts = tuple(
        SideBySide(r["id"], r["domain"], r["prompt"], r["rejected"], r["chosen"], {"spiral_score": (0.2, 0.6)}, "a")
        for r in rows
    )
    sides = (Judged(name, "SmolLM2-135M-Instruct") for name in ("base", "models:/phasegpt-track-b/1"))
    with voting(path, Ballot.of(Comparison(*sides, "final", (), prompts), 0)) as votes:
        return votes.path


WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize(("name", "size", "scheme"), [("blind", WIDE, "light"), ("blind-phone", PHONE, "dark")])
def test_answers_stand_beside_each_other_or_on_a_phone_one_below_the_other(
    open_page: Open, judge: Callable[[Path], Judging], tmp_path: Path, shoot: Shoot, name: str, size: Any, scheme: str
) -> None:
    page = open_page(**size, color_scheme=scheme)
    path = written(tmp_path / "v.jsonl")
    page.goto(judge(path).address)
    pairs = read_votes(path).ballot.pairs
    for pair in pairs[:3]:
        heading(page, pair.prompt)
        page.keyboard.press("1")
    heading(page, pairs[3].prompt)
    left, right = (page.get_by_role("heading", name=f"Answer {n}").bounding_box() for n in (1, 2))
    assert left is not None
    assert right is not None
    assert (left["y"] == right["y"]) == (size is WIDE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert all(lies_within(page, button) for button in ("Answer 1 is better", "Answer 2 is better", "Neither"))
    shoot(page, name)
    for pair in pairs[3:]:
        heading(page, pair.prompt)
        page.get_by_role("button", name="Answer 2 is better").click()
    page.get_by_role("button", name="Reveal the names and end").click()
    heading(page, "Your votes do not tell A and B apart")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if size is WIDE:
        shoot(page, f"{name}-result")


def lies_within(page: "Page", button: str) -> bool:
    """Whether a button is to be seen without scrolling."""
    return bool(
        page.get_by_role("button", name=button).evaluate("b => b.getBoundingClientRect().bottom <= innerHeight")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_is_asked_of_it(
    open_page: Open, judge: Callable[[Path], Judging], path: Path, scheme: str
) -> None:
    page, running = open_page(color_scheme=scheme), judge(path)
    page.goto(running.address)
    page.keyboard.press("1")
    heading(page, read_votes(path).ballot.pairs[1].prompt)
    page.goto(f"{running.address}pair/1")
    assert page.evaluate(POOREST) >= 4.5
    page.goto(f"{running.address}overview")
    assert page.evaluate(POOREST) >= 4.5


POOREST = """() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => { const c = numbers(getComputedStyle(e).backgroundColor);
    return c.length === 4 && c[3] === 0 ? (e.parentElement ? ground(e.parentElement) : [255, 255, 255]) : c; };
  const ratios = [...document.querySelectorAll("main *:not(:disabled)")].filter(e => e.innerText?.trim()).map(e => {
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); });
  return Math.min(...ratios);
}"""
"""The least contrast of any text on the page, as WCAG 2 computes it."""
