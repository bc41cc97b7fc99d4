"""The processes of a cluster on this machine: nodes that are Ray's own `ray start`, and an MLflow server beside them.

Each node is a raylet of its own with its own workers, as on machines of their own; they share disk and cores. They are
started one after another, since two that begin at once take each other's sockets (seen: the first never came up).
"""

import os
import secrets
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from cluster.dashboard import Dashboard
from cluster.processes import MARK, alive, kill_session, launch
from cluster.state import OWNER_ONLY, LocalCluster, Root, cluster_folder, read_token, token_file, write_state
from phasegpt.files import write_text
from tune.environment import ONE_MACHINE, SETTINGS
from tune.request import RequestError

OBJECT_STORE = 100_000_000
"""Bytes of a node's object store: jobs pass plain values through it, and share their tensors as files."""

PATIENCE = 180.0
"""Seconds for a part to come up; on a quiet machine a node takes ten, MLflow fifteen."""

USUAL_PORT = 8265
TRIES = 3
"""Ray gives a node up that has not come up in half a minute, as on a machine that is busy with other things."""

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - only compared with what was asked for
Tell = Callable[[str], None]


def new_cluster(storage: Path, host: str, port: int | None) -> LocalCluster:
    """A cluster that has no process yet: its addresses, a fresh token in its file, its folders made.

    Raises RequestError where `host` is no address of this machine, or the dashboard's `port` is taken.
    """
    here = LOOPBACK if host == EVERYWHERE else host
    dashboard = _dashboard_port(here, port)
    for place in (cluster_folder(), storage):
        place.mkdir(parents=True, exist_ok=True)
    cluster_folder().chmod(0o700)
    write_text(token_file(), secrets.token_hex(32), OWNER_ONLY)
    return LocalCluster(
        mark=secrets.token_hex(8),
        host=host,
        address=f"http://{here}:{dashboard}",
        tracking_uri=f"http://{here}:{free_port(here)}",
        storage=str(storage),
        temp=tempfile.mkdtemp(
            prefix="phasegpt-ray-"
        ),  # short: Ray's sockets lie there, whose paths may have 107 letters
        booted=psutil.boot_time(),
    )


def bring_up(cluster: LocalCluster, count: int, cpus: int, tell: Tell) -> None:
    """Start MLflow and `count` nodes; each process is in the state file once it runs. Raises RequestError.

    What was started stays when this raises: the caller ends it by the state file.
    """
    environment = node_environment(cluster)
    gcs = f"{LOOPBACK}:{free_port()}"
    cluster = _start(cluster, "mlflow", _mlflow(cluster), environment)
    for number in range(count):
        cluster = _add_node(cluster, number, cpus, gcs, environment)
        tell(f"node {number + 1} of {count} is up: {cpus} CPU")
    if not _comes(lambda: answers(f"{cluster.tracking_uri}/health"), cluster.roots[0]):
        raise RequestError(f"MLflow did not come up; it says why in {log_of('mlflow')}")
    tell(f"MLflow is up: {cluster.tracking_uri}")


def node_environment(cluster: LocalCluster) -> dict[str, str]:
    """What every process of the cluster finds: the token's file, our mark, this Python as `python`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return {
        **kept,
        **SETTINGS,
        ONE_MACHINE: "1",  # without it `ray start` lets no second node join
        MARK: cluster.mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": f"{PATIENCE:.0f}",
        "RAY_gcs_server_port_wait_time_s": f"{PATIENCE:.0f}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runners serve evaluations that nobody asks for here
    }


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on at this moment. Raises RequestError where `host` is not this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise RequestError(f"--host {host}: expected an address of this machine ({error})") from error
        return int(probe.getsockname()[1])


def _dashboard_port(host: str, asked: int | None) -> int:
    """The port that was asked for, else Ray's usual one, else one that is free."""
    other = free_port(host)
    if asked is not None and not is_free(asked, host):
        raise RequestError(f"--port {asked}: something listens there already; leave it out to take a free one")
    return asked or (USUAL_PORT if is_free(USUAL_PORT, host) else other)


def is_free(port: int, host: str) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def answers(address: str) -> bool:
    """Whether an http server answers well at an address."""
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own server
            return True
    except OSError:
        return False


def _port_of(address: str) -> str:
    return address.rpartition(":")[2]


def _node(cluster: LocalCluster, cpus: int) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--temp-dir={cluster.temp}"),
        *(f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"),
    ]


def _head(cluster: LocalCluster, gcs: str) -> list[str]:
    return [
        *("--head", f"--port={_port_of(gcs)}", f"--ray-client-server-port={free_port()}", "--disable-usage-stats"),
        *(f"--dashboard-host={cluster.host}", f"--dashboard-port={_port_of(cluster.address)}"),
    ]


def _mlflow(cluster: LocalCluster) -> list[str]:
    folder = cluster_folder()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlartifacts")),
        *("--host", cluster.host, "--port", _port_of(cluster.tracking_uri)),
    ]


def _start(cluster: LocalCluster, what: str, command: list[str], environment: Mapping[str, str]) -> LocalCluster:
    root = launch(what, command, environment, log_of(what))
    cluster = cluster.with_root(root)
    write_state(cluster)
    return cluster


def _add_node(cluster: LocalCluster, number: int, cpus: int, gcs: str, environment: Mapping[str, str]) -> LocalCluster:
    """One node more, the head first; it has joined when this returns."""
    what = f"node-{number}" if number else "head"
    own = ["--address", gcs, "--include-log-monitor=false"] if number else _head(cluster, gcs)
    for _ in range(TRIES):
        grown = _start(cluster, what, [*_node(cluster, cpus), *own], environment)
        if _comes(lambda: _joined(cluster) > number, grown.roots[-1]):
            return grown
        kill_session(grown.roots[-1])
    raise RequestError(f"{what} did not come up, {TRIES} times; it says why in {log_of(what)}")


def log_of(what: str) -> Path:
    """What a process of the cluster says."""
    return cluster_folder() / "logs" / f"{what}.log"


def _joined(cluster: LocalCluster) -> int:
    try:
        return len(Dashboard(cluster.address, read_token()).nodes())
    except RequestError:
        return 0


def _comes(true: Callable[[], bool], root: Root) -> bool:
    """Wait for a part to come up; False where its process ends first, or nothing comes in PATIENCE."""
    patience = time.monotonic() + PATIENCE
    while not true():
        if not alive(root) or time.monotonic() > patience:
            return False
        time.sleep(0.3)
    return True
