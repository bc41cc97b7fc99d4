"""What is sent to a cluster: the command of the job, its environment and what is noted of it. Plain values.

A job runs `python -m tune.search` in a copy of the project. Its words name everything that could differ there: storage,
profile, name. Where MLflow is goes by the environment.
"""

import os
import secrets
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.package import Package
from cluster.target import Target
from tune.environment import SETTINGS
from tune.lineage import COMMIT, git_words
from tune.request import RequestError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STOP_WAIT = 120
"""Seconds that Ray waits, after it has asked a job to stop, before it kills it: a step, a checkpoint, the record."""

SETUP_WAIT = 1800
"""Seconds that a node may take to install what --pip or --uv names."""


@dataclass(frozen=True)
class Surroundings:
    """Where a job runs: what travels, or the image that has it all; packages to install; values of its environment."""

    package: Package
    environment: Mapping[str, str]
    image: str | None = None
    pip: str | None = None
    uv: str | None = None

    def __str__(self) -> str:
        return self.image or str(self.package)

    def runtime_env(self, folder: Path) -> dict[str, Any]:
        """As Ray takes it; `folder` has a copy of what travels."""
        found: dict[str, Any] = {"env_vars": dict(self.environment)}
        if self.image:
            return {**found, "image_uri": self.image}
        for tool in ("pip", "uv"):
            file = getattr(self, tool)
            if file:
                found |= {tool: {"packages": requirements(file)}, "config": {"setup_timeout_seconds": SETUP_WAIT}}
        return {**found, "working_dir": str(folder)}


def send(
    client: "JobSubmissionClient", name: str, command: Sequence[str], around: Surroundings, metadata: Mapping[str, str]
) -> str:
    """Submit a command as a job whose id begins with `name`; the id."""
    with tempfile.TemporaryDirectory() as folder:
        around.package.write(Path(folder))
        id: str = client.submit_job(
            entrypoint=f"exec {shlex.join(command)}",  # a shell in between would be what a stop reaches
            submission_id=f"{name}-{secrets.token_hex(2)}",
            runtime_env=around.runtime_env(Path(folder)),
            metadata=dict(metadata),
        )
    return id


def search_words(
    rest: Sequence[str], name: str | None, profile: str | None, config: str | None, storage: str
) -> list[str]:
    """The options of the search in the job: those that were given, and those that are decided here."""
    decided = {"--name": name, "--profile": profile, "--config": config, "--storage": storage, "--address": "auto"}
    return [*rest, *(word for option, value in decided.items() if value is not None for word in (option, value))]


def environment(tracking_uri: str, own: Sequence[str], caches: str | None) -> dict[str, str]:
    """What the job finds: Ray's settings, MLflow, how to be stopped, where this code comes from, and `own` values.

    `own` has NAME=VALUE, or NAME for the value that it has here. `caches` is a folder that all nodes share, for models
    that are fetched once; without it each node has its own. Raises RequestError for a name that is not set.
    """
    shared = {"HF_HOME": f"{caches}/huggingface", "PHASEGPT_CACHE": f"{caches}/phasegpt"} if caches else {}
    return {
        **SETTINGS,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C: running trials go to a checkpoint
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT),
        COMMIT: git_words(),
        **shared,
        **dict(_own_value(word) for word in own),
    }


def caches_below(storage: str) -> str | None:
    """Where all nodes can keep what they fetch: beside the results, unless that is object storage."""
    return None if "://" in storage else f"{storage.rstrip('/')}/caches"


def requirements(file: str) -> list[str]:
    """The packages that a file of requirements names. Raises RequestError where there is none."""
    path = Path(os.path.expanduser(file))
    if not os.path.isfile(path):
        raise RequestError(f"{file}: expected a file of requirements, found none")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: expected a file of requirements as UTF-8 text: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def again_words(track: str, name: str, target: Target, storage: str, tracking_uri: str) -> list[str]:
    """The words that go on with a search on the same cluster, with the places that are not the cluster's own."""
    words = ["python", "-m", "cluster.submit", "--track", track, "--resume", name, *target.words]
    local = target.local
    if local is None or storage != local.storage:
        words += ["--storage", storage]
    if local is None or tracking_uri != local.tracking_uri:
        words += ["--tracking-uri", tracking_uri]
    return words


def _own_value(word: str) -> tuple[str, str]:
    name, given, value = word.partition("=")
    if given:
        return name, value
    if name not in os.environ:
        raise RequestError(f"--env {name}: not set here; give {name}=VALUE")
    return name, os.environ[name]
