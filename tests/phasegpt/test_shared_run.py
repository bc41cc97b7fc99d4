"""Two workers are one with the batch of both: losses, weights, logs and evaluations, whatever the batches leave over.

Each case runs once in this process and once on two under gloo, in float64: what parts them is no rounding of theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegpt import ranks
from phasegpt.adapters import PhaseSettings
from phasegpt.answers import answers_of
from phasegpt.baseline import measure
from phasegpt.checkpoint_files import damage
from phasegpt.config import Config
from phasegpt.config_io import load_config, track_config
from phasegpt.evaluate import Evaluation
from phasegpt.examples import AnswerExamples, PairExamples
from phasegpt.forward import AnswerModel, PairModel
from phasegpt.models import LoraSettings, attach_policy, load_base, trainable_state
from phasegpt.objectives import Dpo, Kto, Objective, PenalisedDpo, Sft
from phasegpt.pairs import Pair, read_pairs
from phasegpt.parts import Workbench
from phasegpt.runs import RunResult, run_paths
from phasegpt.shards import whole
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.train import fit
from phasegpt.trainer import train
from tests.phasegpt.test_trainer import LORA, PHASE
from tests.phasegpt.test_trainer import SETTINGS as LOOP
from tests.phasegpt.workers import on_two
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = replace(LOOP, max_steps=4, batch_size=8)
PAIRS = 9
"""Of nine pairs in batches of eight one is left over: the second worker has none of it."""


@dataclass(frozen=True)
class Case:
    """One run: its objective (of pairs, or of answers where `unpaired`), and what differs from the settings."""

    objective: Callable[[], Objective[Any]]
    changes: Mapping[str, Any]
    unpaired: bool = False
    lora: LoraSettings = LORA
    phase: PhaseSettings | None = None
    checkpointing: bool = False


def dpo() -> Objective[Any]:
    return Dpo(0.5)


def kto() -> Objective[Any]:
    return PenalisedDpo(Dpo(0.5), 0.3)


def sft() -> Objective[Any]:
    return Sft()


def kto_unpaired() -> Objective[Any]:
    return Kto(0.5, 1.0, 1.2, ranks.joined)


ACCUMULATED = {"batch_size": 2, "gradient_accumulation_steps": 3}
"""The last of the epoch's five batches holds one pair, and the epoch's last step two batches."""
UPPER = replace(LORA, layers=(2, 3))
CASES = {
    "dpo": Case(dpo, {}),
    "dpo, accumulated": Case(dpo, ACCUMULATED),
    "kto": Case(kto, {}),
    "kto, accumulated": Case(kto, ACCUMULATED),
    "kto above a shared trunk": Case(kto, {"batch_size": 4}, lora=UPPER),
    "kto with a branch and checkpointed": Case(kto, {"batch_size": 4}, phase=PHASE, checkpointing=True),
    "kto, sharded": Case(kto, {"strategy": "fsdp"}),
    "kto, sharded, accumulated and checkpointed": Case(kto, {**ACCUMULATED, "strategy": "fsdp"}, checkpointing=True),
    "sft": Case(sft, {}),
    "kto_unpaired": Case(kto_unpaired, {}, unpaired=True),
    "kto_unpaired, one left over": Case(kto_unpaired, {"batch_size": 17}, unpaired=True),
}


def run_case(case: Case, model_dir: Path, pairs: tuple[Pair, ...], folder: Path) -> dict[str, Any]:
    """What one worker logs and ends with."""
    base = load_base(str(model_dir), Path("/"), dtype=torch.float64)
    policy = attach_policy(base, case.lora, seed=0, phase=case.phase, gradient_checkpointing=case.checkpointing)
    policy.model.to(torch.float64)
    objective = case.objective()
    with ranks.first_ahead():
        shared = prepare(SharedStore(folder / "store"), policy, pairs, Lengths(512, 256))
    logs: list[dict[str, float]] = []
    if case.unpaired:
        model, examples = AnswerModel(policy), AnswerExamples(shared, answers_of(pairs), 512)
    else:
        model = PairModel(policy)
        examples = PairExamples(shared, list(shared.couples), objective.needs_divergence)
    train(
        model,
        examples,
        objective,
        settings=replace(SETTINGS, **case.changes),
        output_dir=folder / "run",
        on_log=lambda step, values: logs.append({"step": step, **values}),
        after_save=lambda step, checkpoint: None,
    )
    with whole(policy):
        weights = {name: value.clone() for name, value in trainable_state(policy).items()}
    policy.detach()
    return {"logs": logs, "weights": weights}


def run_all(model_dir: Path, pairs: tuple[Pair, ...], folder: Path, cases: Mapping[str, Case]) -> dict[str, Any]:
    return {name: run_case(case, model_dir, pairs, folder / name) for name, case in cases.items()}


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:PAIRS]


@dataclass(frozen=True)
class Both:
    """What one worker did, and each of two."""

    one: dict[str, Any]
    two: list[dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def both(toy_model_dir: Path, pairs: tuple[Pair, ...], tmp_path_factory: pytest.TempPathFactory) -> Both:
    torch.set_num_threads(1)
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    return Both(
        run_all(toy_model_dir, pairs, one, CASES), on_two(run_all, toy_model_dir, pairs, two, CASES), one.parent
    )


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in tensors.values()]).norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_workers_log_what_one_logs_and_end_with_its_weights(both: Both, name: str) -> None:
    one = both.one[name]
    assert len(one["logs"]) == 4
    assert one["logs"][-1]["loss"] != pytest.approx(one["logs"][0]["loss"], abs=1e-3)
    for worker in both.two:
        for row, other in zip(one["logs"], worker[name]["logs"], strict=True):
            assert other == pytest.approx(row, rel=1e-6, abs=1e-6)
        apart = norm({key: value - worker[name]["weights"][key] for key, value in one["weights"].items()})
        assert apart < 1e-6 * norm(one["weights"])
    first, second = (worker[name]["weights"] for worker in both.two)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


# --- DeepSpeed --------------------------------------------------------------------------------------------------------


def under_deepspeed(model_dir: Path, pairs: tuple[Pair, ...], folder: Path) -> dict[str, Any]:
    """A run of four steps, and one of two that goes on to four; what the engine was."""
    from phasegpt import trainer

    seen: set[tuple[str, int]] = set()
    original = trainer._Trainer.compute_loss

    def noted(self: Any, model: Any, *arguments: Any, **options: Any) -> Tensor:
        seen.add((type(model).__name__, model.zero_optimization_stage()))
        return original(self, model, *arguments, **options)

    trainer._Trainer.compute_loss = noted  # type: ignore[method-assign]
    config = Path(__file__).parents[2] / "configs/ds_config.json"
    changes = {"strategy": "deepspeed", "deepspeed_config": config, "lr_scheduler": "constant"}
    whole_run = run_case(Case(kto, changes), model_dir, pairs, folder / "whole")
    run_case(Case(kto, {**changes, "max_steps": 2}), model_dir, pairs, folder / "cut")
    rest = run_case(Case(kto, changes), model_dir, pairs, folder / "cut")
    return {"engine": seen, "whole": whole_run, "rest": rest}


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the extra deepspeed is not installed")
def test_zero_2_is_one_worker_with_the_batch_of_both_and_goes_on_after_a_cut(
    toy_model_dir: Path, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    one = run_case(Case(kto, {"lr_scheduler": "constant"}), toy_model_dir, pairs, tmp_path / "one")
    for worker in on_two(under_deepspeed, toy_model_dir, pairs, tmp_path / "two"):
        assert worker["engine"] == {("DeepSpeedEngine", 2)}
        for row, other in zip(one["logs"], worker["whole"]["logs"], strict=True):
            assert other["loss"] == pytest.approx(row["loss"], abs=1e-5)
        assert [row["step"] for row in worker["rest"]["logs"]] == [3, 4]
        for name in ("whole", "rest"):
            apart = {key: value - worker[name]["weights"][key] for key, value in one["weights"].items()}
            assert norm(apart) < 1e-5 * norm(one["weights"])


# --- a whole run ------------------------------------------------------------------------------------------------------


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle of a run."""


