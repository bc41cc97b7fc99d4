"""The training loop: accumulation is a large batch, a bad number ends the run, a checkpoint is whole or passed over."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegpt.adapters import PhaseSettings
from phasegpt.answers import answers_of
from phasegpt.checkpoint_files import step_history
from phasegpt.config_sections import CurriculumStage
from phasegpt.examples import AnswerExamples, Examples, PairExamples
from phasegpt.forward import AnswerModel, PairModel
from phasegpt.meters import Meter
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base, trainable_state
from phasegpt.objectives import Constant, Dpo, Kto, Objective, PairOutputs, PenalisedDpo, ScheduledDpo, Sft
from phasegpt.pairs import Pair, read_pairs
from phasegpt.schedule import Course
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.shared_work import SharedWork
from phasegpt.trainer import (
    AfterSave,
    NonFiniteLossError,
    ReferenceMismatchError,
    TrainerSettings,
    _arguments,
    _Trainer,
    check_start,
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
    return prepare(SharedStore(tmp_path_factory.mktemp("store")), policy, pairs, Lengths(512, 256))


@dataclass
class Run:
    """What one call of `train` gave."""

    steps: int
    logs: list[dict[str, float]]
    saved: list[tuple[int, str]]
    weights: dict[str, Tensor]


def examples_of(policy: Policy, shared: SharedWork, objective: Objective[Any]) -> Examples:
    return PairExamples(shared, list(shared.couples), objective.needs_divergence)


def run(
    policy: Policy,
    shared: SharedWork,
    folder: Path,
    objective: Objective[Any] | None = None,
    answers: AnswerExamples | None = None,
    after_save: AfterSave = lambda step, checkpoint: None,
    **changes: Any,
) -> Run:
    """A run on pairs, or on `answers` with an objective for these."""
    logs: list[dict[str, float]] = []
    saved: list[tuple[int, str]] = []

    def on_log(step: int, values: Mapping[str, float]) -> None:
        logs.append({"step": step, **values})

    def on_save(step: int, checkpoint: Path) -> None:
        saved.append((step, checkpoint.name))
        after_save(step, checkpoint)

    objective = objective or PenalisedDpo(Dpo(0.5), 0.1)
    steps = train(
        AnswerModel(policy) if answers else PairModel(policy),
        answers or examples_of(policy, shared, objective),
        objective,
        settings=replace(SETTINGS, **changes),
        output_dir=folder,
        on_log=on_log,
        after_save=on_save,
    )
    return Run(steps, logs, saved, {name: value.clone() for name, value in trainable_state(policy).items()})


def fresh_run(
    base: Base,
    pairs: tuple[Pair, ...],
    folder: Path,
    objective: Objective[Any],
    lora: LoraSettings = LORA,
    *,
    gradient_checkpointing: bool = False,
    **changes: Any,
) -> Run:
    """A run from a fresh adapter of seed 0, in the precision of the base."""
    policy = attach_policy(base, lora, seed=0, gradient_checkpointing=gradient_checkpointing)
    policy.model.to(base.model.dtype)
    try:
        shared = prepare(SharedStore(folder / "store"), policy, pairs, Lengths(512, 256))
        return run(policy, shared, folder / "run", objective, **changes)
    finally:
        policy.detach()


def assert_same(one: Run, other: Run) -> None:
    """Bit for bit the same numbers and weights."""
    assert one.logs == other.logs
    assert all(torch.equal(one.weights[name], value) for name, value in other.weights.items())


def norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(value.square().sum().item() for value in tensors.values()))


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
        "kto_lambda",
    }
    assert step_history(tmp_path / "checkpoint-2") == found.logs[:2]
    assert step_history(tmp_path / "checkpoint-3") == found.logs


@pytest.mark.parametrize("objective", [Dpo(0.5), PenalisedDpo(Dpo(0.5), 0.5), Sft()], ids=["dpo", "kto", "sft"])
def test_gradient_accumulation_is_a_large_batch_also_with_a_smaller_last_micro_batch(
    toy_model_dir: Path, pairs: tuple[Pair, ...], tmp_path: Path, objective: Objective[Any]
) -> None:
    base = load_base(str(toy_model_dir), Path("/"), torch.float64)  # in float32 rounding alone would part them
    whole, split = (
        fresh_run(base, pairs, tmp_path / f"{batch}", objective, batch_size=batch, gradient_accumulation_steps=count)
        for batch, count in ((7, 1), (2, 4))
    )
    assert len(whole.logs) == 3
    for one, other in zip(whole.logs, split.logs, strict=True):
        assert other == pytest.approx(one, abs=1e-6)
    apart = norm({name: value - split.weights[name] for name, value in whole.weights.items()})
    assert apart < 1e-6 * norm(whole.weights)


def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    original = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        taken.append(math.sqrt(sum(gradient.square().sum().item() for gradient in gradients)))
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    free = fresh_run(base, pairs, tmp_path / "free", Dpo(0.5), max_grad_norm=1e6)
    assert taken == pytest.approx([row["grad_norm"] for row in free.logs], rel=1e-5)
    limit = taken[0] / 10
    taken.clear()
    held = fresh_run(base, pairs, tmp_path / "held", Dpo(0.5), max_grad_norm=limit)
    assert max(taken) <= limit * (1 + 1e-5)
    assert taken[0] == pytest.approx(limit, rel=1e-4)
    assert held.logs[0]["grad_norm"] == pytest.approx(10 * limit, rel=1e-5)  # what is logged is the norm before


def test_activations_that_are_computed_twice_change_no_loss(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    objective = PenalisedDpo(Dpo(0.5), 0.3)
    lora = replace(LORA, dropout=0.2, layers=(2, 3))  # above a shared trunk, with random numbers
    plain = fresh_run(base, pairs, tmp_path / "plain", objective, lora)
    again = fresh_run(base, pairs, tmp_path / "again", objective, lora, gradient_checkpointing=True)
    for one, other in zip(plain.logs, again.logs, strict=True):
        assert other == pytest.approx(one, abs=1e-6)


def test_weight_decay_pulls_matrices_alone(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    policy = attach_policy(base, LORA, seed=0, phase=PHASE)
    shared = prepare(SharedStore(tmp_path / "store"), policy, pairs, Lengths(512, 256))
    trainer = _Trainer(
        PairModel(policy),
        examples_of(policy, shared, Sft()),
        Sft(),
        settings=SETTINGS,
        steps=1,
        output_dir=tmp_path,
        meter=Meter(),
    )
    decayed = {name.rsplit(".", 1)[-1] for name in trainer.get_decay_parameter_names(policy.model)}
    assert {"phase_weight", "output_weight"} <= decayed
    assert not decayed & {"natural_freq", "coupling", "gate", "bias"}
    policy.detach()


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("linear", [0.0, 1e-2, 2 / 3 * 1e-2, 1 / 3 * 1e-2]),
        ("cosine", [0.0, 1e-2, 0.75e-2, 0.25e-2]),  # (1 + cos πx)/2 at x = 0, 1/3, 2/3
        ("constant", [0.0, 1e-2, 1e-2, 1e-2]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(
    policy: Policy, shared: SharedWork, tmp_path: Path, scheduler: str, rates: list[float]
) -> None:
    found = run(policy, shared, tmp_path, max_steps=4, warmup_ratio=0.25, lr_scheduler=scheduler)
    assert [row["learning_rate"] for row in found.logs] == pytest.approx(rates)


def test_lambda_moves_with_the_steps_and_is_logged_and_a_cut_changes_none_of_it(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    moving = ScheduledDpo(Dpo(0.5), Course(0.4, 0.0, "linear"), log_components=True)
    whole = fresh_run(base, pairs, tmp_path / "whole", moving, max_steps=5)
    assert [row["kto_lambda"] for row in whole.logs] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert all(row["divergence"] > 1e-4 for row in whole.logs[1:])
    for row in whole.logs:
        mean = (row["divergence_chosen"] + row["divergence_rejected"]) / 2
        assert row["divergence"] == pytest.approx(mean, abs=1e-7)

    def stop(step: int, _: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh_run(base, pairs, tmp_path / "cut", moving, max_steps=5, after_save=stop)
    cut = fresh_run(base, pairs, tmp_path / "cut", moving, max_steps=5)
    assert_same(cut, replace(whole, logs=whole.logs[2:]))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_lambda_that_stays_is_a_plain_lambda_bit_for_bit(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, kind: str
) -> None:
    plain = fresh_run(base, pairs, tmp_path / "plain", PenalisedDpo(Dpo(0.5), 0.3))
    still = fresh_run(base, pairs, tmp_path / "still", ScheduledDpo(Dpo(0.5), Course(0.3, 0.3, kind)))
    assert_same(plain, still)


# --- a curriculum ---------------------------------------------------------------------------------------------------

STAGES = (
    CurriculumStage(name="easy", epochs=2, data_fraction=0.4),
    CurriculumStage(name="all", epochs=2, data_fraction=1.0),
)
CLIMB: dict[str, Any] = {
    "curriculum": STAGES,
    "max_steps": None,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "eval_interval": 1,
}
"""Seven pairs: twice one step on the easiest 3, then twice two steps on all."""
OBJECTIVES = (Dpo(0.5), PenalisedDpo(Dpo(0.5), 0.3), Sft())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of the examples of each micro-batch of the runs of a test, in turn."""
    batches: list[list[int]] = []
    original = PairExamples.batch

    def noted(self: PairExamples, numbers: Sequence[int], whole: Sequence[int] | None = None) -> dict[str, Tensor]:
        batches.append(list(numbers))
        return original(self, numbers, whole)

    monkeypatch.setattr(PairExamples, "batch", noted)
    return batches


