"""The way to MLflow: its address, a quiet client, and `Delivery`, which sends events to one experiment.

Each event arrives once, also where it is sent twice: a run is looked for by its tag `phasegpt.run_key` before it is
created, params, tags and artifacts can be sent again without harm, and before metrics that may have arrived are sent
again, the server is asked. Knows nothing of spools, threads or second attempts: it sends now, or raises.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tune.spool import Event, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs and charts, not on traces
RUN_KEY = "phasegpt.run_key"
PARENT_TAG = "mlflow.parentRunId"
TABLES_TAG = "mlflow.loggedArtifacts"

METRICS_A_CALL = 1000
ROWS_A_CALL = 100

T = TypeVar("T")


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


def open_client(uri: str) -> "MlflowClient":
    """A quiet client: no banners, no telemetry, no migration log. The first use of an SQLite file migrates it (2 s)."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def hopeless(error: Exception) -> bool:
    """Whether sending the same again can never help: the server understood and declined."""
    code = getattr(error, "error_code", "")
    return isinstance(error, RefusedError) or code in (
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "RESOURCE_DOES_NOT_EXIST",
    )


@dataclass(frozen=True)
class _Metric:
    name: str
    value: float
    at: int
    step: int


class Delivery:
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
            "tables": self._send_tables,
            "text": self._send_text,
            "datasets": self._send_datasets,
            "experiment_tag": self._send_experiment_tag,
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
            made = found.experiment_id if found else client.create_experiment(self.experiment, location, KIND)
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

    def _send_tables(self, event: Event) -> None:
        """Several tables at once, by name: one look at the tag by which the UI finds them, and one change of it."""
        client, run_id = self._connect()[0], self._run_id(event["key"])
        for name, table in event["tables"].items():
            client.log_text(run_id, json.dumps(table), name)
        known = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
        new = [entry for name in event["tables"] if (entry := {"path": name, "type": "table"}) not in known]
        if new:
            client.set_tag(run_id, TABLES_TAG, json.dumps([*known, *new]))

    def _send_text(self, event: Event) -> None:
        self._connect()[0].log_text(self._run_id(event["key"]), event["text"], event["name"])

    def _send_datasets(self, event: Event) -> None:
        """MLflow keeps a name and digest once a run, also where it is told again."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = []
        for row in event["datasets"]:
            kept = Dataset(row["name"], row["digest"], "local", row["source"], row["schema"], row["profile"])
            inputs.append(DatasetInput(kept, [InputTag(MLFLOW_DATASET_CONTEXT, row["context"])]))
        self._connect()[0].log_inputs(self._run_id(event["key"]), inputs)

    def _send_experiment_tag(self, event: Event) -> None:
        client, experiment = self._connect()
        client.set_experiment_tag(experiment, event["name"], event["value"])


def _parts(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]
