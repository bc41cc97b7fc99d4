"""The objectives against numbers worked by hand, and one training step against TRL's DPOTrainer."""

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

from phasegpt.encoding import encode_pair, pair_batch
from phasegpt.forward import PairModel
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base
from phasegpt.objectives import (
    Dpo,
    PairOutputs,
    PenalisedDpo,
    Sft,
    dpo_loss,
    penalised_loss,
    rewards,
    sft_loss,
    step_logs,
)
from phasegpt.pairs import Pair, read_pairs
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
    assert step_logs(swapped, 0.5)["rewards_margin"] == -step_logs(WORKED, 0.5)["rewards_margin"] == -1.0
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


def test_supervised_loss_is_the_mean_negative_log_likelihood_of_a_chosen_token() -> None:
    assert sft_loss(torch.tensor([-10.0, -6.0]), torch.tensor([5, 3, 9, 9])).tolist() == [2.0, 2.0]
    assert Sft().losses(WORKED).tolist() == [2.0]


def test_rewards_are_beta_times_the_log_ratios_and_carry_no_gradient() -> None:
    tracked = replace(WORKED, policy_chosen_logps=torch.tensor([-10.0], requires_grad=True))
    chosen, rejected = rewards(tracked, 0.5)
    assert (chosen.tolist(), rejected.tolist()) == ([0.5], [-0.5])
    assert not chosen.requires_grad


def test_the_logs_of_a_step_are_means_over_its_pairs() -> None:
    two = outputs([-10.0, -9.0], [-12.0, -8.0], [-11.0, -9.0], [-11.0, -9.0], divergences=[0.1, 0.2, 0.3, 0.4])
    assert step_logs(two, 1.0) == pytest.approx(
        {
            "rewards_chosen": 0.5,
            "rewards_rejected": 0.0,
            "rewards_margin": 0.5,
            "rewards_accuracy": 0.5,
            "divergence": 0.25,
        }
    )
    assert "divergence" not in step_logs(WORKED, 1.0)


# --- parity with TRL -------------------------------------------------------------------------------------------------

BETA = 0.1


@pytest.fixture
def policy(toy_model_dir: Path, one_thread: None) -> Iterator[Policy]:
    """An adapter with B ≠ 0 on the toy model, so that loss and margin are not those of the start."""
    base = load_base(str(toy_model_dir), Path("/"))
    settings = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
    policy = attach_policy(base, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    yield policy
    policy.detach()


def trl_step(policy: Policy, pairs: list[Pair], folder: Path) -> tuple[float, dict[str, Tensor]]:
    """Loss and LoRA gradients of TRL's DPOTrainer on one batch of `pairs`, with the same adapter weights."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy.base.folder, dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(pairs),
            beta=BETA,
            max_length=512,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
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
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(pairs))])
    loss: Any = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    return loss.item(), {name.replace(".default.", ".policy."): p.grad for name, p in own.items()}


@pytest.mark.filterwarnings("ignore")  # what TRL and datasets warn of is theirs
def test_one_step_has_the_loss_and_the_gradients_of_trls_dpo_trainer(
    policy: Policy, toy_pairs_file: Path, tmp_path: Path
) -> None:
    pairs = list(read_pairs(toy_pairs_file, DOMAINS)[:4])
    tokenizer = policy.base.tokenizer
    batch = pair_batch([encode_pair(tokenizer, pair, 512, 256) for pair in pairs], tokenizer.pad_token_id)
    model = PairModel(policy)
    batch["reference_logps"] = torch.zeros(8)
    with policy.as_reference():
        reference = model(batch)
    batch["reference_logps"] = torch.cat([reference.policy_chosen_logps, reference.policy_rejected_logps])
    loss = Dpo(BETA).losses(model(batch)).mean()
    names = policy.trainable()
    gradients = dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))
    trl_loss, trl_gradients = trl_step(policy, pairs, tmp_path)
    assert abs(loss.item() - LN2) > 1e-3
    assert loss.item() == pytest.approx(trl_loss, abs=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - trl_gradients[name]).norm() <= 1e-5 * trl_gradients[name].norm(), name
