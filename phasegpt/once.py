"""What several machines need and one of them makes: a claim in object storage, and the work that it is for.

A store has no locks. A claim is an object with its holder and the time until which it counts, which its holder renews;
after a settling time everybody reads the same one. Where a clock is wrong or a holder dies two may make the same thing,
which costs time and nothing else: both come to equal files. Knows nothing of what is made.
"""

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from phasegpt.mirror import Mirror, mirror_of

COUNTS = 60.0
"""Seconds that a claim counts without being renewed, which is done in every third of them."""
SETTLE = 0.5
"""Seconds after which of two claims at once the later one is seen by both."""
LOOK = 2.0
"""Seconds between two looks of those who wait."""
LENGTH = 256
"""Bytes of every claim: readers ask for the size first, and a claim that changed its size meanwhile they would cut."""
log = logging.getLogger("phasegpt")


class Claim:
    """A claim on a name in a store, renewed by a thread from `take` to `release`."""

    def __init__(self, mirror: Mirror, name: str, holder: str | None = None) -> None:
        self.mirror, self.name = mirror, name
        self.holder = holder or f"{socket.gethostname()}/{uuid.uuid4().hex[:8]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def other(self) -> str | None:
        """Who else holds it now."""
        content = self.mirror.store.read(self.name)
        found = json.loads(content) if content else {}
        alive = found.get("until", 0.0) > time.time() and found["holder"] != self.holder
        return str(found["holder"]) if alive else None

    def take(self) -> bool:
        """Whether it could be had."""
        if self.other() is not None:
            return False
        self._write()
        time.sleep(SETTLE)
        if self.other() is not None:
            return False
        self._thread.start()
        return True

    def release(self) -> None:
        """Give it up; a store that does not answer finds it out of date soon."""
        self._ended.set()
        self._thread.join()
        try:
            self.mirror.store.remove(self.name)
        except OSError as error:
            log.warning("%s could not be given up: %s", self.name, error)

    def _write(self) -> None:
        said = {"holder": self.holder, "until": time.time() + COUNTS}
        self.mirror.store.write(self.name, json.dumps(said).ljust(LENGTH).encode())

    def _renew(self) -> None:
        while not self._ended.wait(COUNTS / 3):
            try:
                self._write()
            except OSError as error:
                log.warning("%s could not be renewed: %s", self.name, error)


@contextmanager
def made_once(folder: Path, whole: Callable[[], bool]) -> Iterator[None]:
    """A block that makes what is missing of `folder`, unless the storage that it mirrors has it by then.

    Where another machine is making it, the block waits for that. In an ordinary folder it is entered at once. Raises
    OSError where the storage is away.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    claim = None if whole() else _claimed(mirror, folder, whole)
    try:
        yield
        mirror.push(folder)
    finally:
        if claim is not None:
            claim.release()


def _claimed(mirror: Mirror, folder: Path, whole: Callable[[], bool]) -> Claim | None:
    """The claim on making `folder`, or None once the storage had it."""
    claim = Claim(mirror, f"{mirror.name(folder)}.claim")
    while True:
        mirror.pull(folder)
        if whole():
            return None
        if claim.take():
            mirror.pull(folder)  # who held it before may have come to the end just now
            return claim
        time.sleep(LOOK)
