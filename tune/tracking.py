"""The only writer to MLflow: every event is journalled beside the search, then sent in order by one thread.

A `Tracker` lives in the driver and never raises into the search. When the server is away, events wait in the spool and
go out later: when it is back, at the next `Tracker` on the same spool, or by `python -m tune.tracking sync FOLDER`.
Each event arrives once: a run is looked for by its tag `phasegpt.run_key` before it is created, params, tags and
artifacts can be sent twice without harm, and before metrics that may have arrived are sent again, the server is asked.

Files: SPOOL (one checked JSON line an event), SPOOL.sent (how far sending has come), SPOOL.refused (events that the
server will never take, with its reason), SPOOL.lock (one sender at a time). Knows nothing of trials or models.
"""

import argparse
import json
import logging
import math
import os
import re
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from filelock import FileLock, Timeout

from phasegpt.files import read_json, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("tune.tracking")

SPOOL = "tracking.jsonl"
RUN_KEY = "phasegpt.run_key"
PARENT_TAG = "mlflow.parentRunId"
TABLES_TAG = "mlflow.loggedArtifacts"

METRICS_A_CALL = 1000
ROWS_A_CALL = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
EVENTS_A_BATCH = 500
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
LEAVE = 5.0
"""Seconds that `close` leaves a sender to come back from a call to the server."""

Event = dict[str, Any]
Status = Literal["FINISHED", "FAILED", "KILLED"]
T = TypeVar("T")


class TrackingError(ValueError):
    """A spool that cannot be used, or an MLflow that is not as expected; the message names the place and the cure."""


class RefusedError(Exception):
    """An event that no later attempt can deliver."""


def tracking_uri(root: Path, given: str | None = None) -> str:
    """Where MLflow is: `given`, else $MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in `root`."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files: mlartifacts/ beside an SQLite file; None leaves it to the server."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()


def without_credentials(text: str) -> str:
    """`text` with the user:password@ of every address in it taken out."""
    return re.sub(r"://[^/\s]*@", "://", text)


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A resolved config as MLflow params: dotted keys; texts as they are, everything else as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_params(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def open_client(uri: str) -> "MlflowClient":
    """A quiet client: no banners, no telemetry, no migration log. The first use of an SQLite file migrates it (2 s)."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


# --- the spool -------------------------------------------------------------------------------------------------------


def _line(event: Event) -> bytes:
    return json.dumps({"sum": _checksum(event), "event": event}, separators=(",", ":")).encode() + b"\n"


def _checksum(event: Event) -> str:
    body = json.dumps(event, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(body.encode()):08x}"


def _parse(line: bytes) -> Event | None:
    """The event of a line, or None where the line is damaged."""
    try:
        row = json.loads(line)
        event: Event = row["event"]
        return event if row["sum"] == _checksum(event) and line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def read_spool(spool: Path) -> tuple[list[Event], int]:
    """The events of a spool in order, and the length in bytes of its whole lines: a torn last line is not counted.

    Raises TrackingError with file:line where another line is damaged.
    """
    lines = spool.read_bytes().splitlines(keepends=True) if spool.exists() else []
    events: list[Event] = []
    for number, line in enumerate(lines, 1):
        event = _parse(line)
        if event is not None:
            events.append(event)
        elif number < len(lines):
            raise TrackingError(
                f"{spool}:{number}: this line is damaged (its checksum does not fit); put back the line from a copy, "
                f"or move {spool.name} and {spool.name}.sent away to start a new spool"
            )
    return events, sum(map(len, lines[: len(events)]))


def _mend(spool: Path) -> list[Event]:
    """Read a spool that is ours alone, and cut a torn last line off the file."""
    events, length = read_spool(spool)
    if spool.exists() and length < spool.stat().st_size:
        log.warning("%s:%d: a torn last line was cut", spool, len(events) + 1)
        os.truncate(spool, length)
    return events


def _append(spool: Path, event: Event) -> None:
    """Write one event to the end of the spool and to the disk; a failed write leaves no half line."""
    with spool.open("ab") as handle:
        before = handle.tell()
        try:
            handle.write(_line(event))
            handle.flush()
            os.fsync(handle.fileno())
        except OSError:
            os.truncate(spool, before)
            raise


