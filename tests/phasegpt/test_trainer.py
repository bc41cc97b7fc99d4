"""The training loop: accumulation is a large batch, a bad number ends the run, a checkpoint is whole or passed over."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegpt.adapters import PhaseSettings
from phasegpt.forward import PairModel
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base, trainable_state
from phasegpt.objectives import Dpo, Objective, PairOutputs, PenalisedDpo, Sft
from phasegpt.pairs import Pair, read_pairs
from phasegpt.shared_work import Lengths, SharedWork, prepare
from phasegpt.trainer import (
    NonFiniteLossError,
    ReferenceMismatchError,
    SeededOrder,
    TrainerSettings,
    _PairTrainer,
    check_start,
    checkpoint_step,
    newest_checkpoint,
    prune_checkpoints,
    step_history,
    total_steps,
    train,
)
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
PHASE = PhaseSettings((1,), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
SETTINGS = TrainerSettings(
    learning_rate=1e-2,
    num_epochs=10,
    max_steps=3,
    batch_size=7,
    gradient_accumulation_steps=1,
    warmup_ratio=0.0,
    weight_decay=0.01,
    max_grad_norm=1.0,
    lr_scheduler="linear",
    seed=1,
    eval_interval=2,
)


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:7]


@pytest.fixture
def policy(base: Base) -> Iterator[Policy]:
    policy = attach_policy(base, LORA, seed=0)
    yield policy
    policy.detach()


@pytest.fixture
def shared(policy: Policy, pairs: tuple[Pair, ...], tmp_path_factory: pytest.TempPathFactory) -> SharedWork:
    return prepare(tmp_path_factory.mktemp("store"), policy, pairs, Lengths(512, 256))


@dataclass
class Run:
    """What one call of `train` gave."""

    steps: int
    logs: list[dict[str, float]]
    saved: list[tuple[int, str]]
    weights: dict[str, Tensor]


def run(policy: Policy, shared: SharedWork, folder: Path, objective: Objective | None = None, **changes: Any) -> Run:
    logs: list[dict[str, float]] = []
    saved: list[tuple[int, str]] = []

    def on_log(step: int, values: Mapping[str, float]) -> None:
        logs.append({"step": step, **values})

    steps = train(
        PairModel(policy),
        shared,
        shared.about["ids"],
        objective or PenalisedDpo(Dpo(0.5), 0.1),
        beta=0.5,
        settings=replace(SETTINGS, **changes),
        output_dir=folder,
        on_log=on_log,
        after_save=lambda step, checkpoint: saved.append((step, checkpoint.name)),
    )
    return Run(steps, logs, saved, {name: value.clone() for name, value in trainable_state(policy).items()})


def norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(value.square().sum().item() for value in tensors.values()))


# --- steps and order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs_in_all", "batch", "accumulation", "epochs", "limit", "steps"),
    [(92, 4, 8, 3, None, 9), (92, 2, 1, 3, 8, 8), (3, 4, 8, 2, 100, 2), (32, 4, 8, 1, None, 1), (33, 4, 8, 1, None, 2)],
)
def test_a_run_takes_the_steps_of_its_epochs_and_no_more_than_the_limit(
    pairs_in_all: int, batch: int, accumulation: int, epochs: int, limit: int | None, steps: int
) -> None:
    settings = replace(
        SETTINGS, batch_size=batch, gradient_accumulation_steps=accumulation, num_epochs=epochs, max_steps=limit
    )
    assert total_steps(pairs_in_all, settings) == steps


def test_each_epoch_has_its_own_order_of_all_rows() -> None:
    def order(epoch: int, seed: int = 3) -> list[int]:
        sampler = SeededOrder(20, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0) == order(0)
    assert sorted(order(1)) == list(range(20))
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=4)), tuple(order(1, seed=4))}) == 4


# --- a step ----------------------------------------------------------------------------------------------------------


def test_the_first_step_costs_ln_2_and_the_history_in_the_checkpoint_is_what_was_logged(
    policy: Policy, shared: SharedWork, tmp_path: Path
) -> None:
    found = run(policy, shared, tmp_path)
    assert found.steps == 3
    assert found.saved == [(2, "checkpoint-2"), (3, "checkpoint-3")]
    assert found.logs[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found.logs[2]["loss"] < 0.6
    assert [row["step"] for row in found.logs] == [1, 2, 3]
    assert found.logs[0].keys() == {
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "rewards_chosen",
        "rewards_rejected",
        "rewards_margin",
        "rewards_accuracy",
        "divergence",
    }
    assert step_history(tmp_path / "checkpoint-2") == found.logs[:2]
    assert step_history(tmp_path / "checkpoint-3") == found.logs


@pytest.mark.parametrize("objective", [Dpo(0.5), PenalisedDpo(Dpo(0.5), 0.5), Sft()], ids=["dpo", "kto", "sft"])
def test_gradient_accumulation_is_a_large_batch_also_with_a_smaller_last_micro_batch(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, objective: Objective
) -> None:
    found = []
    for batch, accumulation in ((7, 1), (2, 4)):
        policy = attach_policy(base, LORA, seed=0)
        shared = prepare(tmp_path / "store", policy, pairs, Lengths(512, 256))
        before = {name: value.clone() for name, value in trainable_state(policy).items()}
        sizes = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
        found.append(run(policy, shared, tmp_path / f"{batch}", objective, **sizes))
        policy.detach()
    whole, split = found
    for one, other in zip(whole.logs, split.logs, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)
    apart = norm({name: value - split.weights[name] for name, value in whole.weights.items()})
    moved = norm({name: value - before[name] for name, value in whole.weights.items()})
    assert apart < 1e-2 * moved


def test_weight_decay_pulls_matrices_alone(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    policy = attach_policy(base, LORA, seed=0, phase=PHASE)
    shared = prepare(tmp_path / "store", policy, pairs, Lengths(512, 256))
    trainer = _PairTrainer(
        PairModel(policy), shared, shared.about["ids"], Sft(), beta=1.0, settings=SETTINGS, steps=1, output_dir=tmp_path
    )
    decayed = {name.rsplit(".", 1)[-1] for name in trainer.get_decay_parameter_names(policy.model)}
    assert {"phase_weight", "output_weight"} <= decayed
    assert not decayed & {"natural_freq", "coupling", "gate", "bias"}
    policy.detach()


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [("linear", [0.0, 1e-2, 2 / 3 * 1e-2, 1 / 3 * 1e-2]), ("constant", [0.0, 1e-2, 1e-2, 1e-2])],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(
    policy: Policy, shared: SharedWork, tmp_path: Path, scheduler: str, rates: list[float]
) -> None:
    found = run(policy, shared, tmp_path, max_steps=4, warmup_ratio=0.25, lr_scheduler=scheduler)
    assert [row["learning_rate"] for row in found.logs] == pytest.approx(rates)


# --- the start is the reference --------------------------------------------------------------------------------------


def outputs(policy: list[float], reference: list[float]) -> PairOutputs:
    """Log-probs of two pairs, chosen first."""
    values = torch.tensor(policy), torch.tensor(reference)
    return PairOutputs(values[0][:2], values[0][2:], values[1][:2], values[1][2:], torch.ones(4))


def test_a_start_within_rounding_of_the_reference_passes() -> None:
    check_start(
        outputs([-100.0, -200.0, -1.0, -2.0], [-100.001, -199.998, -1.0009, -2.0]), ["a", "b"], half_precision=False
    )
    check_start(outputs([-100.0] * 4, [-105.4, -94.6, -100.0, -100.0]), ["a", "b"], half_precision=True)


@pytest.mark.parametrize(
    ("row", "difference", "half_precision", "named"),
    [
        (0, 3e-3, False, "chosen answer of pair a"),
        (1, -3e-3, False, "chosen answer of pair b"),
        (2, 3e-3, False, "rejected answer of pair a"),
        (3, 5.6, True, "rejected answer of pair b"),
    ],
)
def test_a_start_away_from_the_reference_names_the_pair_and_the_cure(
    row: int, difference: float, half_precision: bool, named: str
) -> None:
    reference = [-100.0] * 4
    reference[row] += difference
    with pytest.raises(ReferenceMismatchError, match=named) as caught:
        check_start(outputs([-100.0] * 4, reference), ["a", "b"], half_precision=half_precision)
    assert "remove the shared work and check training.reference_model" in str(caught.value)


def test_shared_work_of_another_model_ends_the_run_before_its_first_step(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    shared._logps[2 * 3 + 1] += 0.1
    with pytest.raises(ReferenceMismatchError, match=f"rejected answer of pair {pairs[3].id}"):
        run(policy, shared, tmp_path, Dpo(0.5), batch_size=2, gradient_accumulation_steps=4)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_resumed_run_is_not_held_against_the_reference(policy: Policy, shared: SharedWork, tmp_path: Path) -> None:
    run(policy, shared, tmp_path, max_steps=2)
    found = run(policy, shared, tmp_path, max_steps=4)
    assert found.saved == [(2, "checkpoint-2"), (4, "checkpoint-4")]
    assert [row["step"] for row in found.logs] == [3, 4]


# --- bad numbers -----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(
    policy: Policy, shared: SharedWork, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf) at step 2; lower training\.learning_rate"):
        run(policy, shared, tmp_path, learning_rate=1e30)


class InfiniteSlope:
    """A loss of zero whose gradient is none: the square root at 0."""

    needs_divergence = False

    def losses(self, outputs: PairOutputs) -> Tensor:
        return (0 * outputs.policy_chosen_logps).sqrt()


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_saved(
    policy: Policy, shared: SharedWork, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError, match="the gradient became nan at step 1"):
        run(policy, shared, tmp_path, InfiniteSlope(), eval_interval=1)
    assert not list(tmp_path.glob("checkpoint-*"))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_finished_run_loads_its_last_checkpoint_and_trains_no_more(
    base: Base, policy: Policy, shared: SharedWork, tmp_path: Path
) -> None:
    first = run(policy, shared, tmp_path)
    policy.detach()
    fresh = attach_policy(base, LORA, seed=7)
    again = run(fresh, shared, tmp_path)
    assert (again.steps, again.logs, again.saved) == (3, [], [(3, "checkpoint-3")])
    assert all(torch.equal(again.weights[name], value) for name, value in first.weights.items())
    fresh.detach()


def test_the_newest_whole_checkpoint_is_found_and_half_ones_are_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", ".checkpoint-12.stage", "evaluations"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name / "complete.json").write_text("{}")
    with caplog.at_level(logging.WARNING, "phasegpt"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert caplog.messages == [f"{tmp_path / 'checkpoint-11'} is not whole and is passed over"]
    assert checkpoint_step(tmp_path / "checkpoint-10") == 10
    assert checkpoint_step(tmp_path / "evaluations") == -1


def test_a_crash_while_saving_leaves_the_checkpoint_before(
    policy: Policy, shared: SharedWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _PairTrainer.save_model

    def crash_at_the_second(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        original(self, output_dir, _internal_call)
        if self.state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_PairTrainer, "save_model", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(policy, shared, tmp_path, eval_interval=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_pruning_keeps_the_chosen_the_newest_and_the_limit(tmp_path: Path) -> None:
    for step in range(1, 7):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 6:
            (tmp_path / f"checkpoint-{step}" / "complete.json").write_text("{}")

    def left() -> list[int]:
        return sorted(checkpoint_step(path) for path in tmp_path.iterdir())

    chosen = [tmp_path / "checkpoint-2"]
    prune_checkpoints(tmp_path, chosen, 4)
    assert left() == [2, 3, 4, 5, 6]  # the sixth is half a checkpoint and counts for nothing
    prune_checkpoints(tmp_path, chosen, 1)
    assert left() == [2, 5, 6]
