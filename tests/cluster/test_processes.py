"""Processes of our own are found and ended with all that they started, and no other process is."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.processes import MARK, alive, end, kill_session, launch, members
from cluster.state import LocalCluster, Root

CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(100)"
SLEEP = "import time; time.sleep(100)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(100)"
APART = "import os, time; os.setsid(); time.sleep(100)"
"""Leaves the session, as the driver of a job does."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster without processes; what a test starts under its mark is ended."""
    found = LocalCluster(f"test-{os.getpid()}-{time.monotonic_ns()}", "", "", "", "", "", psutil.boot_time())
    yield found
    end(found, 0.1)


def started(cluster: LocalCluster, program: str, log: Path, *, marked: bool = True) -> Root:
    environment = {**os.environ, **({MARK: cluster.mark} if marked else {})}
    return launch("test", [sys.executable, "-c", program], environment, log)


def until(true: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not true() and time.monotonic() < patience:
        time.sleep(0.05)
    assert true()


def test_a_root_and_its_children_end_together(cluster: LocalCluster, tmp_path: Path) -> None:
    root = started(cluster, CHILD.format(child=SLEEP), tmp_path / "log")
    cluster = cluster.with_root(root)
    until(lambda: len(members(cluster)) == 2)
    end(cluster, 1.0)
    assert members(cluster) == []
    assert not alive(root)


def test_a_child_whose_environment_is_gone_is_found_by_its_session(cluster: LocalCluster, tmp_path: Path) -> None:
    program = CHILD.format(child=SLEEP).replace("child]", "child], env={}").replace("'])", "'], env={})")
    cluster = cluster.with_root(started(cluster, program, tmp_path / "log", marked=False))
    until(lambda: len(members(cluster)) == 2)
    psutil.Process(cluster.roots[0].pid).kill()
    until(lambda: len(members(cluster)) == 1)
    end(cluster, 0.1)
    assert members(cluster) == []


def test_a_child_that_left_the_session_is_found_by_the_mark(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster = cluster.with_root(started(cluster, CHILD.format(child=APART), tmp_path / "log"))
    until(lambda: len({os.getsid(process.pid) for process in members(cluster)}) == 2)
    end(cluster, 1.0)
    assert members(cluster) == []


def test_one_that_was_started_but_not_yet_recorded_is_found_by_the_mark(cluster: LocalCluster, tmp_path: Path) -> None:
    started(cluster, SLEEP, tmp_path / "log")
    until(lambda: len(members(cluster)) == 1)
    end(cluster, 0.1)
    assert members(cluster) == []


def test_the_session_of_one_root_ends_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    first, second = (started(cluster, CHILD.format(child=SLEEP), tmp_path / "log") for _ in range(2))
    cluster = cluster.with_root(first).with_root(second)
    until(lambda: len(members(cluster)) == 4)
    kill_session(first)
    until(lambda: len(members(cluster)) == 2)
    assert alive(second)


def test_without_a_mark_nobody_elses_process_is_ours(cluster: LocalCluster) -> None:
    assert members(replace(cluster, mark="")) == []


def test_one_that_does_not_listen_is_killed(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster = cluster.with_root(started(cluster, DEAF, tmp_path / "log"))
    until(lambda: "deaf" in (tmp_path / "log").read_text())
    end(cluster, 0.2)
    assert members(cluster) == []


def test_a_later_process_of_the_same_number_is_left_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    root = started(cluster, SLEEP, tmp_path / "log", marked=False)
    later = cluster.with_root(replace(root, started=root.started - 1000))
    assert not alive(later.roots[0])
    assert members(later) == []
    end(later, 0.1)
    assert alive(root)
    end(cluster.with_root(root), 1.0)


def test_after_a_reboot_numbers_say_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    root = started(cluster, SLEEP, tmp_path / "log", marked=False)
    before = replace(cluster, booted=cluster.booted - 10_000).with_root(root)
    assert members(before) == []
    end(cluster.with_root(root), 1.0)