class _Progress:
    """How far sending has come, on disk: `sent` events surely arrived, those up to `doubt` perhaps."""

    def __init__(self, spool: Path, total: int) -> None:
        self.path = spool.with_name(f"{spool.name}.sent")
        stored = read_json(self.path) if self.path.exists() else {"sent": 0, "doubt": total}
        self.sent, self.doubt = int(stored["sent"]), int(stored["doubt"])
        if self.sent > total:
            raise TrackingError(
                f"{self.path}: says that {self.sent} events were sent, but {spool} holds {total}; "
                f"put back the spool that belongs to it, or remove {self.path.name} to send all of them again"
            )

    def begin(self, count: int) -> bool:
        """Note that the next `count` events are under way; says whether some of them may have arrived before."""
        doubtful = self.doubt > self.sent
        self._write(self.sent, max(self.doubt, self.sent + count))
        return doubtful

    def done(self, count: int) -> None:
        """Note that the next `count` events arrived."""
        self._write(self.sent + count, max(self.doubt, self.sent + count))

    def _write(self, sent: int, doubt: int) -> None:
        write_json(self.path, {"sent": sent, "doubt": doubt})
        self.sent, self.doubt = sent, doubt


# --- MLflow ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Metric:
    name: str
    value: float
    at: int
    step: int


class _Mlflow:
    """Delivers events to one experiment. Used by the sending thread alone; `run_ids` may be read by others."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self.run_ids: dict[str, str] = {}
        self._opened: tuple[MlflowClient, str] | None = None
        self._send_one = {
            "open": lambda event: None,
            "run": self._send_run,
            "table": self._send_table,
            "file": self._send_file,
            "folder": self._send_file,
            "finish": self._send_finish,
        }

    def deliver(self, events: Sequence[Event], doubtful: bool) -> None:
        """Send a batch as `_batch_length` cuts it; `doubtful` where its metrics may have arrived before."""
        self._connect()
        if events[0]["kind"] in ("metrics", "tags"):
            self._send_rows(events, doubtful)
        else:
            self._send_one[events[0]["kind"]](events[0])

    def _connect(self) -> tuple["MlflowClient", str]:
        """The client and the experiment's id; the experiment is created where there is none."""
        if self._opened is None:
            client = open_client(self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found is not None and found.lifecycle_stage == "deleted":
                raise TrackingError(f"the experiment {self.experiment} is deleted in MLflow; restore it there")
            location = artifact_location(self.uri)
            made = found.experiment_id if found else client.create_experiment(self.experiment, location)
            self._opened = client, made
        return self._opened

    def _run_id(self, key: str) -> str:
        if key not in self.run_ids:
            found = self._find(key)
            if found is None:
                raise RefusedError(f"MLflow has no run {key!r}; call run({key!r}, ...) before anything else of it")
            self.run_ids[key] = found
        return self.run_ids[key]

    def _find(self, key: str) -> str | None:
        client, experiment = self._connect()
        runs = client.search_runs(
            [experiment], f"tags.`{RUN_KEY}` = '{key}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        return runs[0].info.run_id if runs else None

    def _send_run(self, event: Event) -> None:
        client, experiment = self._connect()
        key, name = event["key"], event["name"]
        tags = {RUN_KEY: key, **event["tags"]}
        if event["parent"] is not None:
            tags[PARENT_TAG] = self._run_id(event["parent"])
        found = self._find(key)
        if found is None:
            found = client.create_run(experiment, event["at"], tags, name).info.run_id
        else:
            client.update_run(found, "RUNNING", name)
            self._log_tags(found, tags)
        self.run_ids[key] = found
        self._log_params(found, event["params"])

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for part in _parts([Param(name, value) for name, value in params.items()], ROWS_A_CALL):
            self._connect()[0].log_batch(run_id, params=part)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(name, value) for name, value in tags.items()], ROWS_A_CALL):
            self._connect()[0].log_batch(run_id, tags=part)

    def _log_metrics(self, run_id: str, metrics: Sequence[_Metric], doubtful: bool) -> None:
        from mlflow.entities import Metric

        for part in _parts(metrics, METRICS_A_CALL):
            if not (doubtful and self._arrived(run_id, part[-1])):
                rows = [Metric(m.name, m.value, m.at, m.step) for m in part]
                self._connect()[0].log_batch(run_id, metrics=rows)

    def _arrived(self, run_id: str, metric: _Metric) -> bool:
        history = self._connect()[0].get_metric_history(run_id, metric.name)
        return any((m.step, m.timestamp) == (metric.step, metric.at) for m in history)

    def _send_rows(self, events: Sequence[Event], doubtful: bool) -> None:
        """A stretch of metrics and tags of several runs: one call a run and kind where the limits allow."""
        for key in dict.fromkeys(event["key"] for event in events):
            own = [event for event in events if event["key"] == key]
            metrics = [
                _Metric(name, value, event["at"], event["step"])
                for event in own
                if event["kind"] == "metrics"
                for name, value in event["values"].items()
            ]
            tags = {name: value for event in own if event["kind"] == "tags" for name, value in event["tags"].items()}
            self._log_metrics(self._run_id(key), metrics, doubtful)
            self._log_tags(self._run_id(key), tags)

    def _send_table(self, event: Event) -> None:
        """What MlflowClient.log_table writes: rows in pandas' "split" layout, and the tag by which the UI finds it."""
        client, run_id, name = self._connect()[0], self._run_id(event["key"]), event["name"]
        client.log_text(run_id, json.dumps({"columns": event["columns"], "data": event["data"]}), name)
        tables = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in tables:
            client.set_tag(run_id, TABLES_TAG, json.dumps([*tables, entry]))

    def _send_file(self, event: Event) -> None:
        client, run_id, path = self._connect()[0], self._run_id(event["key"]), Path(event["path"])
        if not path.exists():
            raise RefusedError(f"{path} is gone")
        send = client.log_artifacts if event["kind"] == "folder" else client.log_artifact
        send(run_id, str(path), event["to"])

    def _send_finish(self, event: Event) -> None:
        self._connect()[0].set_terminated(self._run_id(event["key"]), event["status"], event["at"])


