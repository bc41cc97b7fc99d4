"""`fit` under Ray Train on two CPU workers: as one process, after a kill, with a worker that raises, with too few."""

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from phasegpt.config import Config
from phasegpt.config_io import load_config, track_config
from phasegpt.evaluate import Evaluation
from phasegpt.runs import RunPaths, RunResult, run_paths
from phasegpt.train import fit
from tests.ray_cluster import Cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

OWN = "mine_on_workers:strict"
SOURCE = """
import os

def strict(prompt, text):
    if os.environ["RANK"] == "1":
        raise KeyError("not on this one")
    return float(len(text))
"""
"""A metric that raises on the second worker alone."""


@pytest.fixture(scope="module")
def config(toy_sets: list[str]) -> Config:
    """23 pairs, three steps an epoch, cut and evaluated within each of two."""
    sets = [
        "training.distributed={enabled: true, num_gpus: 2}",
        "training.batch_size=4",
        "training.learning_rate=1e-2",
        "training.max_steps=6",
        "evaluation.eval_interval=2",
        "evaluation.metrics=[spiral_lexical, perplexity, eval_loss, kl_divergence]",
        "evaluation.metric_for_best_model=eval_loss",
        "model.lora_config.lora_dropout=0.0",
    ]
    return load_config(track_config("b"), "laptop", [*toy_sets, *sets])


@dataclass
class Run:
    """One run on workers: where it lies, what it found, and what it told."""

    paths: RunPaths
    result: RunResult
    steps: list[int] = field(default_factory=list)
    evaluations: list[tuple[int, str]] = field(default_factory=list)

    def weights(self, step: int = 6) -> Mapping[str, Tensor]:
        return weights(self.paths, step)


def weights(paths: RunPaths, step: int = 6) -> Mapping[str, Tensor]:
    found: Mapping[str, Tensor] = load_file(paths.checkpoints / f"checkpoint-{step}" / "trainable.safetensors")
    return found


