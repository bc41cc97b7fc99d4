"""What waits for MLflow in the spools of searches and runs, and sending it: python -m tune.tracking sync | status.

Who writes a spool sends it as well; here goes what was left behind. Knows spools and outboxes, nothing of trials.
"""

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from phasegpt.config_io import TRACKS
from tune.databases import require_driver
from tune.delivery import Delivery
from tune.outbox import Outbox
from tune.spool import SPOOL, TrackingError, all_sent, read_refused, read_sent, read_spool

DONE, WAITING, BAD_INPUT = 0, 1, 2
PROGRESS = 2.0
"""Seconds between two lines that say how far sending has come."""
PATIENCE = 30.0
"""Seconds without an event sent after which a server in trouble is given up."""

EXAMPLES = """examples:
  python -m tune.tracking status                              what waits, and for which MLflow
  python -m tune.tracking sync b-20260101-120000
  python -m tune.tracking sync --all --storage /shared/phasegpt
  MLFLOW_TRACKING_TOKEN=… python -m tune.tracking sync b-20260101-120000 --tracking-uri https://mlflow.example.org
"""


@dataclass(frozen=True)
class Spooled:
    """A spool: how many of its `events` have not arrived at `uri`, how many were refused there, and whether the search
    or run that writes it is under way."""

    name: str
    spool: str
    uri: str
    experiment: str
    events: int
    waiting: int
    refused: int
    running: bool

    def as_text(self) -> str:
        """For people, in one line."""
        said = f"{self.waiting} of {self.events} events wait for" if self.waiting else f"{self.events} events are in"
        refused = f"; {self.refused} were refused, see {self.spool}.refused" if self.refused else ""
        return f"{self.name}: {said} {self.uri}{refused}{'; it is running and sends them' * self.running}"


def look(spool: Path) -> Spooled:
    """A spool as it is now. Raises TrackingError where it holds nothing, or a damaged line."""
    events = read_spool(spool)
    opened = [event for event in events if event["kind"] == "open"]
    if not opened:
        raise TrackingError(f"{spool} holds no events; give the folder of a search, the one with {SPOOL} in it")
    where = opened[-1]["uri"], opened[-1]["experiment"]
    waiting, refused = len(events) - read_sent(spool), len(read_refused(spool))
    return Spooled(spool.parent.name, str(spool), *where, len(events), waiting, refused, is_held(spool))


def is_held(spool: Path) -> bool:
    """Whether somebody writes to a spool and sends from it now."""
    lock = Path(f"{spool}.lock")
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def spools(storage: Path) -> list[Path]:
    """The spools below a storage folder: of searches, of single runs, and of tracks that ran in turn."""
    folder = storage / "experiments"
    return sorted([*folder.glob(f"*/*/{SPOOL}"), *folder.glob(f"*/*/*/{SPOOL}")])


def find_spool(word: str, track: str | None, storage: Path) -> Path:
    """The spool of a folder, or of a search or run by its name. Raises TrackingError where there is none, or two."""
    if os.path.isdir(word):
        return Path(word) / SPOOL
    named = [spool for spool in spools(storage) if spool.parent.name == word]
    found = [spool for spool in named if track is None or spool.parent.parent.name == f"track_{track}"]
    if len(found) > 1:
        tracks = " and ".join(spool.parent.parent.name for spool in found)
        raise TrackingError(f"{word}: {tracks} have a search of this name; add --track")
    if not found:
        known = ", ".join(spool.parent.name for spool in spools(storage)) or "none"
        raise TrackingError(f"{word}: no such search or run in {storage}; there are: {known}")
    return found[0]


def left_behind(storage: Path, but: Path) -> str | None:
    """A line for who starts a search: what others left unsent, and the command that sends it. None where nothing waits.

    A damaged spool is passed over: the command says so.
    """
    waiting = sum(_waits(spool) for spool in spools(storage) if spool.parent != but)
    if not waiting:
        return None
    command = shlex.join(["python", "-m", "tune.tracking", "sync", "--all", "--storage", str(storage)])
    searches = "an earlier search or run" if waiting == 1 else f"{waiting} earlier searches or runs"
    return f"events of {searches} wait for MLflow; send them with: {command}"