def test_each_stage_trains_on_its_share_of_the_pairs_and_says_when_it_begins(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, seen: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "phasegpt"):
        found = fresh_run(base, pairs, tmp_path, Dpo(0.5), **CLIMB)
    assert found.steps == 6
    assert [len(batch) for batch in seen] == [2, 1, 2, 1, 2, 2, 2, 1, 2, 2, 2, 1]
    epochs = [seen[:2], seen[2:4], seen[4:8], seen[8:]]
    assert [sorted(chain(*epoch)) for epoch in epochs] == [[0, 1, 2], [0, 1, 2], [*range(7)], [*range(7)]]
    assert epochs[2] != epochs[3]
    assert [text for text in caplog.messages if "stage" in text] == [
        "step 1: stage easy, epoch 1 of 2 over 3 examples",
        "step 3: stage all, epoch 1 of 2 over 7 examples",
    ]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "kto", "sft"])
@pytest.mark.parametrize("cut", [1, 2, 3, 4], ids=["in a stage", "between stages", "in an epoch", "between epochs"])
def test_a_climb_that_was_cut_goes_on_to_the_same_end(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, objective: Objective[Any], cut: int
) -> None:
    def stop(step: int, _: Path) -> None:
        if step == cut:
            raise KeyboardInterrupt

    changes: dict[str, Any] = {**CLIMB, "lora": replace(LORA, dropout=0.2)}
    whole = fresh_run(base, pairs, tmp_path / "whole", objective, **changes)
    with pytest.raises(KeyboardInterrupt):
        fresh_run(base, pairs, tmp_path / "cut", objective, **changes, after_save=stop)
    rest = fresh_run(base, pairs, tmp_path / "cut", objective, **changes)
    assert_same(rest, replace(whole, logs=whole.logs[cut:]))


