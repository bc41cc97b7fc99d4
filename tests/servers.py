"""Servers that tests start: on a free port of the loopback, waited for, and ended with all their processes."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 240


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def served(
    command: Sequence[str], health: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server for the length of the block, from when `health` answers; its output goes to `cwd`/server.log."""
    with (cwd / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=cwd, env=environment and {**environment}, start_new_session=True
        )
    try:
        _wait_for(process, health, cwd / "server.log")
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def _wait_for(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        if _answers(health):
            return
        time.sleep(0.2)
    raise AssertionError(f"the server did not begin:\n{log.read_text()}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except OSError:
        return False
