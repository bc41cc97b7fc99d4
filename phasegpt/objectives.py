"""The training objectives as pure functions of tensors. No state, no config, no model.

Every objective takes what one micro-batch of preference pairs gives and returns one value per pair, so that the
trainer can average over the whole optimizer step however it was cut into micro-batches and shards.

Notation: B pairs. `policy_chosen_logps` [B] is the sum of log π(token | prefix) over the completion tokens of the
chosen answer; the other three log-probs likewise. D [2B] is a divergence of π from π_ref for each sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor


@dataclass(frozen=True)
class PairOutputs:
    """What the policy and the reference say of B pairs.

    Log-probs are sums over completion tokens, each [B]. `divergences` [2B] is each sequence's mean over its
    completion tokens, chosen first, or None where no objective or metric asked for it. `completion_tokens` [2B].
    """

    policy_chosen_logps: Tensor
    policy_rejected_logps: Tensor
    reference_chosen_logps: Tensor
    reference_rejected_logps: Tensor
    completion_tokens: Tensor
    divergences: Tensor | None = None


class Objective(Protocol):
    """A loss as a value: what it needs, what one pair costs, and what its logs are called."""

    @property
    def needs_divergence(self) -> bool:
        """Whether `PairOutputs.divergences` must be there."""

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]."""


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimisation, per pair [B]: arXiv 2305.18290, equation 7.

    −(1−ε) log σ(β·h) − ε log σ(−β·h) with h = (log π(y_w|x) − log π_ref(y_w|x)) − (log π(y_l|x) − log π_ref(y_l|x)).
    `label_smoothing` ε is the share of labels taken to be flipped (conservative DPO); 0 is plain DPO.

    Worked by hand: log-probs −10, −12 under the policy and −11, −11 under the reference, beta 0.5:
    h = 1 − (−1) = 2, loss = −log σ(1) = 0.313262.
    """
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    reference_logratios = reference_chosen_logps - reference_rejected_logps
    logits = beta * (pi_logratios - reference_logratios)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def penalised_loss(pair_losses: Tensor, divergences: Tensor, weight: float) -> Tensor:
    """L_DPO + λ·D, per pair [B]: the `kto` of the track files (DESIGN decision 5).

    `divergences` [2B] holds the chosen sequences first; a pair pays the mean of its two, so the mean over pairs is
    the mean over sequences. With weight 0 the losses come back untouched, so that λ = 0 is plain DPO bit for bit.
    """
    if weight == 0.0:
        return pair_losses
    chosen, rejected = divergences.chunk(2)
    return pair_losses + weight * (chosen + rejected) / 2


def sft_loss(policy_chosen_logps: Tensor, completion_tokens: Tensor) -> Tensor:
    """Supervised fine-tuning on the chosen answers, per pair [B]: the mean of −log π over the completion tokens."""
    chosen_tokens, _ = completion_tokens.chunk(2)
    return -policy_chosen_logps / chosen_tokens


def rewards(outputs: PairOutputs, beta: float) -> tuple[Tensor, Tensor]:
    """The implicit rewards β·log(π/π_ref) of chosen and rejected answers, each [B] (arXiv 2305.18290, §4)."""
    chosen = beta * (outputs.policy_chosen_logps - outputs.reference_chosen_logps)
    rejected = beta * (outputs.policy_rejected_logps - outputs.reference_rejected_logps)
    return chosen.detach(), rejected.detach()


@dataclass(frozen=True)
class Dpo:
    """`method: dpo`. beta: higher holds the policy nearer to the reference."""

    beta: float
    label_smoothing: float = 0.0
    needs_divergence: bool = False

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]."""
        return dpo_loss(
            outputs.policy_chosen_logps,
            outputs.policy_rejected_logps,
            outputs.reference_chosen_logps,
            outputs.reference_rejected_logps,
            self.beta,
            label_smoothing=self.label_smoothing,
        )


@dataclass(frozen=True)
class PenalisedDpo:
    """`method: kto`: DPO + λ·D(π‖π_ref). weight λ: higher holds the whole distribution nearer to the reference."""

    dpo: Dpo
    weight: float

    @property
    def needs_divergence(self) -> bool:
        """Only a positive λ pays for the divergence."""
        return self.weight > 0.0

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]. Raises ValueError where a positive λ finds no divergence."""
        pair_losses = self.dpo.losses(outputs)
        if not self.needs_divergence:
            return pair_losses
        if outputs.divergences is None:
            raise ValueError("a positive λ needs the divergence; call PairModel with with_divergence=True")
        return penalised_loss(pair_losses, outputs.divergences, self.weight)


@dataclass(frozen=True)
class Sft:
    """`method: lora`: supervised fine-tuning on the chosen answers, the stage before DPO."""

    needs_divergence: bool = False

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]."""
        return sft_loss(outputs.policy_chosen_logps, outputs.completion_tokens)


def step_logs(outputs: PairOutputs, beta: float) -> Mapping[str, float]:
    """What a training step reports beside its loss: mean rewards, their margin, and the share of pairs in order."""
    chosen, rejected = rewards(outputs, beta)
    logs = {
        "rewards_chosen": chosen.mean().item(),
        "rewards_rejected": rejected.mean().item(),
        "rewards_margin": (chosen - rejected).mean().item(),
        "rewards_accuracy": (chosen > rejected).to(torch.float32).mean().item(),
    }
    if outputs.divergences is not None:
        logs["divergence"] = outputs.divergences.detach().mean().item()
    return logs
