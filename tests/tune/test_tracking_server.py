"""The record through a real MLflow server, as a team has it: inputs, tables, texts, tags of the experiment."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.mlflow_store import migrated
from tune.datasets import Dataset
from tune.delivery import open_client
from tune.spool import SPOOL
from tune.tracking import Tracker

START = 300.0
"""Seconds that a server is left to come up on a machine that others use as well."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as said:  # noqa: S310 - our own server
            return bool(said.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own on the loopback address, with an SQLite file and the files that it serves."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", migrated(folder), "--artifacts-destination", str(folder / "files")]
    lean = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes fewer
    address, patience = f"http://127.0.0.1:{port}", time.monotonic() + START
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], stdout=log, stderr=log, env=lean)
    try:
        while not answers(address) and time.monotonic() < patience and server.poll() is None:
            time.sleep(0.5)
        assert answers(address), (folder / "log").read_text()
        yield address
    finally:
        server.terminate()
        server.wait(START)


@pytest.mark.timeout(900)
def test_what_a_run_is_given_and_holds_arrives_through_a_server(uri: str, tmp_path: Path) -> None:
    profile, schema = (
        json.dumps({"num_rows": 2}),
        json.dumps({"mlflow_colspec": [{"name": "prompt", "type": "string"}]}),
    )
    given = Dataset("pairs", "0123456789abcdef", "training", json.dumps({"uri": "/data/pairs.jsonl"}), schema, profile)
    tracker = Tracker(uri, "served", tmp_path / SPOOL)
    tracker.run("s", "trial-003 λ=0.1", tags={"track": "b", "why": ""})
    tracker.datasets("s", [given])
    tracker.datasets("s", [given])
    tracker.metrics("s", {"spiral_score": 0.9, "system/cpu_utilization_percentage": 50.0}, 0)
    tracker.tables("s", {"answers.json": [{"id": "p1"}], "none.json": [], "pairs.json": [{"id": "q1"}]})
    tracker.text("s", "training: {}\n", "config/config.yaml")
    tracker.experiment_tag("mlflow.sharedViewState.s", "{}")
    tracker.finish("s")
    assert tracker.close(120) == 0
    client = open_client(uri)
    experiment = client.get_experiment_by_name("served")
    assert experiment.tags["mlflow.sharedViewState.s"] == "{}"
    words = "metrics.spiral_score > 0.8 and tags.track = 'b'"
    [run] = client.search_runs([experiment.experiment_id], words)
    assert (run.info.run_name, run.info.status) == ("trial-003 λ=0.1", "FINISHED")
    [kept] = run.inputs.dataset_inputs
    assert (kept.dataset.digest, kept.dataset.profile, kept.tags[0].value) == (given.digest, profile, "training")
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in shown] == ["answers.json", "pairs.json"]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"answers.json", "pairs.json", "config"}
