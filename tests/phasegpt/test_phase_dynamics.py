"""Order, entropy and drift: worked by hand, and noted of a training run as it goes."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegpt.adapters import PhaseSettings
from phasegpt.examples import PairExamples
from phasegpt.forward import PairModel
from phasegpt.models import Base, LoraSettings, attach_policy, load_base
from phasegpt.objectives import Dpo
from phasegpt.pairs import Pair, read_pairs
from phasegpt.phase_attention import KuramotoBranch
from phasegpt.phase_dynamics import PhaseDynamics, order_parameter, phase_entropy
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.trainer import TrainerSettings, train
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")
PHASE = PhaseSettings((1, 3), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
NAMES = [
    f"phase_{what}_{layer}" for layer in (1, 3) for what in ("order", "entropy", "coupling_drift", "frequency_drift")
]


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:6]


# --- what is measured ------------------------------------------------------------------------------------------------


def test_order_parameter_is_one_for_equal_phases_and_zero_for_opposite_ones() -> None:
    equal = torch.full((4, 2), 0.7)
    opposite = torch.tensor([[0.0, 1.0], [torch.pi, 1.0 + torch.pi]] * 2)
    assert order_parameter(torch.stack([equal, opposite])).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_order_parameter_counts_visible_tokens_only() -> None:
    phases = torch.tensor([[[0.0], [torch.pi], [0.0]], [[0.0], [1.0], [2.0]]])
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert order_parameter(phases, mask).tolist() == pytest.approx([1.0, 0.0])


def test_entropy_is_zero_for_equal_phases_a_quarter_for_two_arcs_and_one_for_all_arcs() -> None:
    """Two of 16 arcs, half of the tokens each: ln 2 / ln 16 = 1/4. Whole turns do not count."""
    arcs = (torch.arange(16) + 0.5) * math.pi / 8
    equal, two = torch.full((16,), 0.1), torch.tensor([0.1, math.pi + 0.1]).repeat(8)
    phases = torch.stack([equal, two, arcs, arcs - 6 * math.pi])[..., None]
    assert phase_entropy(phases).tolist() == pytest.approx([0.0, 0.25, 1.0, 1.0], abs=1e-6)


def test_entropy_is_the_mean_over_oscillators_and_counts_visible_tokens_only() -> None:
    phases = torch.tensor([[[0.1, 0.1], [0.1, 3.3], [2.0, 5.0]], [[0.1, 0.1], [1.0, 1.0], [2.0, 2.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert phase_entropy(phases, mask).tolist() == pytest.approx([0.125, 0.0])


def test_phases_spread_at_random_have_the_entropy_that_the_docstring_says() -> None:
    phases = torch.rand(400, 100, 4, generator=torch.Generator().manual_seed(1)) * 50
    assert phase_entropy(phases).mean().item() == pytest.approx(1 - 15 / (200 * math.log(16)), abs=2e-3)


# --- what is noted ---------------------------------------------------------------------------------------------------


def step(dynamics: PhaseDynamics, number: int, branch: KuramotoBranch, *batches: tuple[Tensor, Tensor | None]) -> None:
    """One optimizer step of these micro-batches through a branch."""
    dynamics.on_step_begin(None, SimpleNamespace(global_step=number - 1), None)
    for hidden, mask in batches:
        branch(hidden, mask)
    dynamics.on_step_end(None, SimpleNamespace(global_step=number), None)


def test_every_second_step_is_noted_over_all_its_micro_batches_and_nothing_hangs_on_the_branch_between() -> None:
    torch.manual_seed(0)
    branch, told = KuramotoBranch(6, 4), []
    dynamics = PhaseDynamics({7: branch}, 2).telling(told.append)
    batches = [(torch.randn(2, 5, 6), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])), (torch.randn(1, 3, 6), None)]
    hooks = []
    for number in range(1, 5):
        dynamics.on_step_begin(None, SimpleNamespace(global_step=number - 1), None)
        hooks.append(len(branch._forward_hooks))
        dynamics.on_step_end(None, SimpleNamespace(global_step=number), None)
    assert hooks == [0, 1, 0, 1]
    assert (told, len(branch._forward_hooks)) == ([], 0)
    step(dynamics, 1, branch, *batches)
    assert told == []
    with torch.no_grad():
        branch.coupling += 0.5
        branch.natural_freq += torch.tensor([0.3, -0.3, 0.3, -0.3])
    step(dynamics, 2, branch, *batches)
    [values] = told
    seen = [branch.phases(hidden, mask) for hidden, mask in batches]
    by_hand = [order_parameter(phases, mask) for phases, (_, mask) in zip(seen, batches, strict=True)]
    assert torch.equal(values["phase_order_7"], torch.cat(by_hand))
    by_hand = [phase_entropy(phases, mask) for phases, (_, mask) in zip(seen, batches, strict=True)]
    assert torch.equal(values["phase_entropy_7"], torch.cat(by_hand))
    assert values["phase_coupling_drift_7"].tolist() == pytest.approx([0.5])
    assert values["phase_frequency_drift_7"].tolist() == pytest.approx([0.3])


def test_what_runs_without_gradient_is_not_looked_at() -> None:
    branch, told = KuramotoBranch(6, 4), []
    dynamics = PhaseDynamics({0: branch}, 1).telling(told.append)
    dynamics.on_step_begin(None, SimpleNamespace(global_step=0), None)
    with torch.no_grad():
        branch(torch.randn(1, 3, 6))
    dynamics.on_step_end(None, SimpleNamespace(global_step=1), None)
    assert told == []


def test_three_notes_in_a_row_above_0_8_warn_once_until_the_order_has_come_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    branch, dynamics = KuramotoBranch(6, 4), None
    dynamics = PhaseDynamics({2: branch}, 1)
    together, apart = torch.ones(1, 30, 6), torch.randn(1, 30, 6, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING, "phasegpt"):
        for number, hidden in enumerate([together] * 2 + [apart] + [together] * 5 + [apart] + [together] * 3, start=1):
            step(dynamics, number, branch, (hidden, None))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 6", "step 12"]
    assert "layer 2 are over-synchronised: R = 1.00, above 0.8 in 3 notes in a row" in caplog.text


# --- in a run --------------------------------------------------------------------------------------------------------


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle of a run."""


