"""A driver's side of object storage: the search is claimed for it, and what it writes goes up as it changes.

A claim keeps a second driver from going on with the search elsewhere. In an ordinary folder all of this does nothing.
What fails here while a search runs is logged, and does not end it.
"""

import logging
import socket
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from phasegpt.files import write_json
from phasegpt.mirror import Mirror, mirror_of
from phasegpt.object_store import StorageError
from phasegpt.once import COUNTS, LOOK, Claim
from tune.sealed import STATE, WRITER, fetch_commands, lay, left, own_files, put_state

if TYPE_CHECKING:
    from tune.request import SearchPlaces

PAUSE, SHARE = 1.0, 10.0
"""Copies are made PAUSE seconds apart, or SHARE times as long as one takes."""
log = logging.getLogger("phasegpt")


class BusyError(RuntimeError):
    """A driver on another machine holds the search."""


@contextmanager
def kept(places: "SearchPlaces", *, resumed: bool) -> Iterator[None]:
    """While the block lasts, the search is this driver's, and its files go up as they change.

    One that is `resumed` is fetched first, as it was when its last driver let it go. Raises BusyError where a driver
    elsewhere holds it, StorageError where the storage is away at the beginning.
    """
    mirror = mirror_of(places.storage)
    if mirror is None:
        yield
        return
    with _claimed(mirror, places):
        if resumed:
            _fetch_all(mirror, places)
        backup = Backup(mirror, places)
        try:
            yield
        finally:
            backup.close()


@contextmanager
def _claimed(mirror: Mirror, places: "SearchPlaces") -> Iterator[None]:
    try:
        claim = _claim(mirror, places)
    except OSError as error:
        raise StorageError(mirror.store.trouble(error)) from error
    try:
        yield
    finally:
        claim.release()


def _claim(mirror: Mirror, places: "SearchPlaces") -> Claim:
    """The claim on a search; where somebody has it, wait until it is renewed or has run out: its driver may be dead."""
    claim, until = _claim_on(mirror, places.folder), time.monotonic() + COUNTS + LOOK
    if (other := claim.other()) is not None:
        sys.stderr.write(f"{places.name}: waiting up to {COUNTS:.0f} s to see whether {other} still runs it\n")
    while not claim.take():
        if time.monotonic() > until:
            raise BusyError
        time.sleep(LOOK)
    return claim


def _claim_on(mirror: Mirror, folder: Path) -> Claim:
    return Claim(mirror, mirror.name(folder / "driver.claim"), f"{socket.gethostname()}:{mirror.folder}")


def driven_elsewhere(folder: Path) -> bool:
    """Whether a driver on another machine holds the search in `folder`; one that cannot be asked for does not."""
    mirror = mirror_of(folder)
    try:
        return mirror is not None and _claim_on(mirror, folder).other() is not None
    except OSError as error:
        log.warning("who runs the search in %s could not be asked: %s", folder, error)
        return False


def _fetch_all(mirror: Mirror, places: "SearchPlaces") -> None:
    sys.stderr.write(f"{places.name}: fetching what {mirror.store.address} has of it\n")
    try:
        packed = mirror.store.read(mirror.name(places.folder / STATE))
        if packed is not None:
            lay(mirror, places, packed, with_checkpoints=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise StorageError(mirror.store.trouble(error)) from error


class Backup:
    """A thread that puts a search's state to the store as its files change, until `close` puts what remains."""

    def __init__(self, mirror: Mirror, places: "SearchPlaces") -> None:
        self.mirror, self.places = mirror, places
        self._there: dict[Path, tuple[int, int]] = {}
        self._in_trouble = False
        self._ended = threading.Event()
        write_json(places.folder / WRITER, {"writer": uuid.uuid4().hex, "folder": str(mirror.folder.resolve())})
        self._thread = threading.Thread(target=self._keep_on, name="backup", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Put the last state, then what the search leaves for people."""
        self._ended.set()
        self._thread.join()
        try:
            self._keep()
            for place in left(self.places):
                self.mirror.push(place)
        except OSError as error:
            log.exception("the last state could not be put to the storage")
            sys.stderr.write(f"{self.places.name}: its last state is here alone: {self.mirror.store.trouble(error)}\n")

    def _keep_on(self) -> None:
        pause = PAUSE
        while not self._ended.wait(pause):
            begun = time.monotonic()
            try:
                self._keep()
                fetch_commands(self.places)
                self._note(None)
            except OSError as error:
                self._note(error)
            pause = max(PAUSE, SHARE * (time.monotonic() - begun))

    def _keep(self) -> None:
        """Put the state where it has changed."""
        stamps = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in own_files(self.places.folder)}
        if stamps != self._there:
            put_state(self.places)
            self._there = stamps

    def _note(self, error: OSError | None) -> None:
        """Say once that the storage went away, and once that it is back."""
        if error is not None and not self._in_trouble:
            log.warning("the search is here alone for now: %s", self.mirror.store.trouble(error))
        if error is None and self._in_trouble:
            log.info("the storage answers again")
        self._in_trouble = error is not None
