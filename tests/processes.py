"""Processes that tests start, told by a mark in their environment: Ray's and its workers inherit it."""

import random
import socket
from contextlib import suppress
from pathlib import Path

MARK = "PHASEGPT_TEST_MARK"


def marked(mark: str) -> list[str]:
    """The command lines of the processes that carry `mark`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randint(20000, 32000)  # noqa: S311 - not for secrets
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
