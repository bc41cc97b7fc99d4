"""Waiting for nodes: a real autoscaler, whose nodes are raylets on this machine."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import MARK, marked

ROOT = Path(__file__).parents[2]
COMMANDS = (  # what a launcher would run on a node: nothing; Ray asks for each
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "rsync_exclude",
    "rsync_filter",
)
GROW = [sys.executable, "-m", "cluster.grow"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def grow(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GROW, *words], check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    "words",
    [[], ["--gpus", "0"], ["--gpus", "-1"], ["--cpus", "2", "--gpus", "-1"], ["--gpus", "1", "--minutes", "0"]],
)
def test_nothing_to_wait_for_is_bad_input(words: list[str]) -> None:
    done = grow(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected --gpus or --cpus of 1 or more" in done.stderr


def test_an_address_where_nothing_answers_is_said_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = grow("--gpus", "1", "--address", address, "--", "echo", "never")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"--address {address}: nothing answers there")
    assert len(done.stderr.splitlines()) == 1


def test_help_needs_no_ray() -> None:
    code = "import sys; from cluster.grow import parser; parser().format_help(); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@dataclass(frozen=True)
class Elastic:
    """A Ray cluster that grows: its address, and the environment that knows its token."""

    address: str
    env: dict[str, str]

    def grow(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return grow("--address", self.address, *words, env=self.env | env)

    def wait_for_no_gpu(self) -> None:
        code = f"""
import ray, time
ray.init(address={self.address!r}, log_to_driver=False, logging_level="ERROR")
while ray.cluster_resources().get("GPU"):
    time.sleep(0.5)
"""
        subprocess.run([sys.executable, "-c", code], env=self.env, check=True, timeout=240)


def config(address: str) -> dict[str, Any]:
    """A head without CPUs, and at most two nodes with one GPU that nobody checks. They are raylets on this machine."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

    node = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000}, "node_config": {}}
    provider = {
        "type": "external",
        "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "gcs_address": address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
    }
    return {
        "cluster_name": "elastic",
        "max_workers": 2,
        "idle_timeout_minutes": 0.05,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {**node, "min_workers": 0, "max_workers": 2},
        },
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in COMMANDS},
    }


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator[Elastic]:
    """The cluster of `config`, under the autoscaler that KubeRay runs. Nothing of it is left behind."""
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    mark, port = secrets.token_hex(8), free_port()
    address = f"{get_node_ip_address()}:{port}"
    (tmp_path / "elastic.json").write_text(json.dumps(config(address)))
    env = os.environ | {
        MARK: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    of_the_head = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with tempfile.TemporaryDirectory(prefix="r") as sockets:  # a socket's path has at most 107 characters
        words = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
        words += ["--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"]
        words += [f"--temp-dir={sockets}", f"--autoscaling-config={tmp_path / 'elastic.json'}"]
        with (tmp_path / "head.log").open("w") as log:
            head = subprocess.Popen(words, env=env | of_the_head, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text())
            yield Elastic(address, env)
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            head.wait(60)
            until(lambda: not marked(mark))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 180
    while not true():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.cluster  # three raylets
@pytest.mark.timeout(600)
def test_nodes_come_the_command_runs_and_the_nodes_may_go_again(elastic: Elastic) -> None:
    done = elastic.grow("--gpus", "2", "--", "echo", "here", "--we", "are")
    assert (done.returncode, done.stdout) == (0, "here --we are\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "2 of 2 GPUs are here"

    more = elastic.grow("--gpus", "3", "--minutes", "0.1", "--", "echo", "never")
    assert (more.returncode, more.stdout) == (3, ""), more.stderr
    assert "of 3 GPUs are here; ask for fewer" in more.stderr.splitlines()[-1]

    elastic.wait_for_no_gpu()  # nobody asks for them any more

    stranger = elastic.grow("--gpus", "1", "--", "echo", "never", RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert (stranger.returncode, stranger.stdout) == (2, ""), stranger.stderr
    assert "not with this token" in stranger.stderr.splitlines()[-1]