def logs_of(base: Base, pairs: tuple[Pair, ...], folder: Path, cut_at: int | None = None, **changes: Any) -> list[Any]:
    """The step logs of five steps from a fresh policy; a run that was cut in `folder` goes on."""
    checkpointing = changes.pop("gradient_checkpointing", False)
    policy = attach_policy(base, LORA, seed=0, phase=PHASE, gradient_checkpointing=checkpointing)
    try:
        shared = prepare(SharedStore(folder / "store"), policy, pairs, Lengths(512, 256))
        numbers = {
            "learning_rate": 1e-2, "num_epochs": 10, "max_steps": 5, "batch_size": 3, "gradient_accumulation_steps": 2,
            "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "lr_scheduler": "constant", "seed": 1,
            "eval_interval": 2, "phase_log_interval": 2,
        }  # fmt: skip
        logs: list[Any] = []

        def on_log(number: int, values: Mapping[str, float]) -> None:
            logs.append({"step": number, **values})

        def after_save(number: int, _: Path) -> None:
            if number == cut_at:
                raise Cut

        train(
            PairModel(policy),
            PairExamples(shared, list(shared.couples), with_divergence=False),
            Dpo(0.5),
            settings=TrainerSettings(**{**numbers, **changes}),
            output_dir=folder / "run",
            on_log=on_log,
            after_save=after_save,
        )
        return logs
    finally:
        policy.detach()


def test_a_run_notes_every_layer_among_its_step_logs(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    logs = logs_of(base, pairs, tmp_path)
    noted = {entry["step"]: [name for name in entry if name.startswith("phase_")] for entry in logs}
    assert noted == {1: [], 2: NAMES, 3: [], 4: NAMES, 5: []}
    for entry in logs[1::2]:
        assert 0 < entry["phase_order_1"] < 1
        assert 0 < entry["phase_entropy_3"] < 1
    assert abs(logs[3]["phase_coupling_drift_1"]) > 0
    assert 0 < logs[1]["phase_frequency_drift_1"] < logs[3]["phase_frequency_drift_1"] < 0.1


def test_notes_between_two_step_logs_go_out_with_the_next(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    every = logs_of(base, pairs, tmp_path / "every")
    third = logs_of(base, pairs, tmp_path / "third", logging_steps=3)
    noted = {entry["step"]: entry["phase_order_1"] for entry in third if "phase_order_1" in entry}
    assert noted == {3: every[1]["phase_order_1"]}


@pytest.mark.parametrize("gradient_checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_noting_changes_no_number_of_the_run(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, gradient_checkpointing: bool
) -> None:
    plain = logs_of(base, pairs, tmp_path / "plain", phase_log_interval=None)
    noting = logs_of(base, pairs, tmp_path / "noting", gradient_checkpointing=gradient_checkpointing)
    assert [{name: entry[name] for name in plain[0]} for entry in noting] == [pytest.approx(e, abs=1e-6) for e in plain]


def test_checkpointed_activations_change_no_note(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    plain = logs_of(base, pairs, tmp_path / "plain")
    again = logs_of(base, pairs, tmp_path / "again", gradient_checkpointing=True)
    for entry, other in zip(plain[1::2], again[1::2], strict=True):
        assert {name: other[name] for name in NAMES} == pytest.approx({name: entry[name] for name in NAMES}, abs=1e-6)


def test_phases_are_computed_once_more_in_noted_steps_alone(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps of two micro-batches and two layers; steps 2 and 4 are noted."""
    calls, phases = [], KuramotoBranch.phases

    def counted(branch: KuramotoBranch, *given: Any) -> Tensor:
        calls.append(branch.training)
        return phases(branch, *given)

    monkeypatch.setattr(KuramotoBranch, "phases", counted)
    logs_of(base, pairs, tmp_path / "off", phase_log_interval=None)
    off = sum(calls)
    calls.clear()
    logs_of(base, pairs, tmp_path / "on")
    assert (off, sum(calls)) == (5 * 2 * 2, 5 * 2 * 2 + 2 * 2 * 2)


def test_a_run_that_was_cut_goes_on_with_the_same_start(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    whole = logs_of(base, pairs, tmp_path / "whole")
    with pytest.raises(Cut):
        logs_of(base, pairs, tmp_path / "cut", cut_at=2)
    rest = logs_of(base, pairs, tmp_path / "cut")
    assert rest == whole[2:]
