"""The only writer to MLflow and W&B: what a search says of its runs, from the first parameter to the last status.

A `Tracker` lives in the driver and never raises into the search. When the server is away, its events wait beside the
search and go out later: when it is back, at the next `Tracker` on the same spool, or by
`python -m tune.tracking sync NAME` (`tune.sync`). W&B gets the runs that ask for it beside MLflow, and never instead.
Knows nothing of trials or models, nor how an event is kept and delivered.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from phasegpt.credentials import without_credentials
from tune.databases import require_driver
from tune.datasets import Dataset
from tune.delivery import Delivery
from tune.outbox import Outbox
from tune.process_load import SYSTEM
from tune.wandb_sink import WandbSink

PARAM_LENGTH = 6000
TAG_LENGTH = 8000

Status = Literal["FINISHED", "FAILED", "KILLED"]


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A resolved config as MLflow params: dotted keys; texts as they are, everything else as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_params(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


class Tracker:
    """The search's record in MLflow. Calls journal an event (fsync) and return; a thread sends in the background.

    Runs whose params have `logging.use_wandb` go to W&B as well, all but their tables, files, inputs and machine data.
    `spool` is the file SPOOL in the search's folder. A `key` names a run for good, such as "search/trial-003": unique
    in its experiment, without quotes. Raises TrackingError when made on a damaged spool or one in use, or for a
    database whose driver is missing, and from the first run that asks for W&B where the package is missing; nothing
    later.
    """

    def __init__(self, uri: str, experiment: str, spool: Path) -> None:
        require_driver(uri)
        self._delivery = Delivery(uri, experiment)
        self._outbox = Outbox(spool, self._delivery)
        self._wandb = WandbSink(spool.parent)
        self._left = dict(self._outbox.left)
        self._outbox.put("open", uri=without_credentials(uri), experiment=experiment)

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
        short, short_tags = {k: str(v)[:PARAM_LENGTH] for k, v in (params or {}).items()}, _short_tags(tags or {})
        self._wandb.run(key, name, parent, _without_own(short_tags), short)
        self._outbox.put("run", key=key, name=name, parent=parent, tags=short_tags, params=short)

    def metrics(self, key: str, values: Mapping[str, float], step: int) -> None:
        """Values at a step. NaN and infinities are left out and noted in the tag not_finite.NAME.

        What was said before of a run that has not ended, or by an earlier process, is not said again.
        """
        told = self._outbox.told.setdefault(key, {})
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        new = {name: value for name, value in finite.items() if told.get((name, step)) != value}
        if new:
            self._outbox.put("metrics", key=key, values=new, step=step)
            if own := {name: value for name, value in new.items() if not name.startswith(SYSTEM)}:
                self._wandb.metrics(key, own, step)
            told.update({(name, step): value for name, value in new.items()})
        odd = {f"not_finite.{n}": f"{v} at step {step}" for n, v in values.items() if not math.isfinite(v)}
        if odd:
            self.tags(key, odd)

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags; a tag set before is replaced."""
        short = _short_tags(tags)
        self._outbox.put("tags", key=key, tags=short)
        if own := _without_own(short):
            self._wandb.tags(key, own)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows as a table artifact `name` (ends in .json), which the UI shows; a table of that name is replaced."""
        self.tables(key, {name: rows})

    def tables(self, key: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Several tables of a run by name, those that have rows: cheaper than one after another."""
        split = {name: _split(rows) for name, rows in tables.items() if rows}
        if split:
            self._outbox.put("tables", key=key, tables=split)

    def text(self, key: str, text: str, name: str) -> None:
        """A text as the artifact `name`."""
        self._outbox.put("text", key=key, name=name, text=text)

    def datasets(self, key: str, datasets: Sequence[Dataset]) -> None:
        """What a run is given, as its inputs; what it was said to have before stays."""
        if datasets:
            self._outbox.put("datasets", key=key, datasets=[asdict(dataset) for dataset in datasets])

    def file(self, key: str, path: Path, folder: str | None = None) -> None:
        """A file as an artifact in `folder`; it must still be there when the event is sent."""
        self._outbox.put("file", key=key, path=str(path.resolve()), to=folder)

    def folder(self, key: str, path: Path, to: str) -> None:
        """What a folder holds as artifacts in `to`; it must still be there when the event is sent."""
        self._outbox.put("folder", key=key, path=str(path.resolve()), to=to)

    def experiment_tag(self, name: str, value: str) -> None:
        """Set a tag of the experiment that all runs lie in; one set before is replaced."""
        self._outbox.put("experiment_tag", name=name, value=value)

    def finish(self, key: str, status: Status = "FINISHED") -> None:
        """End a run. A later `run` with its key opens it again."""
        self._left.pop(key, None)
        if status != "KILLED":
            self._outbox.told.pop(key, None)
        self._outbox.put("finish", key=key, status=status)
        self._wandb.finish(key, status)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread says while the block lasts is journalled when it ends, at the cost of one event."""
        with self._outbox.together():
            yield

    def run_id(self, key: str) -> str | None:
        """MLflow's id of a run, once its `run` event has been sent."""
        return self._delivery.run_id(key)

    def left(self) -> list[str]:
        """The keys of runs that an earlier driver left RUNNING and that nobody has taken up or ended since."""
        return list(self._left)

    def missed(self, key: str, status: Status) -> bool:
        """Whether an earlier driver did not come to say that a run ended so: it died, or its disk was full."""
        return key in self._left or (bool(self._outbox.ended) and self._outbox.ended.get(key) != status)

    def reconcile(self, search: str) -> list[str]:
        """End as KILLED the runs of a search that an earlier driver left RUNNING; returns their keys.

        The run of its family, whose end stands in another spool, is left alone.
        """
        left = [key for key in self._left if key.partition("/")[0] == search]
        for key in left:
            self.finish(key, "KILLED")
        return left

    @property
    def trouble(self) -> str:
        """Why events wait, in one line without credentials; empty while MLflow takes them."""
        return self._outbox.trouble

    def flush(self, timeout: float) -> int:
        """Wait until everything is sent, at most `timeout` seconds; returns how many events still wait."""
        return self._outbox.flush(timeout)

    def close(self, timeout: float = 30.0) -> int:
        """Flush, then stop sending; returns how many events wait in the spool for the next Tracker or `sync`.

        W&B has CLOSE_SECONDS of its own to end.
        """
        waiting = self._outbox.close(timeout)
        self._wandb.close()
        return waiting


def _split(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows in pandas' "split" layout, which MLflow's tables have."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {"columns": columns, "data": [[_plain(row.get(column)) for column in columns] for row in rows]}


def _without_own(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that mean something to MLflow's UI alone."""
    return {name: value for name, value in tags.items() if not name.startswith("mlflow.")}


def _short_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: without_credentials(str(value))[:TAG_LENGTH] for name, value in tags.items()}


def _plain(value: Any) -> Any:
    """A table cell as JSON has it: numbers and texts as they are, NaN and infinities as null, the rest as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


if __name__ == "__main__":
    from phasegpt.interrupts import run
    from tune.sync import main

    run(main)
