"""The training objectives as pure functions of tensors. No state, no config, no model.

Every objective takes what one micro-batch of pairs (or answers) gives and returns one value for each, so that the
trainer can average over the whole optimizer step however it was cut into micro-batches and shards.

Notation: B pairs. `policy_chosen_logps` [B] is the sum of log π(token | prefix) over the completion tokens of the
chosen answer; the other three log-probs likewise. D [2B] is a divergence of π from π_ref for each sequence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from phasegpt.schedule import Course


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

    @property
    def policy_logps(self) -> Tensor:
        """The policy's log-prob of each sequence [2B], chosen first."""
        return torch.cat([self.policy_chosen_logps, self.policy_rejected_logps])

    @property
    def reference_logps(self) -> Tensor:
        """The reference's log-prob of each sequence [2B], chosen first."""
        return torch.cat([self.reference_chosen_logps, self.reference_rejected_logps])


@dataclass(frozen=True)
class AnswerOutputs:
    """What the policy and the reference say of A unpaired answers.

    Log-probs are sums over completion tokens, each [A]; `desirable` [A] is the label. `mismatched_logratios` [M] is
    log π(y'|x) − log π_ref(y'|x) of prompts x with answers y' to other prompts, without gradient, M ≤ A.
    """

    policy_logps: Tensor
    reference_logps: Tensor
    desirable: Tensor
    mismatched_logratios: Tensor


@dataclass(frozen=True)
class TextOutputs:
    """What the policy says of S blocks of a text: log-probs [S], sums over `completion_tokens` [S] tokens.

    The reference is not asked: nothing in a text is held against it.
    """

    policy_logps: Tensor
    completion_tokens: Tensor
    reference_logps: None = None


OutputsT_contra = TypeVar("OutputsT_contra", contravariant=True)


class StepObjective(Protocol[OutputsT_contra]):
    """A loss as a value: what one pair or answer costs, and what is logged of it."""

    def losses(self, outputs: OutputsT_contra) -> Tensor:
        """The loss of each pair or answer, [B]."""

    def logs(self, outputs: OutputsT_contra) -> Mapping[str, Tensor]:
        """What a step reports beside its loss: for each name the values [n] whose mean it is; without any, nothing."""


class Objective(Protocol[OutputsT_contra]):
    """What a run minimises: one loss at every step, or one that moves with the steps."""

    @property
    def needs_divergence(self) -> bool:
        """Whether `PairOutputs.divergences` must be there, in any step of the run."""

    def at(self, step: int, steps: int) -> StepObjective[OutputsT_contra]:
        """The loss at optimizer step `step`, from 1 to `steps`."""


class Constant:
    """A loss that is the same at every step."""

    def at(self, step: int, steps: int) -> Self:
        """Itself."""
        return self


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
    """L_DPO + λ·D, per pair [B]: the `kto` of the track files.

    `divergences` [2B] holds the chosen sequences first; a pair pays the mean of its two, so the mean over pairs is
    the mean over sequences. With weight 0 the losses come back untouched, so that λ = 0 is plain DPO bit for bit.
    """
    if weight == 0.0:
        return pair_losses
    chosen, rejected = divergences.chunk(2)
    return pair_losses + weight * (chosen + rejected) / 2


def sft_loss(policy_logps: Tensor, completion_tokens: Tensor) -> Tensor:
    """Supervised fine-tuning, per sequence [S]: the mean of −log π over its completion tokens [S]."""
    return -policy_logps / completion_tokens


def rewards(outputs: PairOutputs, beta: float) -> tuple[Tensor, Tensor]:
    """The implicit rewards β·log(π/π_ref) of chosen and rejected answers, each [B] (arXiv 2305.18290, §4)."""
    chosen = beta * (outputs.policy_chosen_logps - outputs.reference_chosen_logps)
    rejected = beta * (outputs.policy_rejected_logps - outputs.reference_rejected_logps)
    return chosen.detach(), rejected.detach()


def alone(values: Tensor) -> Tensor:
    """The values of a run of one worker are those of all its workers."""
    return values


def kl_baseline(mismatched_logratios: Tensor, join: Callable[[Tensor], Tensor] = alone) -> Tensor:
    """z0 [], from which `kto_unpaired` counts gains and losses: arXiv 2402.01306, with equation 7.

    KL(π‖π_ref) as a batch lets estimate it: the mean of log π(y'|x) − log π_ref(y'|x) over the batch's mismatched
    pairs [M], never below 0, without gradient; 0 where the batch has none. `join` makes one tensor of those of all
    workers that share the batch, of which some may have no row.
    """
    everyones = join(mismatched_logratios.detach())
    return everyones.mean().clamp(min=0) if len(everyones) else everyones.new_zeros(())


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    beta: float,
    *,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation, per answer [A]: arXiv 2402.01306, equation 7 (λ_y − v(x, y), written out).

    With r = log π(y|x) − log π_ref(y|x): λ_D · (1 − σ(β(r − z0))) where the answer is desirable, and
    λ_U · (1 − σ(β(z0 − r))) where it is not. `desirable` [A] is the label, `baseline` [] the z0 of `kl_baseline`.

    Worked by hand: r = 2, z0 = 1, beta 0.5: desirable 1 − σ(0.5) = 0.377541, undesirable 1 − σ(−0.5) = 0.622459.
    """
    gains = beta * (policy_logps - reference_logps - baseline)
    wanted = desirable_weight * (1 - torch.sigmoid(gains))
    unwanted = undesirable_weight * (1 - torch.sigmoid(-gains))
    return torch.where(desirable, wanted, unwanted)


@dataclass(frozen=True)
class Dpo(Constant):
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

    def logs(self, outputs: PairOutputs) -> Mapping[str, Tensor]:
        """See `pair_logs`."""
        return pair_logs(outputs, self.beta)


@dataclass(frozen=True)
class PenalisedDpo(Constant):
    """`method: kto`: DPO + λ·D(π‖π_ref). weight λ: higher holds the whole distribution nearer to the reference.

    `log_components` logs what D is made of (`kl_components`), and pays for D also where λ is 0.
    """

    dpo: Dpo
    weight: float
    log_components: bool = False

    @property
    def needs_divergence(self) -> bool:
        """A positive λ pays for the divergence, or the wish to see it."""
        return self.weight > 0.0 or self.log_components

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]. Raises ValueError where a positive λ finds no divergence."""
        pair_losses = self.dpo.losses(outputs)
        if self.weight == 0.0:
            return pair_losses
        if outputs.divergences is None:
            raise ValueError("a positive λ needs the divergence; call PairModel with with_divergence=True")
        return penalised_loss(pair_losses, outputs.divergences, self.weight)

    def logs(self, outputs: PairOutputs) -> Mapping[str, Tensor]:
        """See `pair_logs`; with λ, and the components where they are asked for."""
        components = kl_components(outputs) if self.log_components else {}
        return {**self.dpo.logs(outputs), "kto_lambda": torch.tensor([self.weight], dtype=torch.float64), **components}


