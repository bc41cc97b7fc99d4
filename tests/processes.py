"""Processes that tests start, told by a mark in their environment: Ray's and its workers inherit it."""

import random
import socket
from contextlib import suppress
from pathlib import Path

MARK = "PHASEGPT_TEST_MARK"


def with_mark(mark: str) -> dict[int, str]:
    """{pid: command line} of the processes that carry `mark`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    return found


def marked(mark: str) -> list[str]:
    """The command lines of the processes that carry `mark`."""
    return list(with_mark(mark).values())


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randint(20000, 32000)  # noqa: S311 - not for secrets
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
