"""Processes of our own, started apart from the terminal, found again and ended; nobody else's, and none by its name.

Each one we start leads a session, so all that it starts is in that session, also after Ray has renamed it and thereby
erased its environment. What leaves the session (drivers of jobs do) still carries our mark in its environment.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from cluster.state import LocalCluster, Root

T = TypeVar("T")
MARK = "PHASEGPT_CLUSTER"
DEAD = (-1, "")
SAME_BOOT = 60.0
"""Seconds by which the system's clock may have been set between two looks at when it booted."""


def launch(what: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Root:
    """Start a program, by its full path, that outlives this process and writes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(command[0], list(command), dict(environment), file_actions=actions, setsid=True)
    return Root(what, pid, psutil.Process(pid).create_time())


def alive(root: Root) -> bool:
    """Whether this very process runs still."""
    try:
        process = psutil.Process(root.pid)
        return bool(process.create_time() == root.started) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def members(cluster: LocalCluster) -> list[psutil.Process]:
    """Every living process of a cluster: those that carry its mark, and all in their sessions and in its roots'."""
    every = [(process, *_told_by(process)) for process in psutil.process_iter() if process.pid != os.getpid()]
    sessions = {root.pid for root in cluster.roots if _still_ours(root, cluster)}
    sessions |= {session for _, session, mark in every if mark and mark == cluster.mark}
    return [process for process, session, _ in every if session in sessions]


def kill_session(root: Root) -> None:
    """End one root and all that it started, at once."""
    for process in psutil.process_iter():
        if _told_by(process)[0] == root.pid:
            _send(process.pid, signal.SIGKILL)


def end(cluster: LocalCluster, patience: float = 45.0) -> None:
    """End every process of a cluster: its roots are asked, the last first, and what is left is killed.

    Ray lets a node drain for up to half a minute. Raises RuntimeError where something cannot be killed.
    """
    for root in reversed(cluster.roots):
        if alive(root):
            _send(root.pid, signal.SIGTERM)
    _until_none(lambda: [root for root in cluster.roots if alive(root)], patience)
    _until_none(lambda: members(cluster), 2.0)
    for process in members(cluster):
        _send(process.pid, signal.SIGKILL)
    left = _until_none(lambda: members(cluster), 10.0)
    if left:
        raise RuntimeError(f"processes {', '.join(str(process.pid) for process in left)} cannot be ended")


def _still_ours(root: Root, cluster: LocalCluster) -> bool:
    """Whether the session of a root can only be ours: its leader lives, or its number went to nobody since."""
    same_boot = abs(psutil.boot_time() - cluster.booted) < SAME_BOOT
    return same_boot and (alive(root) or _told_by_number(root.pid) == DEAD)


def _told_by_number(pid: int) -> tuple[int, str]:
    return _told_by(psutil.Process(pid)) if psutil.pid_exists(pid) else DEAD


def _told_by(process: psutil.Process) -> tuple[int, str]:
    """The session and the mark of a process; DEAD for one that is, or that is not ours to read."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return DEAD
        return os.getsid(process.pid), process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return DEAD


def _until_none(find: Callable[[], Sequence[T]], seconds: float) -> Sequence[T]:
    """What `find` still finds after at most `seconds`."""
    until = time.monotonic() + seconds
    while (left := find()) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _send(pid: int, signal_: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal_)