@dataclass(frozen=True)
class ScheduledDpo:
    """`method: kto` with a λ that moves over the run: at each step the `PenalisedDpo` of that step's λ."""

    dpo: Dpo
    course: Course
    log_components: bool = False

    @property
    def needs_divergence(self) -> bool:
        """Any positive λ of the run pays for the divergence in every step: both courses run between their ends."""
        return max(self.course.initial, self.course.final) > 0.0 or self.log_components

    def at(self, step: int, steps: int) -> PenalisedDpo:
        """The loss of one step."""
        return PenalisedDpo(self.dpo, self.course.at(step, steps), self.log_components)


@dataclass(frozen=True)
class Sft(Constant):
    """`method: lora`: supervised fine-tuning on the chosen answers, the stage before DPO."""

    needs_divergence: bool = False

    def losses(self, outputs: PairOutputs) -> Tensor:
        """The loss of each pair, [B]."""
        chosen_tokens, _ = outputs.completion_tokens.chunk(2)
        return sft_loss(outputs.policy_chosen_logps, chosen_tokens)

    def logs(self, outputs: PairOutputs) -> Mapping[str, Tensor]:
        """See `pair_logs`; this stage has no β, so that its rewards are the log-ratios themselves."""
        return pair_logs(outputs, beta=1.0)


@dataclass(frozen=True)
class TextSft(Constant):
    """`method: lora` on a plain text: supervised fine-tuning on its blocks."""

    needs_divergence: bool = False

    def losses(self, outputs: TextOutputs) -> Tensor:
        """The loss of each block, [S]."""
        return sft_loss(outputs.policy_logps, outputs.completion_tokens)

    def logs(self, outputs: TextOutputs) -> Mapping[str, Tensor]:
        """Nothing beside the loss."""
        return {}


@dataclass(frozen=True)
class Kto(Constant):
    """`method: kto_unpaired`. beta: higher holds the policy nearer to the reference; `join` as in `kl_baseline`."""

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    join: Callable[[Tensor], Tensor] = alone
    needs_divergence: bool = False

    def losses(self, outputs: AnswerOutputs) -> Tensor:
        """The loss of each answer, [A]."""
        return kto_loss(
            outputs.policy_logps,
            outputs.reference_logps,
            outputs.desirable,
            kl_baseline(outputs.mismatched_logratios, self.join),
            self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def logs(self, outputs: AnswerOutputs) -> Mapping[str, Tensor]:
        """z0, the rewards of either label, and their margin where the batch of all workers has both."""
        answer_rewards = self.join(self.beta * (outputs.policy_logps - outputs.reference_logps).detach())
        labels = self.join(outputs.desirable)
        desirable, undesirable = answer_rewards[labels], answer_rewards[~labels]
        has_both = len(desirable) > 0 and len(undesirable) > 0
        return {
            "kl_baseline": kl_baseline(outputs.mismatched_logratios, self.join)[None],
            "rewards_desirable": desirable,
            "rewards_undesirable": undesirable,
            "rewards_margin": (desirable.mean() - undesirable.mean())[None] if has_both else answer_rewards[:0],
        }


def pair_logs(outputs: PairOutputs, beta: float) -> Mapping[str, Tensor]:
    """What a step on pairs reports: rewards [B], their margin, whether a pair is in order, and D [2B] if there."""
    chosen, rejected = rewards(outputs, beta)
    logs = {
        "rewards_chosen": chosen,
        "rewards_rejected": rejected,
        "rewards_margin": chosen - rejected,
        "rewards_accuracy": (chosen > rejected).to(chosen.dtype),
    }
    if outputs.divergences is not None:
        logs["divergence"] = outputs.divergences.detach()
    return logs


def kl_components(outputs: PairOutputs) -> Mapping[str, Tensor]:
    """What D is made of, for each pair [B], in nats a token: D of either answer, and their log-ratios.

    The log-ratio (log π(y|x) − log π_ref(y|x)) / tokens of y is the part of D that lies on the answer's own tokens. The
    four are there only where the divergence is.
    """
    if outputs.divergences is None:
        return {}
    chosen, rejected = outputs.divergences.detach().chunk(2)
    ratios = (outputs.policy_logps - outputs.reference_logps).detach() / outputs.completion_tokens
    ratio_chosen, ratio_rejected = ratios.chunk(2)
    return {
        "divergence_chosen": chosen,
        "divergence_rejected": rejected,
        "logratio_chosen": ratio_chosen,
        "logratio_rejected": ratio_rejected,
    }
