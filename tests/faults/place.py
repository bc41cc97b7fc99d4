"""A folder in which one search runs, as processes of its own that are told by a mark, and what can be done to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.noop import BEGUN
from tests.processes import MARK, marked

ROOT = Path(__file__).parents[2]
PATIENCE = 800
"""Seconds; the machine may be busy."""
SETS = [
    "search.objectives={eval_loss: min}",
    "search.constraints={perplexity: '<= 2 * baseline'}",
    "search.finalists={count: 2, seeds: 1}",
    "search.parameters={training.beta: {loguniform: [0.01, 1.0], grid: [0.02, 0.05, 0.3, 0.5, 0.9]}}",
    "training.max_steps=3",
    "evaluation.eval_interval=1",
]


def new_search(trials: int, *words: str, name: str = "killed") -> list[str]:
    """The options of a search of so many trials."""
    sets = [word for value in SETS for word in ("--set", value)]
    return ["--name", name, "--profile", "laptop", "--trials", str(trials), *sets, *words]


@dataclass(frozen=True)
class Place:
    """A folder for one search, and the processes that carry its mark; `module` has the command and its jobs."""

    folder: Path
    mark: str
    module: str = "tests.noop"
    uri: str = ""
    paths: tuple[str, ...] = ()

    @property
    def mlflow(self) -> str:
        """The address of its MLflow: a database in the folder where no other is named."""
        return self.uri or f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The command with these options."""
        environment = {**os.environ, MARK: self.mark, "PYTHONPATH": os.pathsep.join((*self.paths, str(ROOT)))}
        command = [sys.executable, "-m", self.module, "--track", "b", "--storage", str(self.folder)]
        return subprocess.Popen(
            [*command, "--tracking-uri", self.mlflow, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    def begun(self) -> list[str]:
        """A line for each job that began."""
        log = self.folder / BEGUN
        return log.read_text().splitlines() if log.is_file() else []

    def left(self) -> list[str]:
        """The command lines of processes that carry the mark."""
        return marked(self.mark)

    def wait_for(self, process: subprocess.Popen[str], jobs: int, delay: float) -> None:
        """Until a while after so many jobs have begun in all, or the process has ended."""
        until(lambda: len(self.begun()) >= jobs or process.poll() is not None)
        time.sleep(delay)

    def kill_after(self, process: subprocess.Popen[str], jobs: int, delay: float) -> None:
        """SIGKILL the driver a while after so many jobs have begun in all; then wait until its Ray has gone too."""
        self.wait_for(process, jobs, delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        until(lambda: not self.left())
        assert self.left() == []


def until(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something is so, or patience has run out."""
    end = time.monotonic() + patience
    while not true() and time.monotonic() < end:
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], patience: float = PATIENCE) -> tuple[int, str]:
    """The exit status and stderr of a process, which is killed where it hangs."""
    try:
        _, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        return -1, f"it hung; {err}"
    return process.returncode, err


def last_line(words: Sequence[str] | str) -> str:
    """The end of what a process said."""
    return (words if isinstance(words, str) else "\n".join(words)).strip()[-300:]
