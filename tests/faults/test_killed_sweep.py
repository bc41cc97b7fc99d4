"""A driver that is killed with SIGKILL while it removes checkpoints: the search ends as an undisturbed one, swept."""

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from phasegpt.files import read_json
from tests.faults.place import PATIENCE, SETS, Place
from tests.faults.test_killed_driver import check, place  # noqa: F401 - a fixture

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(900)]
TRIALS = 5
TOP = Path("checkpoints/v14/track_b/killed")


def being_removed(folder: Path) -> list[Path]:
    return list((folder / TOP).glob("*/.checkpoint-1.gone"))


def killed_in_the_middle(at: Place, process: subprocess.Popen[str]) -> bool:
    """Kill the driver as soon as it removes something; whether it was in the middle of that."""
    patience = time.monotonic() + PATIENCE
    while not being_removed(at.folder) and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    while at.left() and time.monotonic() < patience:
        time.sleep(0.1)
    assert at.left() == []
    return bool(being_removed(at.folder))


def test_a_search_whose_driver_is_killed_in_the_middle_of_a_removal_ends_as_an_undisturbed_one(
    place: Place,  # noqa: F811 - the fixture
) -> None:
    place = replace(place, module="tests.noop_files")
    words = [word for value in SETS for word in ("--set", value)]
    words += ["--profile", "laptop", "--trials", str(TRIALS), "--sampler", "random", "--max-concurrent", "2"]
    process = place.start("--name", "killed", *words)
    assert killed_in_the_middle(place, process)
    process = place.start("--resume", "killed")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    check(place, TRIALS)
    there = {path.parent.name for path in (place.folder / TOP).glob("*/*") if path.is_dir()}
    finals = {path.name for path in (place.folder / TOP).glob("final-*")}
    assert there == finals | {f"trial-{name.split('-')[1]}" for name in finals}
    assert {path.name for path in (place.folder / TOP).glob("*/*") if path.is_dir()} == {"adapter_model"}
    disk = read_json(place.folder / "results/v14/track_b/killed.json")["disk"]
    assert disk["freed_bytes"] > 0
    assert disk["kept"] == sorted(there)
