"""The way to MLflow: `Delivery`, which sends events to one experiment.

Each event arrives once, also where it is sent twice: a run that may be there is looked for by its tag
`phasegpt.run_key` before it is created, params, tags and artifacts can be sent again without harm, and before metrics
that may have arrived are sent again, the server is asked. A request that was given up may still reach the server: the
empty second run that it makes there is deleted. Knows nothing of spools, threads or second attempts: it sends now, or
raises.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from phasegpt.config_io import project_root
from phasegpt.mlflow_client import open_client
from tune.databases import is_database
from tune.refusal import RefusedError
from tune.spool import Event, TrackingError
from tune.views import surplus

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs and charts, not on traces
RUN_KEY = "phasegpt.run_key"
PARENT_TAG = "mlflow.parentRunId"
TABLES_TAG = "mlflow.loggedArtifacts"

METRICS_A_CALL = 900
ROWS_A_CALL = 100
"""Params or tags; with as many metrics as go beside them they are the 1000 that MLflow takes in one call."""

T = TypeVar("T")


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files; None leaves it to the server.

    Of a database without a server: mlartifacts/ beside an SQLite file, and in the project for another.
    """
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
    return (project_root() / "mlartifacts").as_uri() if is_database(uri) else None


def run_of(client: "MlflowClient", experiment: str, key: str) -> str | None:
    """MLflow's id of the oldest run of a key in an experiment; None where there is none."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    asked = f"tags.`{RUN_KEY}` = '{key}'"
    runs = client.search_runs([found.experiment_id], asked, max_results=1, order_by=["attributes.start_time ASC"])
    return str(runs[0].info.run_id) if runs else None


@dataclass(frozen=True)
class _Metric:
    name: str
    value: float
    at: int
    step: int


@dataclass
class _Known:
    """A run in MLflow: where its files go, and the tables that its tag TABLES_TAG lists."""

    run_id: str
    files: str
    tables: list[dict[str, str]]

    @classmethod
    def of(cls, run: "Run") -> "_Known":
        return cls(run.info.run_id, run.info.artifact_uri, json.loads(run.data.tags.get(TABLES_TAG, "[]")))


class Delivery:
    """Delivers events to one experiment. Used by the sending thread alone; others may ask for a `run_id`."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self._runs: dict[str, _Known] = {}
        self._created: set[str] = set()  # runs that were made here: nobody else can have begun one below them
        self._doubted: set[str] = set()  # runs whose creation got no answer once: they may have a twin
        self._opened: tuple[MlflowClient, str] | None = None
        self._send_one = {
            "open": lambda event: None,
            "file": self._send_file,
            "folder": self._send_file,
            "finish": self._send_finish,
            "tables": self._send_tables,
            "text": self._send_text,
            "datasets": self._send_datasets,
            "experiment_tag": self._send_experiment_tag,
        }

    def run_id(self, key: str) -> str | None:
        """MLflow's id of a run, once its first event has been sent."""
        known = self._runs.get(key)
        return known.run_id if known else None

    def deliver(self, events: Sequence[Event], doubtful: bool) -> None:
        """Send a batch as `_batch_length` cuts it; `doubtful` where some of it may have arrived before."""
        self._connect()
        kind = events[0]["kind"]
        if kind in ("metrics", "tags"):
            self._send_rows(events, doubtful)
        elif kind == "run":
            self._send_run(events[0], doubtful)
        elif kind in self._send_one:
            self._send_one[kind](events[0])
        else:
            raise RefusedError(f"an event of a kind that this version does not know: {kind}")

    def _connect(self) -> tuple["MlflowClient", str]:
        """The client and the experiment's id; the experiment is created where there is none."""
        if self._opened is None:
            client = open_client(self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found is not None and found.lifecycle_stage == "deleted":
                raise TrackingError(f"the experiment {self.experiment} is deleted in MLflow; restore it there")
            location = artifact_location(self.uri)
            made = found.experiment_id if found else client.create_experiment(self.experiment, location, KIND)
            self._opened = client, made
        return self._opened

    def _known(self, key: str) -> _Known:
        if key not in self._runs and not self._find(key):
            raise RefusedError(f"MLflow has no run {key!r}; call run({key!r}, ...) before anything else of it")
        return self._runs[key]

    def _find(self, key: str) -> bool:
        """Look for a run, the oldest of its key. Its twins, begun in the same millisecond and empty, are deleted."""
        client, experiment = self._connect()
        found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{key}'", order_by=["attributes.start_time ASC"])
        if not found:
            return False
        known = self.run_id(key)
        chosen = min(found, key=lambda run: (run.info.run_id != known, run.info.start_time, -_rows(run)))
        for run in found:
            if run is not chosen and run.info.start_time == chosen.info.start_time and not _rows(run):
                client.delete_run(run.info.run_id)
        self._runs.setdefault(key, _Known.of(chosen))
        return True

    def _send_run(self, event: Event, doubtful: bool) -> None:
        """Create a run, or open it again where it is there, which is asked only where it can be."""
        key, parent = event["key"], event["parent"]
        tags = {RUN_KEY: key, **event["tags"]}
        if parent is not None:
            tags[PARENT_TAG] = self._known(parent).run_id
        asked = doubtful or parent not in self._created
        if key in self._runs or (asked and self._find(key)):
            self._connect()[0].update_run(self._runs[key].run_id, "RUNNING", event["name"])
            self._log(key, [], tags)
        else:
            self._create(event, tags, doubtful)
        self._log_params(key, event["params"])

    def _create(self, event: Event, tags: Mapping[str, str], doubtful: bool) -> None:
        client, experiment = self._connect()
        key = event["key"]
        self._doubted.add(key)
        self._runs[key] = _Known.of(client.create_run(experiment, event["at"], tags, event["name"]))
        self._created.add(key)
        if not doubtful:
            self._doubted.remove(key)

    def _log_params(self, key: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for part in _parts([Param(name, value) for name, value in params.items()], ROWS_A_CALL):
            self._connect()[0].log_batch(self._known(key).run_id, params=part)

    def _log(self, key: str, metrics: Sequence[_Metric], tags: Mapping[str, str], doubtful: bool = False) -> None:
        """Metrics and tags of one run, in as few calls as the limits allow."""
        from mlflow.entities import Metric, RunTag

        rows = _parts(metrics, METRICS_A_CALL)
        words = _parts([RunTag(name, value) for name, value in tags.items()], ROWS_A_CALL)
        for part, some in zip_longest(rows, words, fillvalue=()):
            new = self._missing(key, part) if doubtful else part
            if new or some:
                told = [Metric(m.name, m.value, m.at, m.step) for m in new]
                self._connect()[0].log_batch(self._known(key).run_id, metrics=told, tags=some)

    def _missing(self, key: str, metrics: Sequence[_Metric]) -> list[_Metric]:
        """Those that the run does not have: a driver that went on elsewhere may tell a value again at another time."""
        client, run_id = self._connect()[0], self._known(key).run_id
        there = {
            (name, point.step, point.value)
            for name in {metric.name for metric in metrics}
            for point in client.get_metric_history(run_id, name)
        }
        return [metric for metric in metrics if (metric.name, metric.step, metric.value) not in there]

    def _send_rows(self, events: Sequence[Event], doubtful: bool) -> None:
        """A stretch of metrics and tags of several runs: one call a run where the limits allow."""
        for key in dict.fromkeys(event["key"] for event in events):
            own = [event for event in events if event["key"] == key]
            metrics = [
                _Metric(name, value, event["at"], event["step"])
                for event in own
                if event["kind"] == "metrics"
                for name, value in event["values"].items()
            ]
            tags = {name: value for event in own if event["kind"] == "tags" for name, value in event["tags"].items()}
            self._log(key, metrics, tags, doubtful)

    def _files(self, key: str) -> "ArtifactRepository":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._known(key).files, tracking_uri=self.uri)

    def _send_file(self, event: Event) -> None:
        path = Path(event["path"])
        if not path.exists():
            raise RefusedError(f"{path} is gone")
        files = self._files(event["key"])
        send = files.log_artifacts if event["kind"] == "folder" else files.log_artifact
        send(str(path), event["to"])

    def _send_finish(self, event: Event) -> None:
        key = event["key"]
        self._connect()[0].set_terminated(self._known(key).run_id, event["status"], event["at"])
        if key in self._doubted:
            self._find(key)
            self._doubted.remove(key)

    def _send_tables(self, event: Event) -> None:
        """What MlflowClient.log_table writes: rows in pandas' "split" layout, and the tag that tells the UI of them."""
        run, key = self._known(event["key"]), event["key"]
        for name, table in event["tables"].items():
            self._write(key, name, json.dumps(table))
        new = [entry for name in event["tables"] if (entry := {"path": name, "type": "table"}) not in run.tables]
        if new:
            self._connect()[0].set_tag(run.run_id, TABLES_TAG, json.dumps([*run.tables, *new]))
            run.tables += new

    def _send_text(self, event: Event) -> None:
        self._write(event["key"], event["name"], event["text"])

    def _write(self, key: str, name: str, text: str) -> None:
        """A text as the artifact `name` of a run, which may lie in folders."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / Path(name).name
            place.write_text(text, encoding="utf-8")
            self._files(key).log_artifact(str(place), str(Path(name).parent) if "/" in name else None)

    def _send_datasets(self, event: Event) -> None:
        """MLflow keeps a name and digest once a run, also where it is told again."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = []
        for row in event["datasets"]:
            kept = Dataset(row["name"], row["digest"], "local", row["source"], row["schema"], row["profile"])
            inputs.append(DatasetInput(kept, [InputTag(MLFLOW_DATASET_CONTEXT, row["context"])]))
        self._connect()[0].log_inputs(self._known(event["key"]).run_id, inputs)

    def _send_experiment_tag(self, event: Event) -> None:
        client, experiment = self._connect()
        client.set_experiment_tag(experiment, event["name"], event["value"])
        self._drop_views()

    def _drop_views(self) -> None:
        """Delete the views that are too many. What stops that is no matter: the next search tries again."""
        from mlflow.exceptions import MlflowException

        client, experiment = self._connect()
        with suppress(MlflowException):  # another search was faster, or the server is older than that call
            for key in surplus(client.get_experiment(experiment).tags):
                client.delete_experiment_tag(experiment, key)


def _rows(run: "Run") -> int:
    return len(run.data.params) + len(run.data.metrics)


def _parts(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]
