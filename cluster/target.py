"""Which cluster a command means, and by what token it is spoken to; the cluster on this machine where none is named."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cluster.dashboard import Dashboard
from cluster.state import LocalCluster, read_state, read_token
from tune.request import RequestError

NO_CLUSTER = (
    "no cluster is named and none was started here; give --address http://HEAD:8265, set RAY_API_SERVER_ADDRESS, "
    "or start one on this machine: python -m cluster.local start"
)


@dataclass(frozen=True)
class Target:
    """A cluster: its dashboard, and `local` where it is the one that `cluster.local` started on this machine."""

    dashboard: Dashboard
    local: LocalCluster | None = None

    @property
    def words(self) -> list[str]:
        """The words of a command that name it again."""
        return [] if self.local else ["--address", self.dashboard.address]


def find_target(address: str | None) -> Target:
    """The cluster at `address`, else the one on this machine, else that of RAY_API_SERVER_ADDRESS, or RequestError."""
    try:
        local = read_state()
        local_token = read_token() if local else None
    except ValueError as error:
        raise RequestError(str(error)) from error
    if address is None and local is None:
        address = os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None and local is None:
        raise RequestError(NO_CLUSTER)
    if local is not None and address in (None, local.address):
        return Target(Dashboard(local.address, local_token), local)
    return Target(Dashboard(checked_address(str(address)), token_here()))


def checked_address(address: str) -> str:
    """An http address without its last slash. Raises RequestError for what jobs cannot be sent to."""
    if not address.startswith(("http://", "https://")):
        raise RequestError(
            f"--address {address}: jobs are sent to a cluster's dashboard; expected http://HEAD:8265 or https://…"
        )
    try:
        urlsplit(address).port  # noqa: B018 - it is read for what it refuses
    except ValueError as error:
        raise RequestError(f"--address {address:.200}: {error}; expected http://HEAD:8265 or https://…") from error
    return address.rstrip("/")


def token_here() -> str | None:
    """The token that Ray's own tools would take: $RAY_AUTH_TOKEN, or what $RAY_AUTH_TOKEN_PATH or ~/.ray names."""
    if told := os.environ.get("RAY_AUTH_TOKEN"):
        return told.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(os.path.expanduser(named or "~/.ray/auth_token"))
    if named and not os.path.isfile(file):
        raise RequestError(f"RAY_AUTH_TOKEN_PATH names {named}, which is no file")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
