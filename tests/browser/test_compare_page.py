"""The page that `compare --out` writes, in a browser without a network: light, dark, on paper, and its blind form."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from phasegpt.compare import compare
from phasegpt.compare_page import page as html
from tests.browser.conftest import Open
from tests.phasegpt.test_compare import SCORES, judged

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=[False, True], ids=["open", "blind"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    found = compare(judged("left", 0), judged("right", 1), "final", seed=3 if request.param else None)
    path.write_text(html(found, blind=request.param), encoding="utf-8")
    return path


def ground(page: "Page") -> int:
    """How light the page is, from 0 to 765."""
    return int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
                             ".map(Number).reduce((a, b) => a + b)"))  # fmt: skip


@pytest.mark.parametrize(("scheme", "low", "high"), [("light", 700, 765), ("dark", 0, 150)])
def test_it_opens_without_a_network_as_light_or_dark_as_the_reader_has_it(
    open_page: Open, file: Path, scheme: str, low: int, high: int
) -> None:
    page = open_page(offline=True, color_scheme=scheme, viewport={"width": 390, "height": 844})
    page.goto(file.as_uri())
    assert low <= ground(page) <= high
    assert page.get_by_role("article").count() == len(SCORES)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_paper_it_is_dark_on_light_and_whole(open_page: Open, file: Path) -> None:
    page = open_page(offline=True, color_scheme="dark")
    page.goto(file.as_uri())
    page.emulate_media(media="print", color_scheme="light")
    assert ground(page) >= 700
    assert page.pdf().startswith(b"%PDF")
    assert page.get_by_role("article").last.is_visible()


@pytest.mark.parametrize("file", [True], indirect=True, ids=["blind"])
def test_the_key_of_the_blind_page_counts_what_was_picked(open_page: Open, file: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(offline=True)
    page.goto(file.as_uri())
    assert not page.get_by_text("runs/left").is_visible()
    for article in page.get_by_role("article").all():
        article.get_by_role("radio").last.check()
    page.get_by_role("article").first.get_by_role("radio", name="answer 1").check()
    page.get_by_text("Key", exact=True).click()
    first = compare(judged("left", 0), judged("right", 1), "final", seed=3).prompts[0].first
    said = f"You picked A {int(first == 'a')} times and B {int(first == 'b')} times; ties: {len(SCORES) - 1}."
    expect(page.locator("#picks")).to_have_text(said)  # it is counted after the key has opened
    assert page.get_by_text("runs/left").is_visible()