def _waits(spool: Path) -> bool:
    """Whether a spool holds what nobody is sending."""
    try:
        return not all_sent(spool) and not is_held(spool)
    except (OSError, ValueError):
        return False


def unsent(events: int, trouble: str, folder: Path) -> str:
    """A line for who ends: how many events of the search or run in `folder` wait, why, and what sends them."""
    command = shlex.join(["python", "-m", "tune.tracking", "sync", str(folder)])
    return f"{events} events wait for MLflow{trouble and f' ({trouble})'}; send them with: {command}"


def sync(spool: Path, uri: str | None = None, say: Callable[[str], None] = lambda line: None) -> int:
    """Send what waits in a spool, as long as it gets on; returns how many events still wait.

    `uri` stands in for the address on the spool, which carries no user and password. `say` is told how far it is.
    """
    seen = look(spool)
    if not seen.waiting:
        return 0
    require_driver(uri or seen.uri)
    box = Outbox(spool, Delivery(uri or seen.uri, seen.experiment))
    waiting, since = seen.waiting, time.monotonic()
    while left := box.flush(PROGRESS):
        if left < waiting:
            waiting, since = left, time.monotonic()
        elif box.denied or (box.trouble and time.monotonic() - since > PATIENCE):
            break
        say(f"{seen.name}: {seen.events - left} of {seen.events} events sent")
    return box.close(0.0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.tracking",
        description="Records that wait for MLflow. Exit status: 0 all is sent, 1 some events wait, 2 bad input.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True)
    send = verbs.add_parser("sync", help="send what a search or run could not send")
    send.add_argument("--all", action="store_true", help="every spool with something to send that nobody sends")
    send.add_argument("--tracking-uri", metavar="URI", help="another address than the search was given")
    status = verbs.add_parser("status", help="what waits, and where")
    status.add_argument("--json", action="store_true", help="print one JSON object a line")
    for verb in (send, status):
        verb.add_argument("names", nargs="*", metavar="NAME", help="a search or run, or its folder")
        verb.add_argument("--track", choices=TRACKS, help="where several tracks have a search of this name")
        verb.add_argument("--storage", metavar="FOLDER", help="where it writes (default: the project)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Look or send: 0 when all is sent, 1 when events still wait, 2 on bad input."""
    given = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        found = _found(given)
        return _status(found, given.json) if given.verb == "status" else _sync(found, given.tracking_uri)
    except (OSError, ValueError) as error:  # a spool, a name, a storage folder or a database that cannot be used
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT


def _found(given: argparse.Namespace) -> list[Spooled]:
    """The spools that were asked for; without a name all of them, to be sent only where that was said."""
    from tune.request import storage_folder

    storage = storage_folder(given.storage)
    if given.names:
        return [look(find_spool(word, given.track, storage)) for word in given.names]
    if given.verb == "sync" and not given.all:
        raise TrackingError("sync: name a search or run, or give --all; see what waits with: tune.tracking status")
    every = [seen for spool in spools(storage) if (seen := _seen(spool)) is not None]
    return every if given.verb == "status" else [each for each in every if each.waiting and not each.running]


def _seen(spool: Path) -> Spooled | None:
    """A spool among others: one that is damaged is named and passed over."""
    try:
        return look(spool)
    except (OSError, ValueError) as error:
        _say(str(error))
        return None


def _status(found: Sequence[Spooled], as_objects: bool) -> int:
    lines = [json.dumps(asdict(each)) if as_objects else each.as_text() for each in found]
    sys.stdout.write("\n".join(lines or ([] if as_objects else ["there are no searches or runs"])) + "\n")
    return WAITING if any(each.waiting for each in found) else DONE


def _sync(found: Sequence[Spooled], uri: str | None) -> int:
    waiting = 0
    for each in found:
        left = sync(Path(each.spool), uri, _say)
        sys.stdout.write(f"{each.name}: {f'{left} events still wait' if left else 'everything is sent'}\n")
        waiting += left
    if not found:
        sys.stdout.write("nothing waits\n")
    return WAITING if waiting else DONE


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
