"""The objectives against numbers worked by hand, and one training step against TRL's DPOTrainer and KTOTrainer."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phasegpt.answers import answers_of
from phasegpt.encoding import encode_pair
from phasegpt.examples import AnswerExamples
from phasegpt.forward import AnswerModel, PairModel
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base
from phasegpt.objectives import (
    AnswerOutputs,
    Dpo,
    Kto,
    PairOutputs,
    PenalisedDpo,
    ScheduledDpo,
    Sft,
    dpo_loss,
    kl_baseline,
    kl_components,
    kto_loss,
    pair_logs,
    penalised_loss,
    rewards,
    sft_loss,
)
from phasegpt.packing import pack
from phasegpt.pairs import read_pairs
from phasegpt.schedule import Course
from phasegpt.shared_store import Lengths, SharedStore, prepare
from tests.toy import DOMAINS

LN2 = math.log(2)


def outputs(*logps: list[float], divergences: list[float] | None = None) -> PairOutputs:
    """Outputs of the policy's chosen and rejected and the reference's chosen and rejected log-probs."""
    chosen, rejected, ref_chosen, ref_rejected = (torch.tensor(values) for values in logps)
    return PairOutputs(
        policy_chosen_logps=chosen,
        policy_rejected_logps=rejected,
        reference_chosen_logps=ref_chosen,
        reference_rejected_logps=ref_rejected,
        completion_tokens=torch.full((2 * len(chosen),), 5),
        divergences=None if divergences is None else torch.tensor(divergences),
    )


WORKED = outputs([-10.0], [-12.0], [-11.0], [-11.0])


def test_the_dpo_loss_of_the_worked_example_is_that_of_its_docstring() -> None:
    chosen, rejected, reference = (torch.tensor([value]) for value in (-10.0, -12.0, -11.0))
    loss = dpo_loss(chosen, rejected, reference, reference, 0.5)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1))), abs=1e-7)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(-200, 0), st.floats(-200, 0), st.floats(1e-3, 10), st.floats(0, 0.49))
def test_where_the_policy_is_the_reference_the_loss_is_ln_2(
    chosen: float, rejected: float, beta: float, smoothing: float
) -> None:
    same = outputs([chosen], [rejected], [chosen], [rejected])
    assert Dpo(beta, smoothing).losses(same).item() == pytest.approx(LN2, abs=1e-6)


def test_swapping_chosen_and_rejected_turns_the_margin_and_mirrors_the_loss() -> None:
    swapped = outputs([-12.0], [-10.0], [-11.0], [-11.0])
    assert pair_logs(swapped, 0.5)["rewards_margin"] == -pair_logs(WORKED, 0.5)["rewards_margin"] == -1.0
    difference = Dpo(0.5).losses(swapped) - Dpo(0.5).losses(WORKED)
    assert difference.item() == pytest.approx(1.0, abs=1e-6)  # −log σ(−x) + log σ(x) = x = β·h


def test_label_smoothing_mixes_the_loss_with_that_of_the_swapped_pair() -> None:
    # x = 1: 0.9 · 0.313262 + 0.1 · 1.313262
    assert Dpo(0.5, label_smoothing=0.1).losses(WORKED).item() == pytest.approx(0.413262, abs=1e-6)
    assert torch.equal(Dpo(0.5, label_smoothing=0.0).losses(WORKED), Dpo(0.5).losses(WORKED))


def test_a_pair_pays_lambda_times_the_mean_divergence_of_its_two_answers() -> None:
    losses = penalised_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2, 0.3, 0.6]), 0.5)
    assert losses.tolist() == pytest.approx([1.1, 2.2])
    both = replace(WORKED, divergences=torch.tensor([0.2, 0.4]))
    assert PenalisedDpo(Dpo(0.5), 0.1).losses(both).item() == pytest.approx(0.313262 + 0.03, abs=1e-6)


def test_lambda_zero_is_plain_dpo_bit_for_bit_in_loss_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logps = [-50 * torch.rand(8, generator=generator) for _ in range(4)]
    results = []
    for objective in (Dpo(0.1), PenalisedDpo(Dpo(0.1), 0.0)):
        chosen, rejected = logps[0].clone().requires_grad_(), logps[1].clone().requires_grad_()
        found = PairOutputs(chosen, rejected, logps[2], logps[3], torch.ones(16), torch.full((16,), math.nan))
        losses = objective.losses(found)
        results.append((losses, *torch.autograd.grad(losses.sum(), (chosen, rejected))))
    for plain, penalised in zip(*results, strict=True):
        assert torch.equal(plain, penalised)


def test_only_a_positive_lambda_asks_for_the_divergence() -> None:
    assert PenalisedDpo(Dpo(0.1), 0.1).needs_divergence
    assert not PenalisedDpo(Dpo(0.1), 0.0).needs_divergence
    assert not Dpo(0.1).needs_divergence
    assert not Sft().needs_divergence


def test_a_positive_lambda_without_the_divergence_is_an_error_and_not_plain_dpo() -> None:
    with pytest.raises(ValueError, match="divergence"):
        PenalisedDpo(Dpo(0.5), 0.1).losses(WORKED)


def test_a_moving_lambda_is_at_each_step_the_plain_one_of_that_step() -> None:
    moving = ScheduledDpo(Dpo(0.5), Course(0.4, 0.0, "linear"))
    assert [moving.at(step, 5) for step in (1, 2, 5)] == [
        PenalisedDpo(Dpo(0.5), x) for x in (0.4, 0.30000000000000004, 0.0)
    ]
    constant = ScheduledDpo(Dpo(0.5), Course(0.1, 0.1, "cosine"), log_components=True)
    assert {constant.at(step, 7) for step in range(1, 8)} == {PenalisedDpo(Dpo(0.5), 0.1, log_components=True)}
    assert Dpo(0.5).at(3, 7) == Dpo(0.5)


@pytest.mark.parametrize(("initial", "final", "needs"), [(0.1, 0.0, True), (0.0, 0.1, True), (0.0, 0.0, False)])
def test_a_moving_lambda_pays_for_the_divergence_if_it_is_positive_anywhere(
    initial: float, final: float, needs: bool
) -> None:
    assert ScheduledDpo(Dpo(0.5), Course(initial, final)).needs_divergence == needs
    assert ScheduledDpo(Dpo(0.5), Course(initial, final), log_components=True).needs_divergence


def test_the_components_of_the_divergence_are_those_of_either_answer_and_their_log_ratios() -> None:
    two = outputs([-10.0, -9.0], [-12.0, -8.0], [-11.0, -9.0], [-11.0, -9.5], divergences=[0.1, 0.2, 0.3, 0.4])
    objective = PenalisedDpo(Dpo(1.0), 0.0, log_components=True)
    assert objective.needs_divergence
    assert torch.equal(objective.losses(two), Dpo(1.0).losses(two))
    logs = objective.logs(two)
    assert {name: logs[name].tolist() for name in kl_components(two)} == {
        "divergence_chosen": pytest.approx([0.1, 0.2]),
        "divergence_rejected": pytest.approx([0.3, 0.4]),
        "logratio_chosen": pytest.approx([1 / 5, 0.0]),  # five tokens an answer
        "logratio_rejected": pytest.approx([-1 / 5, 1.5 / 5]),
    }
    assert not any(values.requires_grad for values in logs.values())
    assert "logratio_chosen" not in PenalisedDpo(Dpo(1.0), 0.1).logs(two)


def test_supervised_loss_is_the_mean_negative_log_likelihood_of_a_chosen_token() -> None:
    assert sft_loss(torch.tensor([-10.0, -6.0]), torch.tensor([5, 3])).tolist() == [2.0, 2.0]
    assert Sft().losses(WORKED).tolist() == [2.0]


def test_rewards_are_beta_times_the_log_ratios_and_carry_no_gradient() -> None:
    tracked = replace(WORKED, policy_chosen_logps=torch.tensor([-10.0], requires_grad=True))
    chosen, rejected = rewards(tracked, 0.5)
    assert (chosen.tolist(), rejected.tolist()) == ([0.5], [-0.5])
    assert not chosen.requires_grad


def test_the_logs_of_a_step_are_values_of_its_pairs() -> None:
    two = outputs([-10.0, -9.0], [-12.0, -8.0], [-11.0, -9.0], [-11.0, -9.0], divergences=[0.1, 0.2, 0.3, 0.4])
    assert {name: values.tolist() for name, values in pair_logs(two, 1.0).items()} == {
        "rewards_chosen": [1.0, 0.0],
        "rewards_rejected": [-1.0, 1.0],
        "rewards_margin": [2.0, -1.0],
        "rewards_accuracy": [1.0, 0.0],
        "divergence": pytest.approx([0.1, 0.2, 0.3, 0.4]),
    }
    assert "divergence" not in pair_logs(WORKED, 1.0)
    assert Dpo(0.5).logs(WORKED) == pair_logs(WORKED, 0.5)
    penalised = PenalisedDpo(Dpo(0.5), 0.1).logs(WORKED)
    assert {name: values.tolist() for name, values in penalised.items()} == {
        **{name: values.tolist() for name, values in pair_logs(WORKED, 0.5).items()},
        "kto_lambda": [0.1],
    }
    assert Sft().logs(WORKED) == pair_logs(WORKED, 1.0)


# --- kto_unpaired ----------------------------------------------------------------------------------------------------


def answer_outputs(logratios: list[float], desirable: list[bool], mismatched: list[float]) -> AnswerOutputs:
    """Outputs of answers whose reference log-prob is −10."""
    reference = torch.full((len(logratios),), -10.0, dtype=torch.float64)
    return AnswerOutputs(
        policy_logps=reference + torch.tensor(logratios, dtype=torch.float64),
        reference_logps=reference,
        desirable=torch.tensor(desirable),
        mismatched_logratios=torch.tensor(mismatched, dtype=torch.float64),
    )


def test_the_kto_loss_of_the_worked_example_is_that_of_its_docstring() -> None:
    both = answer_outputs([2.0, 2.0], [True, False], [0.5, 1.5])
    losses = Kto(0.5).losses(both)
    assert losses.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-0.5)), 1 - 1 / (1 + math.exp(0.5))], abs=1e-12)
    assert losses.tolist() == pytest.approx([0.377541, 0.622459], abs=1e-6)
    assert Kto(0.5, 2.0, 3.0).losses(both).tolist() == pytest.approx([2 * 0.377541, 3 * 0.622459], abs=1e-5)


def test_the_kl_baseline_is_the_mean_never_negative_and_carries_no_gradient() -> None:
    assert kl_baseline(torch.tensor([0.5, 1.5])).item() == 1.0
    assert kl_baseline(torch.tensor([0.5, -1.5])).item() == 0.0
    assert kl_baseline(torch.tensor([])).item() == 0.0
    tracked = torch.tensor([0.5, 1.5], requires_grad=True)
    assert not kl_baseline(tracked).requires_grad
    assert kl_baseline(torch.tensor([]), join=lambda values: torch.tensor([0.5, 1.5])).item() == 1.0


def test_a_worker_logs_and_counts_from_what_all_workers_have() -> None:
    """Here one desirable answer and two mismatched pairs, on the other worker an undesirable one and two more."""
    there = {1: torch.tensor([-1.0]), 2: torch.tensor([3.0, 6.0])}

    def join(values: torch.Tensor) -> torch.Tensor:
        other = torch.tensor([False]) if values.dtype == torch.bool else there[len(values)].to(values.dtype)
        return torch.cat([values, other])

    here = answer_outputs([2.0], [True], [1.0, 2.0])
    together = answer_outputs([2.0, -2.0], [True, False], [1.0, 2.0, 3.0, 6.0])
    assert Kto(0.5, join=join).losses(here).tolist() == Kto(0.5).losses(together)[:1].tolist()
    own, whole = Kto(0.5, join=join).logs(here), Kto(0.5).logs(together)
    assert {name: value.tolist() for name, value in own.items()} == {n: v.tolist() for n, v in whole.items()}
    assert own["kl_baseline"].tolist() == [3.0]


@settings(max_examples=25, deadline=None)
@given(st.floats(-30, 30), st.floats(0, 30), st.floats(1e-3, 2))
def test_both_labels_together_cost_one_and_the_baseline_is_where_they_are_equal(
    logratio: float, baseline: float, beta: float
) -> None:
    logps, z0 = torch.tensor([logratio] * 2, dtype=torch.float64), torch.tensor(baseline, dtype=torch.float64)
    label = torch.tensor([True, False])
    losses = kto_loss(logps, torch.zeros_like(logps), label, z0, beta)
    assert losses.sum().item() == pytest.approx(1.0, abs=1e-12)
    at_baseline = kto_loss(z0.expand(2), torch.zeros_like(logps), label, z0, beta)
    assert at_baseline.tolist() == [0.5, 0.5]


def test_the_logs_of_answers_are_rewards_by_label_and_a_margin_where_there_are_both() -> None:
    logs = Kto(0.5).logs(answer_outputs([2.0, -1.0, 4.0], [True, False, True], [0.5, 1.5]))
    assert {name: values.tolist() for name, values in logs.items()} == {
        "kl_baseline": [1.0],
        "rewards_desirable": [1.0, 2.0],
        "rewards_undesirable": [-0.5],
        "rewards_margin": [2.0],
    }
    alone = Kto(0.5).logs(answer_outputs([2.0], [True], []))
    assert alone["rewards_undesirable"].tolist() == alone["rewards_margin"].tolist() == []


# --- parity with TRL -------------------------------------------------------------------------------------------------

BETA = 0.1


@pytest.fixture(params=[torch.float32])
def policy(toy_model_dir: Path, one_thread: None, request: pytest.FixtureRequest) -> Iterator[Policy]:
    """An adapter with B ≠ 0 on the toy model, so that loss and margin are not those of the start."""
    base = load_base(str(toy_model_dir), Path("/"), request.param)
    settings = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
    policy = attach_policy(base, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    if request.param == torch.float64:  # PEFT makes adapters in float32
        policy.model.double()
    yield policy
    policy.detach()


def trl_step(
    policy: Policy, rows: list[dict[str, Any]], folder: Path, kind: str, **options: Any
) -> tuple[float, dict[str, Tensor]]:
    """Loss and LoRA gradients of TRL's DPO or KTO trainer on one batch of `rows`, with the same adapter weights."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    trainer = getattr(trl, f"{kind}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(policy.base.folder, dtype=policy.head.dtype),
        args=getattr(trl, f"{kind}Config")(
            output_dir=str(folder),
            per_device_train_batch_size=len(rows),
            beta=BETA,
            max_length=512,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.base.tokenizer,
        peft_config=LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
        ),
    )
    own = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    weights = {name.replace(".policy.", ".default."): p for name, p in policy.trainable().items()}
    assert own.keys() == weights.keys()
    trainer.model.to(policy.head.dtype)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(rows))])
    loss: Any = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    return loss.item(), {name.replace(".default.", ".policy."): p.grad for name, p in own.items()}


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def gradients_of(loss: Tensor, policy: Policy) -> dict[str, Tensor]:
    names = policy.trainable()
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def assert_same_step(
    loss: Tensor, gradients: dict[str, Tensor], trl_loss: float, trl_gradients: dict[str, Tensor]
) -> None:
    """The loss to 3e-6 and each gradient to 1e-5 of its norm in float32; both to 1e-9 in float64.

    In float32 the last digit of a log-prob of -200 is 1.5e-5, which β = 0.1 brings into the loss; the order of the sums
    in it differs, since TRL pads.
    """
    of_loss, of_norm = (1e-9, 1e-9) if loss.dtype == torch.float64 else (3e-6, 1e-5)
    assert loss.item() == pytest.approx(trl_loss, abs=of_loss)
    for name, gradient in gradients.items():
        assert gradient.dtype == loss.dtype
        assert (gradient - trl_gradients[name]).norm() <= of_norm * trl_gradients[name].norm(), name


