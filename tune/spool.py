"""The spool: a search's events for MLflow on disk, and how far sending them has come.

Files: SPOOL (one checked JSON line an event), SPOOL.sent (the progress), SPOOL.refused (events set aside, with the
reason), SPOOL.lock (one sender at a time). Every write is on the disk when its call returns, and a crash in the middle
of one costs at most that event. Knows nothing of MLflow or of threads, and of events only which begin and end a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from phasegpt.files import read_json, write_json
from phasegpt.lines import DamagedLineError, append, cut_torn_line, read_lines, write_lines

SPOOL = "tracking.jsonl"
LEAVE = 5.0
"""Seconds that a sender is left to come back from a call to the server and let its spool go."""

AHEAD = 64
"""So many events are noted as under way by one write: a crash leaves those that were not sent yet in doubt as well."""

UNSEEN = 1000
"""So many events a driver may have sent that its last copy of the spool does not have."""

Event = dict[str, Any]


class TrackingError(ValueError):
    """A spool that cannot be used, or an MLflow that is not as expected; the message names the place and the cure."""


def read_spool(spool: Path) -> list[Event]:
    """The events of a spool in order, without a torn last line; TrackingError with file:line where one is damaged."""
    try:
        return read_lines(spool)[0]
    except DamagedLineError as error:
        sent = f"{spool.name}.sent"
        raise TrackingError(
            f"{error}; put back the line from a copy, or move {spool.name} and {sent} away to start a new spool"
        ) from error


def mend(spool: Path) -> list[Event]:
    """Read a spool that is ours alone, and cut a torn last line off the file."""
    events = read_spool(spool)
    cut_torn_line(spool)
    return events


def read_sent(spool: Path) -> int:
    """How many events of a spool surely arrived, without taking it."""
    stored = _sent_file(spool)
    return int(read_json(stored)["sent"]) if stored.exists() else 0


def all_sent(spool: Path) -> bool:
    """Whether all of a spool arrived. One that its last sender emptied is told by its size, without being read.

    Raises ValueError for a damaged progress file.
    """
    stored = _sent_file(spool)
    progress = read_json(stored) if stored.exists() else {}
    if progress.get("whole") == spool.stat().st_size:
        return True
    return spool.read_bytes().count(b"\n") <= int(progress.get("sent", 0))


def read_refused(spool: Path) -> list[Event]:
    """What `set_aside` kept of a spool."""
    return read_spool(_refused_file(spool))


def _sent_file(spool: Path) -> Path:
    return spool.with_name(f"{spool.name}.sent")


def _refused_file(spool: Path) -> Path:
    return spool.with_name(f"{spool.name}.refused")


def set_aside(spool: Path, line: int, event: Event, reason: str) -> Path:
    """Keep the event of a line that nobody will ever take, with the reason; returns the file that holds it."""
    place = _refused_file(spool)
    append(place, {"line": line, "reason": reason, "event": event})
    return place


def arrived(spool: Path) -> frozenset[str]:
    """The paths of files and folders that surely arrived: sent, and not set aside. None where nothing was sent."""
    if not spool.exists():
        return frozenset()
    sent = read_spool(spool)[: read_sent(spool)]
    refused = [row["event"] for row in read_refused(spool)]
    return frozenset(event["path"] for event in sent if "path" in event and event not in refused)


def take_over(spool: Path, before: str, now: str) -> None:
    """Make a copy of another machine's spool one's own: the files in its folder `before` lie in `now`.

    What it does not know to have arrived is in doubt, and so are the next UNSEEN events: the one that it was copied
    from may have sent them after the copy.
    """
    events = mend(spool)
    for event in events:
        if before and str(event.get("path", "")).startswith(f"{before}/"):
            event["path"] = now + event["path"].removeprefix(before)
    write_lines(spool, events)
    write_json(_sent_file(spool), {"sent": read_sent(spool), "doubt": len(events) + UNSEEN})


class Progress:
    """How far sending has come: `sent` events surely arrived, those up to `doubt` perhaps.

    On disk it is behind by up to AHEAD events until `settle`; those are in doubt for whoever reads it after a crash.
    """

    def __init__(self, spool: Path, total: int) -> None:
        self.path = _sent_file(spool)
        stored = read_json(self.path) if self.path.exists() else {"sent": 0, "doubt": total}
        self.sent, self.doubt = int(stored["sent"]), int(stored["doubt"])
        self._noted = self.doubt
        if self.sent > total:
            raise TrackingError(
                f"{self.path}: says that {self.sent} events were sent, but {spool} holds {total}; "
                f"put back the spool that belongs to it, or remove {self.path.name} to send all of them again"
            )

    def begin(self, count: int) -> bool:
        """Note that the next `count` events are under way; says whether some of them may have arrived before."""
        doubtful, end = self.doubt > self.sent, self.sent + count
        if end > self._noted:
            self._write(max(end, self.sent + AHEAD))
        self.doubt = max(self.doubt, end)
        return doubtful

    def done(self, count: int) -> None:
        """The next `count` events arrived."""
        self.sent += count
        self.doubt = max(self.doubt, self.sent)

    def settle(self, whole: int | None = None) -> None:
        """Note that nothing is under way; `whole` is the size of a spool all of which arrived."""
        self._write(self.doubt, whole)

    def _write(self, doubt: int, whole: int | None = None) -> None:
        self._noted = max(self.doubt, doubt)
        stored = {"sent": self.sent, "doubt": self._noted}
        write_json(self.path, stored if whole is None else {**stored, "whole": whole})


def take_lock(spool: Path) -> FileLock:
    """The lock of the one who writes and sends a spool; raises TrackingError where it stays taken."""
    lock = FileLock(f"{spool}.lock", thread_local=False)
    try:
        lock.acquire(timeout=LEAVE)
    except Timeout as error:
        raise TrackingError(f"{spool} is in use: a running search sends its events itself; wait for its end") from error
    return lock


def unfinished(events: Sequence[Event]) -> dict[str, None]:
    """The keys of runs that were begun and not ended, in order."""
    left: dict[str, None] = {}
    for event in events:
        if event["kind"] == "run":
            left[event["key"]] = None
        elif event["kind"] == "finish":
            left.pop(event["key"], None)
    return left


def endings(events: Sequence[Event]) -> dict[str, str]:
    """{run key: status} of the runs that were ended and not begun again."""
    ended: dict[str, str] = {}
    for event in events:
        if event["kind"] == "run":
            ended.pop(event["key"], None)
        elif event["kind"] == "finish":
            ended[event["key"]] = event["status"]
    return ended


Told = dict[str, dict[tuple[str, int], float]]
"""{run key: {(metric, step): value}} of what was said of runs."""


def told_metrics(events: Sequence[Event]) -> Told:
    """The metrics on a spool: a run that begins again, though it had come to its end, may say them again."""
    told: Told = {}
    for event in events:
        if event["kind"] == "metrics":
            own = told.setdefault(event["key"], {})
            own.update({(name, event["step"]): value for name, value in event["values"].items()})
    return told
