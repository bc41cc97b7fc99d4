"""Searches on a cluster that grows from nothing: a real autoscaler, whose nodes are raylets on this machine."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import read_json
from tests.cluster.machine import submit_command
from tests.mlflow_server import MlflowServer, running
from tests.noop import SECONDS
from tests.processes import MARK, free_port, marked
from tune.environment import ONE_MACHINE

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
SETS = [
    *("search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}"),
    *("search.sampler=random", "training.max_steps=3", "evaluation.eval_interval=1"),
]


@dataclass(frozen=True)
class Elastic:
    """A Ray cluster that grows: its addresses, and the environment that knows its token."""

    address: str
    dashboard: str
    env: dict[str, str]

    def search(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a search of four trials, whose jobs train nothing, to its end."""
        places = ["--address", self.address, "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        return self._run([sys.executable, "-m", "tests.noop", *places], folder, words)

    def submit(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """The same as a job."""
        return self._run([sys.executable, *submit_command("tests.noop"), "--address", self.dashboard], folder, words)

    def _run(self, command: list[str], folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        own = ["--track", "b", "--profile", "laptop", "--trials", "4", "--storage", str(folder)]
        own += [word for value in SETS for word in ("--set", value)]
        return subprocess.run(
            [*command, *own, *words], cwd=ROOT, env=self.env, capture_output=True, text=True, check=False, timeout=400
        )


def config(address: str) -> dict[str, Any]:
    """A head without CPUs, and at most two nodes with one GPU that nobody checks: raylets on this machine."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

    has = {"CPU": 2, "GPU": 1, "accelerator_type:H100": 1, "object_store_memory": 100_000_000}
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
            "gpu": {"resources": has, "node_config": {}, "min_workers": 0, "max_workers": 2},
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

    mark, port, dashboard = secrets.token_hex(8), free_port(), free_port()
    address = f"{get_node_ip_address()}:{port}"
    (tmp_path / "elastic.json").write_text(json.dumps(config(address)))
    env = os.environ | {
        MARK: mark,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PHASEGPT_CACHE": str(tmp_path / "cache"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        ONE_MACHINE: "1",  # the tests' own Ray lets no second node join
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
        words += ["--num-cpus=0", "--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}"]
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={sockets}"]
        words += [f"--autoscaling-config={tmp_path / 'elastic.json'}"]
        with (tmp_path / "head.log").open("w") as log:
            head = subprocess.Popen(words, env=env | of_the_head, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text())
            yield Elastic(address, f"http://127.0.0.1:{dashboard}", env)
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
def test_a_search_waits_for_its_first_node_and_grows_to_what_it_was_asked(elastic: Elastic, tmp_path: Path) -> None:
    (tmp_path / SECONDS).write_text("3")
    words = ["--gpus-per-worker", "0.5", "--accelerator-type", "H100", "--max-concurrent", "4", "--name", "grown"]
    done = elastic.search(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    waits, grown, room = (
        "waiting for the cluster to grow, at most 30 min (--wait-minutes): a trial needs 0.5 GPU and 1 CPU on nodes "
        "with H100; the cluster has a node with 0 GPU and 0 CPU\n",
        "the cluster has grown; waited ",
        "room for 2 at once; up to 4 as the cluster grows\n",
    )
    places = [done.stderr.find(text) for text in (waits, grown, room, "trial-000 running")]
    assert -1 not in places, done.stderr
    assert places == sorted(places)
    trials = read_json(tmp_path / "results/v14/track_b/grown.json")["trials"]
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4

    for more, refusal in (
        (["--gpus-per-worker", "2"], "a trial needs 2 GPU and 1 CPU; the cluster has "),
        (["--accelerator-type", "A100"], "a trial needs 0 GPU and 1 CPU on nodes with A100; the cluster has "),
    ):
        refused = elastic.search(tmp_path, *more)
        assert refused.returncode == 2, refused.stderr
        assert refusal in refused.stderr.splitlines()[-1]
        assert "add nodes or ask for less" in refused.stderr.splitlines()[-1]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_job_is_sent_to_a_cluster_that_has_no_node_for_it_yet(
    elastic: Elastic, toy_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    with running(MlflowServer(tmp_path / "server")) as server:
        words = ["--set", f"model.base_model={toy_model_dir}", "--tracking-uri", server.url]
        sent = elastic.submit(tmp_path, "--gpus-per-worker", "1", "--detach", *words)
        assert sent.returncode == 0, sent.stderr
        assert "  the search will wait for nodes: a trial needs 1 GPU and 1 CPU; the cluster has " in sent.stderr

        refused = elastic.submit(tmp_path, "--gpus-per-worker", "2", *words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.splitlines()[-1].startswith("a trial needs 2 GPU and 1 CPU; the cluster has ")


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_search_whose_nodes_do_not_come_in_time_says_so(elastic: Elastic, tmp_path: Path) -> None:
    late = elastic.search(tmp_path, "--gpus-per-worker", "1", "--wait-minutes", "0")
    assert late.returncode == 2, late.stderr
    assert "no more came in 0 min: see ray status" in late.stderr.splitlines()[-1]