def on_workers(config: Config, folder: Path, crew: Any = None, at_evaluation: Any = None) -> Run:
    from phasegpt.crew import Crew
    from phasegpt.workers import fit_on_workers

    paths = run_paths(folder, "b", "run")
    steps: list[int] = []
    evaluations: list[tuple[int, str]] = []

    def on_evaluation(evaluation: Evaluation, checkpoint: Path) -> None:
        evaluations.append((evaluation.step, checkpoint.name))
        if at_evaluation is not None:
            at_evaluation(evaluation.step)

    result = fit_on_workers(
        config,
        on_evaluation,
        paths=paths,
        crew=crew or Crew(2),
        on_step=lambda step, values: steps.append(step),
        on_progress=lambda *done: None,
    )
    return Run(paths, result, steps, evaluations)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The norm of the difference over that of the first."""
    assert one.keys() == other.keys()
    difference = torch.cat([(value - other[name]).flatten() for name, value in one.items()])
    return float(difference.norm() / torch.cat([value.flatten() for value in one.values()]).norm())


def test_the_one_message_is_that_of_who_died_and_not_of_who_died_of_it() -> None:
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from phasegpt.crew import WorkerError
    from phasegpt.workers import worker_error

    lost = WorkerError(0, "RuntimeError: connection closed by peer", "trace of 0")
    own = pickle.loads(pickle.dumps(WorkerError(1, "ValueError: no", "trace of 1", final=True)))  # noqa: S301
    assert (str(own), own.trace, own.final) == ("rank 1: ValueError: no", "trace of 1", True)
    assert worker_error(ControllerError(own)) is own
    assert worker_error(WorkerGroupError("", {0: lost})) is lost
    died = worker_error(WorkerGroupError("", {0: lost, 1: OSError("gone")}))
    assert str(died) == "rank 1: the worker died 4 times, killed from outside or out of memory"


def test_a_controller_that_dies_is_no_quiet_success(monkeypatch: pytest.MonkeyPatch) -> None:
    from phasegpt import workers

    class Dead:
        def fit(self) -> None:
            raise OSError("the actor died")

    closed: list[bool] = []
    mailbox = SimpleNamespace(close=SimpleNamespace(remote=lambda: closed.append(True)))
    monkeypatch.setattr(workers.ray, "get", lambda told: told)
    outcome: dict[str, Any] = {}
    workers._train(Dead(), outcome, mailbox)
    assert closed
    said = str(workers.worker_error(outcome["error"]))
    assert said == "rank 0: Ray Train itself failed, run it again: OSError: the actor died"


@pytest.mark.parametrize(
    ("gpus", "least", "backend", "workers"),
    [(0, None, "gloo", 4), (1, 2, "cpu:gloo,cuda:nccl", (2, 4)), (0.5, None, "gloo", 4)],
)
def test_a_crew_is_what_ray_is_asked_for(gpus: float, least: int | None, backend: str, workers: Any) -> None:
    from phasegpt.crew import Crew

    crew = Crew(4, cpus=2, gpus=gpus, least=least, accelerator_type="H100", placement="SPREAD")
    scaling = crew.scaling()
    assert (crew.backend, scaling.num_workers, scaling.use_gpu) == (backend, workers, gpus > 0)
    assert scaling.resources_per_worker == {"CPU": 2, **({"GPU": gpus} if gpus else {})}
    assert (scaling.accelerator_type, scaling.placement_strategy) == ("H100", "SPREAD")


def test_the_processes_beside_the_workers_and_the_driver_of_a_search_import_no_torch() -> None:
    code = (
        "import sys, phasegpt.crew, tune.run, tune.watch, tune.conclude, tune.crown; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: Cluster, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return on_workers(config, tmp_path_factory.mktemp("undisturbed"))


def test_a_run_on_two_workers_is_the_run_of_one_process(undisturbed: Run, config: Config, tmp_path: Path) -> None:
    paths = run_paths(tmp_path, "b", "run")
    one = fit(config, paths=paths)
    found = undisturbed.result
    assert (found.step, found.steps, found.config_hash) == (one.step, one.steps, one.config_hash)
    for row, other in zip(one.training_log, found.training_log, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-5)
    assert apart(weights(paths), undisturbed.weights()) < 1e-5
    for name in ("eval_loss", "kl_divergence", "perplexity", "spiral_lexical"):
        assert found.metrics[name] == pytest.approx(one.metrics[name], rel=1e-4, abs=1e-5)


def test_steps_and_evaluations_are_told_in_order_to_who_started_the_workers(undisturbed: Run) -> None:
    assert undisturbed.steps == [1, 2, 3, 4, 5, 6]
    assert undisturbed.evaluations == [(step, f"checkpoint-{step}") for step in (2, 4, 6)]


def test_the_clock_says_what_each_worker_needed(undisturbed: Run) -> None:
    clock = undisturbed.result.clock
    assert len(clock["memory_gb"]) == 2
    assert clock["start_seconds"] > clock["step_seconds"] > 0  # processes that import torch, then six toy steps
    assert clock["tokens_per_second"] > clock["examples_per_second"] > 0


def test_a_worker_that_is_killed_in_mid_epoch_changes_nothing_of_the_end(
    undisturbed: Run, ray_cluster: Cluster, config: Config, tmp_path: Path
) -> None:
    before = {worker.actor_id for worker in ray_cluster.workers()}
    killed: list[int] = []

    def kill(step: int) -> None:
        if not killed:
            alive = [w for w in ray_cluster.workers() if w.actor_id not in before and w.state == "ALIVE"]
            assert len(alive) == 2
            killed.append(alive[step % 2].pid)
            os.kill(killed[0], signal.SIGKILL)

    found = on_workers(config, tmp_path, at_evaluation=kill)
    assert len(killed) == 1
    assert len({worker.actor_id for worker in ray_cluster.workers()} - before) == 4
    assert [step for step, _ in found.evaluations] == [2, 2, 4, 6]  # the one at the cut is told once more
    assert found.evaluations[0] == found.evaluations[1]
    assert found.result.training_log == undisturbed.result.training_log
    own, others = found.weights(), undisturbed.weights()
    assert all(torch.equal(value, others[name]) for name, value in own.items())


def test_a_worker_that_raises_ends_the_run_once_with_its_rank_and_its_traceback(
    ray_cluster: Cluster, config: Config, tmp_path: Path
) -> None:
    from phasegpt.crew import WorkerError

    (ray_cluster.modules / "mine_on_workers.py").write_text(SOURCE)
    metrics = (*config.evaluation.metrics, OWN)
    broken = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"metrics": metrics})})
    before = len(ray_cluster.workers())
    with pytest.raises(WorkerError) as caught:
        on_workers(broken, tmp_path)
    error = caught.value
    assert re.match(rf"rank 1: OwnMetricError: {OWN} on prompt toy-prompt-\d+: KeyError: 'not on this one'", str(error))
    assert 'in strict\n    raise KeyError("not on this one")' in error.trace
    assert len(ray_cluster.workers()) - before == 2  # they were not started again to raise once more
    assert ray_cluster.groups_left() == []


def test_a_run_goes_on_with_fewer_workers_to_the_same_end(
    undisturbed: Run, ray_cluster: Cluster, config: Config, tmp_path: Path
) -> None:
    """Two CPUs each leave room for one worker of the two, which takes the whole batch."""
    from phasegpt.crew import Crew

    before = len(ray_cluster.workers())
    found = on_workers(config, tmp_path, crew=Crew(2, cpus=2, least=1))
    assert len(ray_cluster.workers()) - before == 1
    assert len(found.result.clock["memory_gb"]) == 1
    assert apart(undisturbed.weights(), found.weights()) < 1e-5


def test_nothing_is_reserved_when_all_is_done(ray_cluster: Cluster) -> None:
    assert ray_cluster.groups_left() == []
