"""SQLite databases of MLflow that need no migration, and what one holds as plain values, wherever it was written."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from phasegpt.mlflow_client import open_client
from tune.delivery import PARENT_TAG, RUN_KEY
from tune.process_load import SYSTEM

OWN = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.runName")
"""Tags that MLflow sets itself, of who and where."""


def migrated(folder: Path, name: str = "mlflow.db") -> str:
    """The address of a database in `folder`, which is left as it is or made as its first use would, but at once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        (folder / name).write_bytes(_first_use())
    return f"sqlite:///{folder}/{name}"


@cache
def _first_use() -> bytes:
    folder = Path(tempfile.mkdtemp())
    open_client(f"sqlite:///{folder}/mlflow.db").search_experiments()
    written = (folder / "mlflow.db").read_bytes()
    shutil.rmtree(folder)
    return written


def contents(uri: str, experiment: str) -> dict[str, dict[str, Any]]:
    """{run key: name, status, parent's key, params, tags, points of each metric, bytes of each file, datasets}.

    Fails where a key has two runs.
    """
    client = open_client(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    keys = {run.info.run_id: run.data.tags[RUN_KEY] for run in found}
    assert len(set(keys.values())) == len(found), sorted(keys.values())
    return {keys[run.info.run_id]: _record(client, run, keys) for run in found}


def _record(client: Any, run: Any, keys: dict[str, str]) -> dict[str, Any]:
    number, tags = run.info.run_id, dict(run.data.tags)
    parent = tags.pop(PARENT_TAG, None)
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parent": parent and keys[parent],
        "params": dict(run.data.params),
        "tags": {name: value for name, value in tags.items() if name not in OWN},
        "metrics": _points(client, run),
        "files": _files(client, number),
        "datasets": sorted((used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs),
    }


def _points(client: Any, run: Any) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric in order; of the machine's load, which differs, only that no step is there twice."""
    points = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    for name in [name for name in points if name.startswith(SYSTEM)]:
        steps = [step for step, _ in points.pop(name)]
        assert len(set(steps)) == len(steps), (name, steps)
    return points


def _files(client: Any, run_id: str) -> dict[str, bytes]:
    if not client.list_artifacts(run_id):
        return {}
    folder = Path(client.download_artifacts(run_id, ""))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
