"""A real browser: Debian's Chromium, driven by playwright, which fetches none of its own. Skipped where one is missing.

With PHASEGPT_DOCS_IMAGES set, the screenshots that docs/images has are taken anew.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

ROOT = Path(__file__).parents[2]
PATIENCE = 120_000
"""Milliseconds until something that should appear is missed: the machine may be busy."""

ARGUMENTS = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-gpu"]
Open = Callable[..., "Page"]
Shoot = Callable[["Page", str], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a test of the marker `browser`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """One Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else ARGUMENTS
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Opens pages: words are those of a browser context (viewport, color_scheme, …).

    At the end no page may have thrown, asked for anything but this machine, or written an error to its console, save
    those that contain one of what it `forgives`.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    contexts, wrong = [], list[str]()

    def make(*, forgives: Sequence[str] = (), **words: object) -> "Page":
        def console(said: "ConsoleMessage") -> None:
            text = f"{said.text} ({said.location['url']})"
            if said.type == "error" and not any(known in text for known in forgives):
                wrong.append(text)

        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | words))  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"thrown: {error}"))
        page.on("console", console)
        page.on("request", lambda asked: wrong.append(f"asked: {asked.url}") if is_abroad(asked.url) else None)
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def is_abroad(url: str) -> bool:
    """Whether an address is neither on this machine nor in the page itself."""
    return not url.startswith(("http://127.0.0.1:", "http://localhost:", "file:", "data:", "blob:", "about:"))


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Keeps a picture of what a page shows."""

    def keep(page: "Page", name: str) -> Path:
        shown = ROOT / "docs" / "images" / f"{name}.png"
        picture = shown if os.environ.get("PHASEGPT_DOCS_IMAGES") and shown.exists() else tmp_path / shown.name
        page.screenshot(path=picture)
        assert picture.stat().st_size > 5000
        return picture

    return keep