def test_one_stage_over_all_pairs_is_a_plain_run_bit_for_bit(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"max_steps": None, "batch_size": 2, "gradient_accumulation_steps": 2}
    plain = fresh_run(base, pairs, tmp_path / "plain", Dpo(0.5), num_epochs=2, **sizes)
    whole = (CurriculumStage(name="all", epochs=2, data_fraction=1.0),)
    assert_same(plain, fresh_run(base, pairs, tmp_path / "climb", Dpo(0.5), curriculum=whole, **sizes))


# --- a crash in the middle of a step ---------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_of_accumulation_repeats_the_step_and_ends_the_same(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "batch_size": 2,
        "gradient_accumulation_steps": 4,
        "eval_interval": 1,
        "max_steps": 4,
        "lora": replace(LORA, dropout=0.2),
    }
    objective = PenalisedDpo(Dpo(0.5), 0.1)
    whole = fresh_run(base, pairs, tmp_path / "whole", objective, **changes)
    original, calls = _Trainer.compute_loss, []

    def killed(self: Any, *arguments: Any, **options: Any) -> Tensor:
        calls.append(self.state.global_step)
        if len(calls) == 2 * 4 + 3:  # of the third step's four micro-batches the third
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "compute_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            fresh_run(base, pairs, tmp_path / "cut", objective, **changes)
    assert calls[-1] == 2
    rest = fresh_run(base, pairs, tmp_path / "cut", objective, **changes)
    assert rest.saved[:2] == [(2, "checkpoint-2"), (3, "checkpoint-3")]
    assert_same(rest, replace(whole, logs=whole.logs[2:]))


# --- unpaired answers ------------------------------------------------------------------------------------------------


def answers_for(policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...]) -> AnswerExamples:
    return AnswerExamples(shared, answers_of(pairs), 512)


