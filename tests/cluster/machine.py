"""A cluster on this machine for tests: started and asked by the commands that people type, as processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Machine:
    """What is known to a user whose $PHASEGPT_CACHE is `cache`. PYTHONPATH is unset: jobs bring their own code."""

    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        """That of every command; without what this process knows of other clusters."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_")) and k != "PYTHONPATH"}
        own = {"PHASEGPT_CACHE": str(self.cache), "HOME": str(self.cache)}  # at home Ray may have left a token
        return {**kept, **own, "RAY_worker_niceness": "0"}

    @property
    def storage(self) -> Path:
        """Where searches write."""
        return self.cache / "cluster" / "storage"

    def local(self, *words: str, patience: float = 240) -> Done:
        """`python -m cluster.local`."""
        return self._run(["-m", "cluster.local", *words], patience)

    def submit(self, *words: str, module: str = "tests.noop", patience: float = 240) -> Done:
        """`python -m cluster.submit` of searches whose jobs `module` has."""
        return self._run(submit_command(module, *words), patience)

    def begin(self, *words: str, module: str = "tests.noop") -> subprocess.Popen[str]:
        """The same, not waited for."""
        return self._begin(submit_command(module, *words))

    def begin_local(self, *words: str) -> subprocess.Popen[str]:
        """`python -m cluster.local`, not waited for."""
        return self._begin(["-m", "cluster.local", *words])

    def jobs(self) -> list[dict[str, Any]]:
        """What `list --json` says."""
        found: list[dict[str, Any]] = json.loads(self.submit("list", "--json").stdout)
        return found

    def state(self) -> dict[str, Any]:
        """The state file."""
        found: dict[str, Any] = json.loads((self.cache / "cluster" / "state.json").read_text())
        return found

    def processes(self) -> list[psutil.Process]:
        """Its processes, found another way than the product does: all descendants of the roots."""
        roots = [psutil.Process(root["pid"]) for root in self.state()["roots"]]
        return [*roots, *(child for root in roots for child in root.children(recursive=True))]

    def _begin(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _run(self, words: list[str], patience: float) -> Done:
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False,
            timeout=patience,
        )  # fmt: skip


def submit_command(module: str, *words: str) -> list[str]:
    """Words for Python: the command, with jobs of `module`."""
    return ["-c", f"import sys; from cluster.submit import main; sys.exit(main(sys.argv[1:], {module!r}))", *words]


def alive(processes: list[psutil.Process]) -> list[str]:
    """The command lines of those that live still; psutil tells a process from a later one of its number."""
    return [" ".join(p.cmdline()) for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def until(true: Callable[[], object], patience: float = 150) -> None:
    """Wait for something to become true; fails when it does not."""
    end = time.monotonic() + patience
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    assert true()
