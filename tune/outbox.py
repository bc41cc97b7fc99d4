"""Events on their way to MLflow: journalled by the caller's thread, sent in order by a thread of the outbox.

When the server is away, events wait in the spool and go out later: when it is back, or by the next `Outbox` on the
same spool. An event that the server will never take is set aside, so that those behind it arrive. Nothing here raises
into the search. Knows what goes out together and when to try again; not what events say, nor how MLflow is told.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from phasegpt.credentials import without_credentials
from phasegpt.files import make_folder
from phasegpt.lines import append
from phasegpt.mlflow_client import one_attempt
from tune.delivery import Delivery
from tune.refusal import hopeless, reason, unauthorized
from tune.spool import LEAVE, Event, Progress, endings, mend, set_aside, take_lock, told_metrics, unfinished

log = logging.getLogger(__name__)

EVENTS_A_BATCH = 500
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
REASON = 400
"""How much of why MLflow does not answer is told."""


class Outbox:
    """What waits for MLflow. `left` holds the keys of runs that earlier writers of the spool began and did not end,
    `told` the metrics that they said of any, `ended` how the others ended, `trouble` why events wait now, as the last
    attempt had it, and `denied` whether that is for want of the right credentials.

    Raises TrackingError when made on a damaged spool or one in use; nothing later. While it is open, MLflow's own HTTP
    retries are off: they could create a run twice, and the thread retries anyway.
    """

    def __init__(self, spool: Path, delivery: Delivery) -> None:
        self._spool, self._delivery = spool, delivery
        make_folder(spool.parent)
        self._lock = take_lock(spool)
        try:
            events = mend(spool)
            self._progress = Progress(spool, len(events))
        except BaseException:
            self._lock.release()
            raise
        self._pending = deque(events[self._progress.sent :])
        self.left, self.told = unfinished(events), told_metrics(events)
        self.ended = endings(events)
        self._unwritten: deque[Event] = deque()
        self._full = False
        self._changed = threading.Condition()
        self._held = threading.local()
        self._hurry_until, self._closing = 0.0, False
        self.trouble, self.denied = "", False
        self._alone_until = 0
        self._while_open = ExitStack()
        self._while_open.enter_context(one_attempt())
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def put(self, kind: str, **values: Any) -> None:
        """Journal an event (fsync) and return; it is sent in its turn. Where the disk is full it waits in memory."""
        event = {"kind": kind, "at": int(time.time() * 1000), **values}
        held: list[Event] | None = getattr(self._held, "events", None)
        self._journal([event]) if held is None else held.append(event)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Journal what this thread puts while the block lasts when it ends, by one fsync."""
        held: list[Event] = []
        self._held.events = held
        try:
            yield
        finally:
            del self._held.events
            self._journal(held)

    def _journal(self, events: list[Event]) -> None:
        with self._changed:
            self._unwritten.extend(events)
            self._write()

    def _write(self) -> None:
        """Journal what is not yet, by one write; what a full disk does not take waits for the next one, in order."""
        if not self._unwritten:
            return
        try:
            append(self._spool, *self._unwritten)
        except OSError as error:
            if not self._full:
                log.error("%s cannot be written: %s; events wait in memory", self._spool, error)
            self._full = True
            return
        self._full = False
        self._pending.extend(self._unwritten)
        self._unwritten.clear()
        self._changed.notify_all()

    def flush(self, timeout: float) -> int:
        """Wait until everything is sent, at most `timeout` seconds; returns how many events still wait."""
        with self._changed:
            self._hurry_until = time.monotonic() + timeout
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._pending, timeout)
            self._hurry_until = 0.0
            return len(self._pending)

    def close(self, timeout: float = 30.0) -> int:
        """Flush, then stop sending; returns how many events wait in the spool for the next Outbox on it."""
        with self._changed:
            self._write()
        self.flush(timeout)
        with self._changed:
            if self._unwritten:
                log.error("%s: %d events are lost, it cannot be written", self._spool, len(self._unwritten))
            self._closing = True
            self._changed.notify_all()
        self._thread.join(LEAVE)
        self._while_open.close()
        return len(self._pending)

    def _send_all(self) -> None:
        pause = 0.0
        try:
            while batch := self._next_batch(pause):
                pause = self._try(batch, pause)
            with suppress(OSError):  # on a full disk it stays in doubt what has been sent
                self._progress.settle(self._size_without(0))
        finally:
            self._lock.release()

    def _next_batch(self, pause: float) -> list[Event]:
        """The next events to send together, after `pause` seconds; empty when the outbox closes."""
        with self._changed:
            if pause and self._hurried():
                self._changed.wait(FIRST_PAUSE)
            elif pause:
                self._changed.wait_for(lambda: self._closing or self._hurried(), pause)
            self._changed.wait_for(lambda: self._closing or self._pending)
            return [] if self._closing else list(islice(self._pending, self._batch_length()))

    def _hurried(self) -> bool:
        return time.monotonic() < self._hurry_until

    def _batch_length(self) -> int:
        """A stretch of metrics and tags, or one event of another kind. A batch in doubt is cut as it was before."""
        progress = self._progress
        if progress.sent < self._alone_until:
            return 1
        limit = min(progress.doubt - progress.sent or EVENTS_A_BATCH, EVENTS_A_BATCH)
        length = 0
        for event in islice(self._pending, limit):
            if event["kind"] not in ("metrics", "tags"):
                break
            length += 1
        return max(length, 1)

    def _try(self, batch: list[Event], pause: float) -> float:
        """Send a batch once; returns the pause before the next attempt."""
        try:
            self._attempt(batch)
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not end the record of a search
            return self._wait_for_server(error, pause)
        return 0.0

    def _attempt(self, batch: list[Event]) -> None:
        doubtful = self._progress.begin(len(batch))
        try:
            self._delivery.deliver(batch, doubtful)
        except Exception as error:
            if not hopeless(error, self._delivery.uri):
                raise
            if len(batch) > 1:
                self._alone_until = self._progress.sent + len(batch)
                return
            self._refuse(batch[0], error)
            self._done(1, refused=True)
            return
        self._done(len(batch))

    def _done(self, count: int, *, refused: bool = False) -> None:
        """So many events are through. The disk says so of the last one, and of one that is not to be refused again."""
        whole = self._size_without(count)
        self._progress.done(count)
        if refused or whole is not None:
            self._progress.settle(whole)
        if self.trouble:
            self.trouble, self.denied = "", False
            log.info("MLflow answers again")
        with self._changed:
            for _ in range(count):
                self._pending.popleft()
            self._changed.notify_all()

    def _size_without(self, count: int) -> int | None:
        """The size of a spool of which only the next `count` events wait, else None; nothing is put meanwhile."""
        with self._changed:
            return self._spool.stat().st_size if count == len(self._pending) else None

    def _wait_for_server(self, error: Exception, pause: float) -> float:
        """Say why events wait, once for each kind of trouble; the pause before the next attempt."""
        before, self.trouble = (self.trouble, self.denied), without_credentials(reason(error))[:REASON]
        self.denied = unauthorized(error)
        if not before[0] or before[1] != self.denied:
            place = without_credentials(self._delivery.uri)
            log.warning("MLflow at %s: %s; events wait in %s and are sent later", place, self.trouble, self._spool)
        return min(max(FIRST_PAUSE, 2 * pause), LAST_PAUSE)

    def _refuse(self, event: Event, error: Exception) -> None:
        """Set an event aside that cannot be delivered, so that those behind it can."""
        line, reason = self._progress.sent + 1, without_credentials(str(error))
        place = set_aside(self._spool, line, event, reason)
        log.warning("%s:%d: MLflow refused this event (%s); it is kept in %s", self._spool, line, reason, place.name)