def _parts(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _hopeless(error: Exception) -> bool:
    """Whether sending the same again can never help: the server understood and declined."""
    code = getattr(error, "error_code", "")
    return isinstance(error, RefusedError) or code in (
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "RESOURCE_DOES_NOT_EXIST",
    )


# --- the tracker -----------------------------------------------------------------------------------------------------


class Tracker:
    """The search's record in MLflow. Calls journal an event (fsync) and return; a thread sends in the background.

    `spool` is the file SPOOL in the search's folder. A `key` names a run for good, such as "search/trial-003": unique
    in its experiment, without quotes. Raises TrackingError when made on a damaged spool or one in use; nothing later.
    While it is open, MLflow's own HTTP retries are off: they could create a run twice, and the thread retries anyway.
    """

    def __init__(self, uri: str, experiment: str, spool: Path) -> None:
        self._spool = spool
        spool.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(spool)
        try:
            events = _mend(spool)
            self._progress = _Progress(spool, len(events))
        except BaseException:
            self._lock.release()
            raise
        self._pending = deque(events[self._progress.sent :])
        self._left = _unfinished(events)
        self._mlflow = _Mlflow(uri, experiment)
        self._changed = threading.Condition()
        self._hurry_until, self._closing, self._away = 0.0, False, False
        self._alone_until = 0
        self._retries_before = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        self._record("open", uri=without_credentials(uri), experiment=experiment)
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def run(
        self,
        key: str,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        """Create the run `key`, or go on with it; `parent` is the key of the run it stands under."""
        self._left.pop(key, None)
        short = {k: str(v)[:PARAM_LENGTH] for k, v in (params or {}).items()}
        self._record("run", key=key, name=name, parent=parent, tags=_short_tags(tags or {}), params=short)

    def metrics(self, key: str, values: Mapping[str, float], step: int) -> None:
        """Values at a step. NaN and infinities are left out and noted in the tag not_finite.NAME."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._record("metrics", key=key, values=finite, step=step)
        odd = {f"not_finite.{n}": f"{v} at step {step}" for n, v in values.items() if not math.isfinite(v)}
        if odd:
            self.tags(key, odd)

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags; a tag set before is replaced."""
        self._record("tags", key=key, tags=_short_tags(tags))

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows as a table artifact `name` (ends in .json), which the UI shows; a table of that name is replaced."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[_plain(row.get(column)) for column in columns] for row in rows]
        self._record("table", key=key, name=name, columns=columns, data=data)

    def file(self, key: str, path: Path, folder: str | None = None) -> None:
        """A file as an artifact in `folder`; it must still be there when the event is sent."""
        self._record("file", key=key, path=str(path.resolve()), to=folder)

    def folder(self, key: str, path: Path, to: str) -> None:
        """What a folder holds as artifacts in `to`; it must still be there when the event is sent."""
        self._record("folder", key=key, path=str(path.resolve()), to=to)

    def finish(self, key: str, status: Status = "FINISHED") -> None:
        """End a run. A later `run` with its key opens it again."""
        self._left.pop(key, None)
        self._record("finish", key=key, status=status)

    def run_id(self, key: str) -> str | None:
        """MLflow's id of a run, once its `run` event has been sent."""
        return self._mlflow.run_ids.get(key)

    def reconcile(self, live: Collection[str] = ()) -> list[str]:
        """End as KILLED the runs that an earlier driver left RUNNING and that are not in `live`; returns their keys."""
        left = [key for key in self._left if key not in live]
        for key in left:
            self.finish(key, "KILLED")
        return left

    def flush(self, timeout: float) -> int:
        """Wait until everything is sent, at most `timeout` seconds; returns how many events still wait."""
        with self._changed:
            self._hurry_until = time.monotonic() + timeout
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._pending, timeout)
            self._hurry_until = 0.0
            return len(self._pending)

    def close(self, timeout: float = 30.0) -> int:
        """Flush, then stop sending; returns how many events wait in the spool for the next Tracker or `sync`."""
        self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(LEAVE)
        if self._retries_before is None:
            os.environ.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
        else:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = self._retries_before
        return len(self._pending)

    def _record(self, kind: str, **values: Any) -> None:
        event = {"kind": kind, "at": int(time.time() * 1000), **values}
        with self._changed:
            try:
                _append(self._spool, event)
            except OSError as error:
                log.error("%s: an event of kind %s is lost, it cannot be written: %s", self._spool, kind, error)
                return
            self._pending.append(event)
            self._changed.notify_all()

    def _send_all(self) -> None:
        pause = 0.0
        try:
            while batch := self._next_batch(pause):
                pause = self._try(batch, pause)
        finally:
            self._lock.release()

    def _next_batch(self, pause: float) -> list[Event]:
        """The next events to send together, after `pause` seconds; empty when the tracker closes."""
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
        from mlflow.exceptions import MlflowException

        doubtful = self._progress.begin(len(batch))
        try:
            self._mlflow.deliver(batch, doubtful)
        except (MlflowException, RefusedError) as error:
            if not _hopeless(error):
                raise
            if len(batch) > 1:
                self._alone_until = self._progress.sent + len(batch)
                return
            self._refuse(batch[0], error)
        self._done(len(batch))

    def _done(self, count: int) -> None:
        self._progress.done(count)
        if self._away:
            self._away = False
            log.info("MLflow answers again")
        with self._changed:
            for _ in range(count):
                self._pending.popleft()
            self._changed.notify_all()

    def _wait_for_server(self, error: Exception, pause: float) -> float:
        if not self._away:
            self._away = True
            reason = without_credentials(str(error)).splitlines()[0][:300]
            log.warning("MLflow does not take events (%s); they wait in %s and are sent later", reason, self._spool)
        return min(max(FIRST_PAUSE, 2 * pause), LAST_PAUSE)

    def _refuse(self, event: Event, error: Exception) -> None:
        """Set an event aside that cannot be delivered, so that those behind it can."""
        place, reason = self._spool.with_name(f"{self._spool.name}.refused"), without_credentials(str(error))
        line = self._progress.sent + 1
        _append(place, {"line": line, "reason": reason, "event": event})
        log.warning("%s:%d: MLflow refused this event (%s); it is kept in %s", self._spool, line, reason, place.name)


def _take_lock(spool: Path) -> FileLock:
    lock = FileLock(f"{spool}.lock", thread_local=False)
    try:
        lock.acquire(timeout=LEAVE)
    except Timeout as error:
        raise TrackingError(f"{spool} is in use: a running search sends its events itself; wait for its end") from error
    return lock


def _unfinished(events: Sequence[Event]) -> dict[str, None]:
    """The keys of runs that were begun and not ended, in order."""
    left: dict[str, None] = {}
    for event in events:
        if event["kind"] == "run":
            left[event["key"]] = None
        elif event["kind"] == "finish":
            left.pop(event["key"], None)
    return left


def _short_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: without_credentials(str(value))[:TAG_LENGTH] for name, value in tags.items()}


