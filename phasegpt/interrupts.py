"""How a command ends that is told to: SIGTERM does what Ctrl-C does, and nothing is said but one line."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130


def heed_termination() -> None:
    """From now on SIGTERM does what Ctrl-C does. Ray sets a handler of its own when a process joins a cluster."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _as_interrupt)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does; afterwards what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    heed_termination()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command to its exit status; one that is interrupted says so in one line and ends with INTERRUPTED."""
    try:
        with terminable():
            status = main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED
    sys.exit(status)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """A shell starts what it puts in the background with Ctrl-C ignored: then there is no handler to pass it to."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
