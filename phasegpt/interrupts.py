"""How a command ends that is told to: SIGTERM does what Ctrl-C does, and nothing is said but one line.

One whose output nobody reads any more (`… --plan | head`) ends without a word.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED, UNREAD = 130, 141


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
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        status = UNREAD
    sys.exit(status)


def _is_unread() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """A shell starts what it puts in the background with Ctrl-C ignored: then there is no handler to pass it to."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