def test_a_run_on_answers_begins_at_one_half_and_logs_both_labels_and_the_baseline(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    answers = answers_for(policy, shared, pairs)
    found = run(policy, shared, tmp_path, Kto(0.5), answers, batch_size=14, max_steps=4)
    assert [row["step"] for row in found.logs] == [1, 2, 3, 4]  # one batch of 14 answers an epoch
    first, last = found.logs[0], found.logs[-1]
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)  # 1 − σ(0)
    assert first["kl_baseline"] == pytest.approx(0.0, abs=1e-4)
    assert last["loss"] < 0.4
    assert last["kl_baseline"] >= 0
    for row in found.logs:
        assert row["rewards_margin"] == pytest.approx(row["rewards_desirable"] - row["rewards_undesirable"], abs=1e-5)
    assert last["rewards_margin"] > 1
    assert first.keys() == {
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "kl_baseline",
        "rewards_desirable",
        "rewards_undesirable",
        "rewards_margin",
    }


def test_a_run_on_answers_that_was_cut_goes_on_to_the_same_end(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    found = []
    for name, stops in (("whole", (6,)), ("cut", (2, 6))):  # four batches of 14 answers an epoch: cut within the first
        for stop in stops:
            policy = attach_policy(base, LORA, seed=0)
            shared = prepare(SharedStore(tmp_path / "store"), policy, pairs, Lengths(512, 256))
            answers = answers_for(policy, shared, pairs)
            settings: dict[str, Any] = {"batch_size": 4, "max_steps": stop, "lr_scheduler": "constant"}
            last = run(policy, shared, tmp_path / name, Kto(0.5, 1.0, 1.2), answers, **settings)
            policy.detach()
        found.append(last)
    whole, cut = found
    assert cut.logs == whole.logs[2:]
    assert step_history(tmp_path / "cut" / "checkpoint-6") == step_history(tmp_path / "whole" / "checkpoint-6")
    assert all(torch.equal(cut.weights[name], value) for name, value in whole.weights.items())


def test_a_step_without_one_of_the_labels_logs_the_other_alone(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    answers = answers_for(policy, shared, pairs)
    desirable = replace(answers, answers=[row for row in answers.answers if row.label])
    found = run(policy, shared, tmp_path, Kto(0.5), desirable, max_steps=2)
    assert "rewards_desirable" in found.logs[1]
    assert not {"rewards_undesirable", "rewards_margin"} & found.logs[1].keys()


# --- the start is the reference --------------------------------------------------------------------------------------


def check(policy: list[float], reference: list[float], half_precision: bool) -> None:
    names = [f"answer {row}" for row in range(len(policy))]
    check_start(torch.tensor(policy), torch.tensor(reference), names, half_precision=half_precision)


def test_a_start_within_rounding_of_the_reference_passes() -> None:
    check([-100.0, -200.0, -1.0, -2.0], [-100.001, -199.998, -1.0009, -2.0], half_precision=False)
    check([-100.0] * 4, [-105.4, -94.6, -100.0, -100.0], half_precision=True)


@pytest.mark.parametrize(
    ("row", "difference", "half_precision"), [(0, 3e-3, False), (1, -3e-3, False), (2, 3e-3, False), (3, 5.6, True)]
)
def test_a_start_away_from_the_reference_names_the_answer_and_the_cure(
    row: int, difference: float, half_precision: bool
) -> None:
    reference = [-100.0] * 4
    reference[row] += difference
    with pytest.raises(ReferenceMismatchError, match=f"the policy gives answer {row} the log-prob") as caught:
        check([-100.0] * 4, reference, half_precision)
    assert "remove the shared work and check training.reference_model" in str(caught.value)


def test_shared_work_of_another_model_ends_the_run_before_its_first_step(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    shared._logps[2 * 3 + 1] += 0.1
    with pytest.raises(ReferenceMismatchError, match=f"the rejected answer of pair {pairs[3].id} the log-prob"):
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


class InfiniteSlope(Constant):
    """A loss of zero whose gradient is none: the square root at 0."""

    needs_divergence = False

    def losses(self, outputs: PairOutputs) -> Tensor:
        return (0 * outputs.policy_chosen_logps).sqrt()

    def logs(self, outputs: PairOutputs) -> Mapping[str, Tensor]:
        return {}


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


def test_a_crash_while_saving_leaves_the_checkpoint_before(
    policy: Policy, shared: SharedWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _Trainer.save_model

    def crash_at_the_second(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        original(self, output_dir, _internal_call)
        if self.state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Trainer, "save_model", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(policy, shared, tmp_path, eval_interval=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_process_trains_on_one_of_the_gpus_that_it_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _arguments(replace(SETTINGS, device="cuda"), 1, tmp_path).n_gpu == 1
    assert _arguments(SETTINGS, 1, tmp_path).n_gpu == 0