def whole_run(config: Config, storage: Path, stop_at: int | None = None) -> dict[str, Any]:
    """One worker's view of a run, which all workers end after the evaluation at `stop_at`."""
    told: list[tuple[str, int]] = []

    def on_evaluation(evaluation: Evaluation, checkpoint: Path) -> None:
        told.append((checkpoint.name, evaluation.step))
        if evaluation.step == stop_at:
            raise Cut

    paths = run_paths(storage, "b", "run")
    try:
        result = fit(config, on_evaluation, paths=paths, on_step=lambda step, _: told.append(("step", step)))
    except Cut:
        return {"told": told}
    return {"told": told, "result": result}


def cut_and_whole(config: Config, storage: Path) -> dict[str, Any]:
    """A run, and another that was cut in its middle and went on."""
    cut = whole_run(config, storage / "cut", stop_at=3)
    return {
        "untuned": untuned(config, storage / "cut"),
        "whole": whole_run(config, storage / "whole"),
        "cut": cut,
        "rest": whole_run(config, storage / "cut"),
    }


def untuned(config: Config, storage: Path) -> Evaluation:
    return measure(config, paths=run_paths(storage, "b", "base"), half="final", workbench=Workbench())


@pytest.fixture(scope="module")
def runs(toy_sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any], Path]:
    """The run of one process, what two workers have of the same config, and where theirs lies."""
    torch.set_num_threads(1)
    sets = [
        *toy_sets,
        "training.distributed={enabled: true, num_gpus: 2}",
        "training.batch_size=4",
        "training.learning_rate=1e-2",
        "training.max_steps=6",
        "evaluation.eval_interval=3",
        "evaluation.metrics=[spiral_lexical, kl_on_samples, perplexity, eval_loss, kl_divergence, memory_usage]",
        "evaluation.metric_for_best_model=spiral_lexical",
        "model.lora_config.lora_dropout=0.0",
    ]
    config = load_config(track_config("b"), "laptop", sets)
    one, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    alone = whole_run(config, one) | {"untuned": untuned(config, one)}
    return alone, on_two(cut_and_whole, config, two), two


