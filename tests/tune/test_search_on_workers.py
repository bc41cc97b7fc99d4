"""A search whose trials have two workers each, as a user types it: the same records, and nothing left reserved.

On two CPUs a job can start only when the one before it has left. Here one follows a baseline, one a trial that came to
its end, one a trial that ASHA stopped and one a trial that failed. Slow: six trials in a row, of which three stop.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.baseline import measure
from phasegpt.config_io import track_config
from phasegpt.files import read_json, write_json
from phasegpt.metrics.text import scorer
from phasegpt.parts import Workbench
from phasegpt.runs import run_paths
from tests.mlflow_store import migrated
from tests.ray_cluster import Cluster
from tune.request import new_request

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STOPPED, FAILED = "PRUNED", "FAIL"
ENDS = {3e-3: "COMPLETE", 1e-9: STOPPED, 1e30: FAILED}
"""How a trial ends by its learning rate: the config's own, one that learns nothing, one that is too high."""
SIX_ENDS = {1e-3: "COMPLETE", 3e-3: "COMPLETE", 1e-9: STOPPED, 2e-9: STOPPED, 3e-9: STOPPED, 1e30: FAILED}
GRID = (
    "search.sampler=grid",
    "search.scheduler=asha",
    "search.finalists={count: 1, seeds: 1}",
    "evaluation.eval_interval=1",
    "evaluation.metrics=[spiral_lexical, eval_loss, kl_divergence]",
    "evaluation.metric_for_best_model=eval_loss",
)


def grid_of(ends: Mapping[float, str]) -> tuple[str, ...]:
    """Overrides of a search over these learning rates, of which the first is the config's own."""
    own, *_ = ends
    rates = f"search.parameters={{training.learning_rate: {{grid: {list(ends)}}}}}"
    return (*GRID, rates, f"training.learning_rate={own}")


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@dataclass(frozen=True)
class Searched:
    """How its trials should end, what `--json` printed, and where all of it lies."""

    ends: Mapping[float, str]
    found: dict[str, Any]
    folder: Path
    groups_left: list[Any]


def measure_baseline(folder: Path, sets: list[str]) -> None:
    """One of the search's two baselines, which it then finds done: starting two workers takes 20 seconds."""
    config = new_request("b", profile="laptop", overrides=sets, name="other", storage=str(folder)).config
    paths = run_paths(folder, "b", "pairs-of-workers/baseline-final")
    found = {**asdict(measure(config, paths=paths, half="final", workbench=Workbench())), "name": paths.name}
    write_json(paths.results, {**found, "metrics": found["summary"], "hashes": {"scorer": scorer()}})


@pytest.fixture(scope="module", params=[ENDS, SIX_ENDS], ids=["three", "six"])
def searched(
    ray_cluster: Cluster, toy_sets: list[str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Searched:
    ends: Mapping[float, str] = request.param
    folder, sets = tmp_path_factory.mktemp("search"), [*toy_sets, *grid_of(ends)]
    measure_baseline(folder, sets)
    words = ["--track", "b", "--profile", "laptop", "--storage", str(folder), "--name", "pairs-of-workers", "--json"]
    words += ["--tracking-uri", migrated(folder), "--address", ray_cluster.address]
    words += [word for value in sets for word in ("--set", value)]
    done = typed("-m", "tune.search", *words, "--workers-per-trial", "2")
    assert done.returncode == 0, done.stderr
    return Searched(ends, json.loads(done.stdout), folder, ray_cluster.groups_left())


@pytest.mark.slow
def test_trials_of_two_workers_in_a_row_end_as_what_they_were(searched: Searched) -> None:
    trials = searched.found["trials"]
    ended = {trial["params"]["training.learning_rate"]: trial["state"] for trial in trials}
    assert list(ended.items()) == list(searched.ends.items())
    stopped = [trial for trial in trials if trial["state"] == STOPPED]
    assert {trial["why"] for trial in stopped} == {"stopped by the scheduler"}
    assert all(sorted(trial["curve"]) == ["1"] for trial in stopped)
    assert re.match(r"rank \d: NonFiniteLossError: .* nan", trials[-1]["why"])
    assert searched.found["winner"]["params"] == {"training.learning_rate": 3e-3}


@pytest.mark.slow
def test_each_trial_ran_on_two_workers_with_the_batch_of_both(searched: Searched) -> None:
    result = read_json(searched.folder / "results/v14/track_b/pairs-of-workers/trial-000.json")
    assert len(result["clock"]["memory_gb"]) == 2
    assert result["config"]["training"]["distributed"] == {"enabled": True, "strategy": "ddp", "num_gpus": 2}
    assert result["clock"]["examples_per_second"] * result["clock"]["step_seconds"] == pytest.approx(4 * 2 * 2)


@pytest.mark.slow
def test_no_placement_group_is_left_after_stops_a_failure_and_the_end(searched: Searched) -> None:
    assert searched.groups_left == []


def test_track_c_runs_in_two_stages_on_two_workers(ray_cluster: Cluster, toy_sets: list[str], tmp_path: Path) -> None:
    """Supervised, then DPO on its result, with activations computed twice, and a step of each told."""
    from mlflow import MlflowClient

    uri = migrated(tmp_path)
    sets = [value for value in toy_sets if not value.startswith(("search.", "training.max_steps"))]
    sets += ["training.phase_a.max_steps=2", "training.phase_b.max_steps=2"]
    sets += ["model.use_gradient_checkpointing=true", "model.use_phase_attention=true", "model.phase_layer_idx=[1]"]
    sets += ["evaluation.metrics=[spiral_lexical, eval_loss, training_throughput, memory_usage, inference_latency]"]
    sets += ["evaluation.metric_for_best_model=eval_loss", "search.objectives={eval_loss: min}"]
    sets += ["search.constraints={}", "search.parameters={}"]
    words = ["--config", str(track_config("c")), "--profile", "laptop", "--name", "c", "--storage", str(tmp_path)]
    words += [word for value in sets for word in ("--set", value)]
    done = typed("train.py", *words, "--tracking-uri", uri, "--address", ray_cluster.address, "--num-workers", "2")
    assert done.returncode == 0, done.stderr
    assert "step 2  loss" in done.stderr
    result = read_json(tmp_path / "results/v14/track_c/c.json")
    assert result["hashes"]["reference_adapter"]
    assert len(result["clock"]["memory_gb"]) == 2
    assert result["training_log"][0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert {"training_throughput", "memory_usage", "inference_latency"} <= result["metrics"].keys()
    [run] = MlflowClient(uri, uri).search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["clock/tokens_per_second"] == result["clock"]["tokens_per_second"]
    assert run.data.metrics["train/loss"] == result["training_log"][-1]["loss"]
    assert ray_cluster.groups_left() == []