def _plain(value: Any) -> Any:
    """A table cell as JSON has it: numbers and texts as they are, NaN and infinities as null, the rest as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


# --- the command line ------------------------------------------------------------------------------------------------


def sync(folder: Path, uri: str | None = None) -> int:
    """Send what waits in the spool of a search's folder, as long as it gets on; returns how many events still wait.

    `uri` stands in for the address on the spool, which carries no user and password.
    """
    spool = folder / SPOOL if folder.is_dir() else folder
    opened = [event for event in read_spool(spool)[0] if event["kind"] == "open"]
    if not opened:
        raise TrackingError(f"{spool} holds no events; give the folder of a search, the one with {SPOOL} in it")
    tracker = Tracker(uri or opened[-1]["uri"], opened[-1]["experiment"], spool)
    before, waiting = math.inf, tracker.flush(LAST_PAUSE)
    while 0 < waiting < before:
        before, waiting = waiting, tracker.flush(LAST_PAUSE)
    return tracker.close(0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tune.tracking sync FOLDER`: exit 0 when all is sent, 1 when events still wait, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m tune.tracking", description="Records that wait for MLflow.")
    command = parser.add_subparsers(required=True).add_parser("sync", help="send what a search could not send")
    command.add_argument("folder", type=Path, help="the folder of the search")
    command.add_argument("--tracking-uri", help="another address than the search was given")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        waiting = sync(given.folder, given.tracking_uri)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{waiting} events still wait\n" if waiting else "everything is sent\n")
    return 1 if waiting else 0


if __name__ == "__main__":
    sys.exit(main())
