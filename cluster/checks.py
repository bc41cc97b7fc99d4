"""What is checked before a job is sent: each check says what is wrong and the cure, or nothing. Plain values.

What a cluster is like comes from `probe`, which ran there. Nothing here asks anybody.
"""

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from phasegpt.credentials import without_credentials
from tune.capacity import Ask, ClusterError, Node, slots

PACKAGES = ("torch", "transformers", "peft", "optuna", "mlflow", "pydantic", "safetensors", "filelock", "rich")
"""What a node must have to run a job; the rest comes with them, or is asked for by few."""


@dataclass(frozen=True)
class Failure:
    """One thing that stands in a job's way, and what to do about it."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"


@dataclass(frozen=True)
class Told:
    """What a probe said of a cluster. `room`: a job has room now, or the autoscaler will make it."""

    nodes: Sequence[Mapping[str, Any]]
    storage_error: str
    tracking_error: str
    room: bool = False

    @property
    def resources(self) -> list[Node]:
        """What each node has."""
        return [node["resources"] for node in self.nodes]

    @property
    def has_gpu(self) -> bool:
        """Whether any node has one."""
        return any(node.get("GPU", 0.0) for node in self.resources)

    def answers(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """(host, what it told) of the nodes that answered."""
        return ((node["host"], node["told"]) for node in self.nodes if node["told"] is not None)


def storage_can_be_shared(storage: str | None) -> list[Failure]:
    """A job's own folder is temporary: what is to stay needs a place that is the same for every node."""
    if storage is None:
        return [
            Failure(
                "--storage is missing",
                "name a folder that every node sees, by its full path: /shared/phasegpt; or s3://BUCKET/PREFIX",
            )
        ]
    if "://" in storage or PurePosixPath(storage).is_absolute():
        return []
    return [Failure(f"--storage {storage} is relative, and a job's folder is temporary", "give its full path")]


def tracking_is_http(uri: str | None) -> list[Failure]:
    """A job cannot write to a file of this machine, and an address in a command is for all to see."""
    cure = "give --tracking-uri http://HOST:5000 of an MLflow server that the cluster reaches"
    if uri is None:
        return [Failure("no MLflow server is named", cure)]
    if not uri.startswith(("http://", "https://")):
        return [Failure(f"--tracking-uri {without_credentials(uri)} is no server that a job can reach", cure)]
    if re.match(r"https?://[^/]*@", uri):
        cure = "leave them out and send them with --env MLFLOW_TRACKING_USERNAME --env MLFLOW_TRACKING_PASSWORD"
        return [Failure("--tracking-uri holds a user and a password, which everybody on the cluster would see", cure)]
    return []


def study_is_bare(url: str | None) -> list[Failure]:
    """The address of the study goes to the job in its command."""
    if url is None or not re.search(r"//[^?]*:[^?]*@|password=", url):
        return []
    return [Failure("--study-url holds a password, which everybody on the cluster would see", "send --env PGPASSWORD")]


def same_ray(theirs: str, ours: str) -> list[Failure]:
    """Ray speaks to the same version of itself alone."""
    if theirs == ours:
        return []
    return [
        Failure(f"the cluster runs Ray {theirs}, this machine {ours}", f"install one of them on both: ray=={theirs}")
    ]


def same_python(told: Told, ours: str | None = None) -> list[Failure]:
    """All nodes and this machine run the same minor version: what Ray pickles here is read there."""
    here = _minor(ours or platform.python_version())
    found = {(host, _minor(node["python"])) for host, node in told.answers()}
    return [
        Failure(f"{host} runs Python {version}, this machine {here}", "take an image or an environment of the same one")
        for host, version in sorted(found)
        if version != here
    ]


def all_answered(told: Told) -> list[Failure]:
    """A node that does not start a worker would hold up trials."""
    silent = sorted(node["host"] for node in told.nodes if node["told"] is None)
    return [
        Failure(f"{host} started no worker in time", "look at its logs in the dashboard, or take it out")
        for host in silent
    ]


def has_packages(told: Told) -> list[Failure]:
    """What the job imports is installed on every node, all in one version."""
    failures = []
    for name in PACKAGES:
        found = {host: node["packages"].get(name) for host, node in told.answers()}
        missing = sorted(host for host, version in found.items() if version is None)
        if missing:
            cure = "install it there, or send --pip constraints.txt or an --image that has it"
            failures.append(Failure(f"{', '.join(missing)}: {name} is not installed", cure))
        elif len(set(found.values())) > 1:
            said = ", ".join(f"{host} {version}" for host, version in sorted(found.items()))
            failures.append(Failure(f"nodes differ in {name}: {said}", "install one version everywhere"))
    return failures


def has_paths(told: Told) -> list[Failure]:
    """Files and folders that the config names by their full path are on every node."""
    missing: dict[str, set[str]] = {}
    for host, node in told.answers():
        for path in node["missing_paths"]:
            missing.setdefault(path, set()).add(host)
    cure = "put it into the project, which travels, or where every node sees it"
    return [Failure(f"{path} is not on {', '.join(sorted(hosts))}", cure) for path, hosts in sorted(missing.items())]


def storage_is_shared(told: Told, storage: str) -> list[Failure]:
    """What one node writes the others see."""
    if "://" in storage:
        return _every_node_writes(told, storage)
    cure = "name a folder of a shared file system (NFS, EFS, Filestore, a ReadWriteMany volume) that all nodes mount"
    if told.storage_error:
        return [Failure(f"--storage {storage}: the head cannot write there: {told.storage_error}", cure)]
    return [
        Failure(f"--storage {storage} is not shared: {host} does not see what the head wrote", cure)
        for host in sorted({host for host, node in told.answers() if node["storage_error"]})
    ]


def _every_node_writes(told: Told, storage: str) -> list[Failure]:
    """Nodes meet in object storage: each of them must reach it, with credentials of its own."""
    cure = "give the nodes a role that may read, write and delete there, and send what else they need with --env NAME"
    return [
        Failure(f"--storage {storage}: {host} cannot write there: {node['storage_error']}", cure)
        for host, node in told.answers()
        if node["storage_error"]
    ]


def tracking_answers(told: Told, uri: str) -> list[Failure]:
    """The driver of the job reaches MLflow."""
    if not told.tracking_error:
        return []
    cure = "start it, or give its address as the cluster sees it: there, 127.0.0.1 is the head itself"
    return [Failure(f"--tracking-uri {uri} does not answer from the cluster: {told.tracking_error}", cure)]


def one_trial_fits(told: Told, ask: Ask, max_concurrent: int | None) -> list[Failure]:
    """The cluster has room for at least one trial, or grows."""
    return [] if told.room else _too_small(told, ask, max_concurrent)


def waits_for_nodes(told: Told, ask: Ask) -> list[str]:
    """What the first trial waits for where the cluster has no room for it yet, but grows."""
    return [failure.what for failure in _too_small(told, ask, None)] if told.room else []


def _too_small(told: Told, ask: Ask, max_concurrent: int | None) -> list[Failure]:
    try:
        slots(told.resources, ask, max_concurrent)
    except ClusterError as error:
        what, _, cure = str(error).rpartition("; ")
        return [Failure(what, cure)]
    return []


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
