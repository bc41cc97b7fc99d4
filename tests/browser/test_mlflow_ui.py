"""What `make ui` shows of a search: its runs one below the other, a curve, pictures, the search box, a comparison."""

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import ROOT, Open, Shoot

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [
    pytest.mark.timeout(900),
    # MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates; the warning is MLflow's to heed.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

NAME = "shown"
UP = 300
"""Seconds until the server or the search is missed."""

MLFLOWS_OWN = ["users/current", "ResizeObserver loop"]
"""What MLflow's pages write to the console by themselves: who is logged in (nobody), and charts that are laid out."""


@dataclass(frozen=True)
class Served:
    """A search in a folder of its own and the UI on it."""

    address: str
    folder: Path

    def runs(self, query: str = "") -> dict[str, Any]:
        """{name: MLflow run}, those that the query finds."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("phasegpt-v14")
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], query)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, toy_sets: list[str]) -> Path:
    """The folder of a toy search of six trials."""
    folder = tmp_path_factory.mktemp("store")
    sets = [*toy_sets, "evaluation.eval_interval=1", "search.finalists={count: 1, seeds: 1}", "search.trials=6"]
    words = ["--track", "b", "--profile", "laptop", "--name", NAME, "--storage", str(folder), "--cpus-per-worker", "1"]
    words += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db", *(w for text in sets for w in ("--set", text))]
    command = [sys.executable, "-m", "tune.search", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=UP, check=False)
    assert done.returncode == 0, done.stderr
    assert f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db --host 127.0.0.1" in done.stderr
    return folder


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[Served]:
    """`make ui` on that folder. Its rule that makes .venv is left out: the packages are those of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["make", "-o", f"{sys.prefix}/.ready", "ui", f"VENV={sys.prefix}", f"PORT={port}", f"STORE={store}"]
    log = (store / "ui.log").open("w")
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with log, subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True) as ui:
        try:
            wait_for(lambda: ui.poll() is not None or answers(f"http://127.0.0.1:{port}/"))
            assert ui.poll() is None, (store / "ui.log").read_text()
            yield Served(f"http://127.0.0.1:{port}/", store)
        finally:
            if ui.poll() is None:
                os.killpg(ui.pid, signal.SIGTERM)


def wait_for(true: Callable[[], bool]) -> None:
    patience = time.monotonic() + UP
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.2)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:  # noqa: S310 - our own http address
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.fixture
def page(served: Served, open_page: Open) -> "Page":
    """The training runs of the experiment, found from the first page on."""
    page = open_page(forgives=MLFLOWS_OWN, viewport={"width": 1440, "height": 900})
    page.goto(served.address)
    experiment = page.get_by_role("link", name="phasegpt-v14").first.get_attribute("href")
    page.goto("about:blank")
    page.goto(f"{served.address}{experiment}/runs")
    link(page, NAME).wait_for()
    close = page.get_by_role("button", name="Close", exact=True)  # an assistant of MLflow's own
    if close.is_visible():
        close.click()
    return page


def link(page: "Page", run: str) -> "Locator":
    return page.get_by_role("link", name=run, exact=True)


def trial(page: "Page", number: int) -> "Locator":
    """The link of a trial, whose name goes on with its values."""
    return page.get_by_role("link", name=re.compile(rf"^trial-{number:03d} "))


def expand(page: "Page") -> None:
    """Show the runs of the search below it."""
    row = page.get_by_role("row").filter(has=link(page, NAME))
    row.get_by_role("button").first.click()
    trial(page, 0).wait_for()


def test_the_search_box_finds_trials_by_metric_and_track(served: Served, page: "Page", shoot: Shoot) -> None:
    from playwright.sync_api import expect

    losses = [run.data.metrics["eval_loss"] for run in served.runs("tags.kind = 'trial'").values()]
    assert len(losses) == 6
    query = f"metrics.spiral_score >= 0 and metrics.eval_loss < {statistics.median(losses)} and tags.track = 'b'"
    found = served.runs(query)
    expand(page)
    shoot(page, "mlflow-runs")
    box = page.get_by_test_id("search-box")
    box.fill(query)
    box.press("Enter")
    expect(page.get_by_text(f"{len(found)} matching runs")).to_be_visible()
    for name in served.runs():
        shown = link(page, name)
        expect(shown).to_be_visible() if name in found else expect(shown).to_have_count(0)
    assert 3 <= len(found) < len(served.runs())


def test_a_trial_shows_the_curve_of_its_loss(page: "Page", shoot: Shoot) -> None:
    from playwright.sync_api import expect

    expand(page)
    trial(page, 1).click()
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("eval/eval_loss")
    expect(page.get_by_text(re.compile(r"^trial-001 .*\(eval/eval_loss\)"))).to_be_visible()
    curve = page.locator(".js-plotly-plot path.js-line").first
    expect(curve).to_be_visible()
    assert (curve.get_attribute("d") or "").count("L") + 1 == 4  # an evaluation a step
    shoot(page, "mlflow-curve")


def test_the_search_keeps_its_report(page: "Page", shoot: Shoot) -> None:
    link(page, NAME).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report", exact=True).click()
    page.get_by_text("report.html", exact=True).click()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Finalists").wait_for()
    assert report.locator("svg").count() > 3
    shoot(page, "mlflow-report")


def test_the_search_keeps_its_pictures(page: "Page", shoot: Shoot) -> None:
    link(page, NAME).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("insight", exact=True).click()
    page.get_by_text("map.png", exact=True).click()
    picture = page.get_by_role("img", name="insight/map.png")
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('img[alt=\"insight/map.png\"]').naturalWidth > 300")
    shoot(page, "mlflow-insight")


def test_trials_are_compared_in_parallel_coordinates(page: "Page", shoot: Shoot) -> None:
    from playwright.sync_api import expect

    expand(page)
    page.get_by_role("checkbox", name="Select all runs").check()
    page.get_by_test_id("runs-compare-button").click()
    expect(page.get_by_role("heading", name="Comparing")).to_be_visible()
    expect(page.locator(".js-plotly-plot .parcoords").first).to_be_attached()
    shoot(page, "mlflow-compare")
