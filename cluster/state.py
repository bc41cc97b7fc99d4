"""What `cluster.local` remembers of the cluster that it started: addresses, token, and which processes are its own.

One folder, $PHASEGPT_CACHE/cluster, and in it one file that is there whole or not at all, for its owner alone.
Knows nothing of how processes are started and ended.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phasegpt.bundled import cache_dir
from phasegpt.files import DamagedError, read_json, write_text

OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Root:
    """A process that leads a session of its own: a node with all of Ray's parts on it, or the MLflow server.

    `started` (seconds since 1970, as the system has it) tells it from a later process of the same number.
    """

    what: str
    pid: int
    started: float


@dataclass(frozen=True)
class LocalCluster:
    """A cluster on this machine. `mark` is in the environment of everything that belongs to it,
    `host` is where dashboard and MLflow listen.

    `temp` is Ray's own folder, which goes when the cluster ends. `storage` and what MLflow keeps stay.
    """

    mark: str
    host: str
    address: str
    tracking_uri: str
    storage: str
    temp: str
    booted: float
    roots: tuple[Root, ...] = ()

    def with_root(self, root: Root) -> "LocalCluster":
        """The same with one process more."""
        return replace(self, roots=(*self.roots, root))


def cluster_folder() -> Path:
    """Where the local cluster keeps its state, token, logs, MLflow and, by default, its storage."""
    return cache_dir() / "cluster"


def token_file() -> Path:
    """The token of the local cluster, which Ray's processes and its clients read."""
    return cluster_folder() / "token"


def read_token() -> str:
    """The token. Raises ValueError where it is gone."""
    try:
        return token_file().read_text(encoding="ascii")
    except OSError as error:
        raise ValueError(f"{token_file()} is gone; python -m cluster.local stop, and start again") from error


def state_file() -> Path:
    """Where the state lies."""
    return cluster_folder() / "state.json"


def read_state() -> LocalCluster | None:
    """The cluster that was started last and not stopped; None where there is none. Raises ValueError if damaged."""
    if not os.path.isfile(state_file()):
        return None
    kept: dict[str, Any] = read_json(state_file())
    try:
        return LocalCluster(**{**kept, "roots": tuple(Root(**root) for root in kept["roots"])})
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{state_file()} is damaged ({error!r}); remove it and start again") from error


def write_state(cluster: LocalCluster) -> None:
    """Keep the state, for its owner alone."""
    write_text(state_file(), json.dumps(asdict(cluster), indent=1) + "\n", OWNER_ONLY)


def forget() -> None:
    """Remove state and token; logs, storage and MLflow's files stay."""
    state_file().unlink(missing_ok=True)
    token_file().unlink(missing_ok=True)