class ExactHead:
    """Stands in for TRL's head, which computes in float32 whatever the model's precision: log-probs as defined."""

    @staticmethod
    def apply(hidden: Tensor, weight: Tensor, _: Any, labels: Tensor, *others: Any) -> tuple[Tensor, ...]:
        """Log-probs [N] of the labels, and zeros for what TRL only logs."""
        log_probs = torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, labels[:, None])[:, 0]
        logged = torch.zeros_like(log_probs)
        return log_probs, logged, logged, logged, logged.bool()


@pytest.mark.parametrize("policy", [torch.float32, torch.float64], indirect=True, ids=["float32", "float64"])
@pytest.mark.usefixtures("exact_norms")
@pytest.mark.filterwarnings("ignore")  # what TRL and datasets warn of is theirs
def test_one_step_has_the_loss_and_the_gradients_of_trls_dpo_trainer(
    policy: Policy, toy_pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if policy.head.dtype == torch.float64:
        monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", ExactHead)
    pairs = list(read_pairs(toy_pairs_file, DOMAINS)[:4])
    tokenizer = policy.base.tokenizer
    encoded = [encode_pair(tokenizer, pair, 512, 256) for pair in pairs]
    batch = pack([pair.group for pair in encoded])
    model = PairModel(policy)
    batch["reference_logps"] = torch.zeros(8)
    with policy.as_reference():
        reference = model(batch)
    batch["reference_logps"] = torch.stack(
        [reference.policy_chosen_logps, reference.policy_rejected_logps], 1
    ).flatten()
    loss = Dpo(BETA).losses(model(batch)).mean()
    assert abs(loss.item() - LN2) > 1e-3
    rows = [
        {
            "prompt": messages("user", pair.prompt),
            "chosen": messages("assistant", pair.chosen),
            "rejected": messages("assistant", pair.rejected),
        }
        for pair in pairs
    ]
    assert_same_step(loss, gradients_of(loss, policy), *trl_step(policy, rows, tmp_path, "DPO"))


@pytest.mark.filterwarnings("ignore")  # what TRL and datasets warn of is theirs
def test_one_step_has_the_loss_and_the_gradients_of_trls_kto_trainer(
    policy: Policy, toy_pairs_file: Path, tmp_path: Path
) -> None:
    pairs = list(read_pairs(toy_pairs_file, DOMAINS)[:4])
    answers = [answers_of([pair])[place] for pair, place in zip(pairs, (0, 1, 1, 0), strict=True)]
    assert [row.label for row in answers] == [True, False, False, True]
    shared = prepare(SharedStore(tmp_path / "store"), policy, answers, Lengths(512, 256))
    examples = AnswerExamples(shared, answers, 512)
    outputs = AnswerModel(policy)(examples.batch(range(4)))
    baseline = kl_baseline(outputs.mismatched_logratios)
    loss = Kto(BETA, 1.5, 0.75).losses(outputs).mean()
    rows = [
        {
            "prompt": messages("user", row.prompt),
            "completion": messages("assistant", row.completion),
            "label": row.label,
        }
        for row in answers
    ]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.75}
    found = trl_step(policy, rows, tmp_path, "KTO", train_sampling_strategy="sequential", **weights)
    assert baseline > 1e-2, "a baseline of zero would prove nothing"
    assert_same_step(loss, gradients_of(loss, policy), *found)