def test_a_shared_run_finds_what_one_worker_finds(runs: tuple[dict[str, Any], list[Any], Path]) -> None:
    one, workers = runs[0]["result"], runs[1]
    for worker in workers:
        found: RunResult = worker["whole"]["result"]
        assert (found.step, found.steps, found.config_hash, found.data) == (6, 6, one.config_hash, one.data)
        for row, other in zip(one.training_log, found.training_log, strict=True):
            assert other == pytest.approx(row, rel=1e-4, abs=1e-5)
        assert [row["id"] for row in found.pairs] == [row["id"] for row in one.pairs]
        assert [(row["id"], row["answer"]) for row in found.answers] == [(r["id"], r["answer"]) for r in one.answers]
        for name in ("eval_loss", "kl_divergence", "perplexity", "spiral_lexical", "kl_on_samples"):
            assert found.metrics[name] == pytest.approx(one.metrics[name], rel=1e-4, abs=1e-5)
        assert found.metrics["memory_usage"] == max(found.curve[-1]["memory_usage"], 0.01)


def test_a_policy_is_judged_alike_by_one_and_by_two(runs: tuple[dict[str, Any], list[Any], Path]) -> None:
    """The untuned model, since weights that were trained on two workers differ by rounding."""
    one: Evaluation = runs[0]["untuned"]
    for worker in runs[1]:
        found: Evaluation = worker["untuned"]
        assert len(found.pairs) == 4
        assert found.pairs == one.pairs
        assert [row["answer"] for row in found.answers] == [row["answer"] for row in one.answers]
        assert found.summary["perplexity"] == one.summary["perplexity"]
        assert found.summary["eval_loss"] == one.summary["eval_loss"]


def test_every_worker_is_told_the_same_and_one_of_them_writes(runs: tuple[dict[str, Any], list[Any], Path]) -> None:
    _, workers, storage = runs
    steps = [("step", step) for step in range(1, 7)]
    for worker in workers:
        assert worker["whole"]["told"] == [*steps[:3], ("checkpoint-3", 3), *steps[3:], ("checkpoint-6", 6)]
        assert worker["whole"]["result"] == workers[0]["whole"]["result"]
    log = (storage / "whole/experiments/v14/track_b/run.log").read_text()
    assert log.count("run: step 6 ") == 1
    checkpoint = storage / "whole/checkpoints/v14/track_b/run/checkpoint-6"
    assert damage(checkpoint) is None
    assert not [path for path in checkpoint.parent.iterdir() if path.name.startswith(".")]


def test_a_reading_has_the_speed_of_all_workers_and_the_memory_of_each(
    runs: tuple[dict[str, Any], list[Any], Path],
) -> None:
    alone, shared = (run["result"].clock for run in (runs[0], runs[1][0]["whole"]))
    assert [len(clock["memory_gb"]) for clock in (alone, shared)] == [1, 2]
    for clock in (alone, shared):
        assert clock["step_seconds"] > 0
        assert clock["start_seconds"] > 0
        assert all(0.1 < memory < 8 for memory in clock["memory_gb"])
    seen = [clock["tokens_per_second"] * clock["step_seconds"] for clock in (alone, shared)]
    assert seen[0] == pytest.approx(seen[1])
    assert [clock["examples_per_second"] * clock["step_seconds"] for clock in (alone, shared)] == pytest.approx(
        [2 * (8 + 8 + 7)] * 2
    )


def test_a_shared_run_that_was_cut_goes_on_to_the_same_end(runs: tuple[dict[str, Any], list[Any], Path]) -> None:
    for worker in runs[1]:
        assert worker["cut"]["told"][-1] == ("checkpoint-3", 3)
        told = [("checkpoint-3", 3), ("step", 4), ("step", 5), ("step", 6), ("checkpoint-6", 6)]
        assert worker["rest"]["told"] == told  # the one at the cut once more
        whole, rest = worker["whole"]["result"], worker["rest"]["result"]
        assert rest.training_log == whole.training_log
        assert rest.answers == whole.answers
        assert rest.pairs == whole.pairs
