"""SIGTERM and Ctrl-C, once and twice: no process, lock or half file is left, and the command that goes on is said."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from phasegpt.files import STAGE
from tests.faults.invariants import broken
from tests.faults.place import PATIENCE, ROOT, Place, ended, new_search, until
from tests.faults.test_killed_driver import place  # noqa: F401 - a fixture

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
TRIALS = 5


def again(err: str) -> list[str]:
    """The command that was printed last."""
    return shlex.split(err.strip().splitlines()[-1])


def half_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if STAGE.fullmatch(path.name)]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("told", "times"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1), (signal.SIGINT, 2)]
)
def test_a_search_that_is_told_to_stop_leaves_nothing_but_the_command_that_goes_on(
    place: Place,  # noqa: F811 - the fixture
    told: signal.Signals,
    times: int,
) -> None:
    process = place.start(*new_search(TRIALS, "--sampler", "random", "--max-concurrent", "2"))
    place.wait_for(process, 4, 0.1)
    for _ in range(times):
        os.killpg(process.pid, told) if told == signal.SIGINT else process.send_signal(told)
        time.sleep(0.5)
    status, err = ended(process)
    assert status == 130, err
    assert "Traceback" not in err
    until(lambda: not place.left(), 30)
    assert place.left() == []
    assert half_files(place.folder) == []
    with FileLock(place.folder / "experiments/v14/track_b/killed/driver.lock", timeout=0):
        pass
    words = again(err)
    assert words[:5] == ["python", "-m", "tune.search", "--track", "b"]
    status, err = ended(place.start(*words[5:]))
    assert status == 0, err
    assert broken(place.folder, "killed", TRIALS) == []


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_leaves_nothing_but_the_command_that_goes_on(
    toy_sets: list[str], tmp_path: Path, told: signal.Signals
) -> None:
    sets = [*toy_sets, "training.max_steps=30"]
    words = ["train.py", "--config", "configs/v14/kto_regularized.yaml", "--storage", str(tmp_path)]
    words += ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--profile", "laptop"]
    words += [word for value in sets for word in ("--set", value)]
    process = started(words)
    checkpoints = tmp_path / "checkpoints/v14/track_b"
    until(lambda: bool(list(checkpoints.glob("*/checkpoint-2/complete.json"))) or process.poll() is not None)
    process.send_signal(told)
    status, err = ended(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert half_files(tmp_path) == []
    command = again(err)
    assert command[:2] == ["python", "train.py"]
    status, err = ended(started(command[1:]), PATIENCE)
    assert status == 0, err
    assert "step 1  loss" not in err
    assert "step 2  loss" not in err
    assert len(list(checkpoints.iterdir())) == 1


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
