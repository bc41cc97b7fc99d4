"""Runs on a cluster before a job does: what each node has and sees, printed as one line of JSON behind MARK.

Needs Python and Ray with its pyarrow alone, so that it can tell what else is missing. Asked by one argument, JSON too:
{"id", "storage", "tracking_uri", "packages": [names], "paths": [full paths], "bundles": [what each worker of a job
needs], "placement"}. `checks` judges what it says.
"""

import importlib.metadata
import json
import platform
import shutil
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune import growth

MARK = "PHASEGPT-PROBE "
PATIENCE = 120.0
"""Seconds that a node may take; its workers may have to be started, and their environment made."""


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What one node has: versions, packages, paths; and whether it can write where the first one made room."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("ray", *asked["packages"])},
        "missing_paths": [path for path in asked["paths"] if not Path(path).exists()],
        "storage_error": _leave_mark(asked),
    }


def tracking_error(uri: str) -> str:
    """Why MLflow does not answer from here; nothing where it does. A refused password is an answer."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):  # noqa: S310 - http, as checked before
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in (401, 403) else f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return str(error)


def main(argument: str) -> None:
    """Ask every living node and print what they said."""
    import ray

    asked = json.loads(argument)
    ray.init(address="auto", log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    storage_error = _make_room(asked)
    told = _everywhere([node["NodeID"] for node in nodes], asked)
    _clear(asked)
    said = {
        "storage_error": storage_error,
        "tracking_error": tracking_error(asked["tracking_uri"]),
        "room": _has_or_makes_room(asked),
        "nodes": [
            {"host": node["NodeManagerHostname"], "resources": node["Resources"], "told": told[node["NodeID"]]}
            for node in nodes
        ],
    }
    sys.stdout.write(f"{MARK}{json.dumps(said)}\n")


def _everywhere(ids: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What each node tells, by its id; None where it did not answer in time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(look)
    answers = [
        task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(asked)
        for id in ids
    ]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=PATIENCE)
    return {id: ray.get(answer) if answer in ready else None for id, answer in zip(ids, answers, strict=True)}


def _has_or_makes_room(asked: Mapping[str, Any]) -> bool:
    """Whether a job has room at this moment, or will have it once the autoscaler has added nodes."""
    with growth.asked_for(1, asked["bundles"], asked["placement"]) as groups:
        return all(group.wait(1) for group in groups) or growth.may_come(groups)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _room(asked: Mapping[str, Any]) -> Path | None:
    """A folder of this probe in the storage; none in object storage, where every node tries for itself."""
    return None if "://" in asked["storage"] else Path(asked["storage"]) / f".probe-{asked['id']}"


def _store_error(asked: Mapping[str, Any]) -> str:
    """Why this node cannot put an object into the store and take it away; nothing where it can."""
    from pyarrow.fs import FileSystem

    try:
        store, top = FileSystem.from_uri(asked["storage"])
        name = f"{top}/.probe-{asked['id']}-{uuid.uuid4().hex}"
        with store.open_output_stream(name) as stream:
            stream.write(b"here")
        store.delete_file(name)
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def _make_room(asked: Mapping[str, Any]) -> str:
    """Make the folder, on the node of this process alone; what is wrong with that."""
    room = _room(asked)
    try:
        if room is not None:
            room.mkdir(parents=True)
    except OSError as error:
        return str(error)
    return ""


def _leave_mark(asked: Mapping[str, Any]) -> str:
    """Write into the folder, which is there only where the storage is shared; what is wrong with that."""
    room = _room(asked)
    if room is None:
        return _store_error(asked)
    try:
        (room / uuid.uuid4().hex).touch()
    except OSError as error:
        return str(error)
    return ""


def _clear(asked: Mapping[str, Any]) -> None:
    room = _room(asked)
    if room is not None:
        shutil.rmtree(room, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
