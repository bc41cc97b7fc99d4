"""The forward pass of training and evaluation: a batch of pairs in, `PairOutputs` out; or of answers, `AnswerOutputs`.

Batches are packed (see `packing`): a prompt is computed once for its answers, and nothing is spent on padding. Only
completion tokens reach the language-model head, and those in chunks; the reference comes from shared work.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegpt.divergences import token_statistics
from phasegpt.models import Policy
from phasegpt.objectives import AnswerOutputs, PairOutputs, TextOutputs
from phasegpt.packing import Packing

ROW = ("input_ids", "lengths")
MISMATCHED = "mismatched_"
"""Goes before the names of ROW where a batch holds prompts with the answers to other prompts."""


class PairModel(nn.Module):
    """The policy as one module whose forward takes a batch of shared work and returns `PairOutputs`.

    The trainer wraps, trains and checkpoints this module; `kind` and `temperature` choose the divergence.
    """

    def __init__(self, policy: Policy, kind: str = "kl", temperature: float = 1.0) -> None:
        super().__init__()
        self.policy = policy
        self.model = policy.model
        self.kind = kind
        self.temperature = temperature

    def forward(self, batch: Mapping[str, Tensor], with_divergence: bool = False) -> PairOutputs:
        """See the class. The batch holds chosen and rejected answers in turn.

        Where `with_divergence` finds no `reference_hidden` [C, d] in the batch, the reference is asked live.
        """
        reference = self._reference_hidden(batch) if with_divergence else None
        found = completion_statistics(self.policy, batch, reference, self.kind, self.temperature)
        chosen, rejected = _by_pair(found.logps)
        reference_chosen, reference_rejected = _by_pair(batch["reference_logps"].to(chosen.dtype))
        return PairOutputs(
            policy_chosen_logps=chosen,
            policy_rejected_logps=rejected,
            reference_chosen_logps=reference_chosen,
            reference_rejected_logps=reference_rejected,
            completion_tokens=torch.cat(_by_pair(found.completion_tokens)),
            divergences=None if found.divergences is None else torch.cat(_by_pair(found.divergences)),
        )

    def _reference_hidden(self, batch: Mapping[str, Tensor]) -> Tensor:
        if "reference_hidden" in batch:
            return batch["reference_hidden"]
        with self.policy.as_reference():
            return packed_completions(self.policy, batch).hidden


def _by_pair(values: Tensor) -> tuple[Tensor, Tensor]:
    """[2B] of chosen and rejected answers in turn -> two [B]."""
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


class AnswerModel(nn.Module):
    """The policy as one module whose forward takes a batch of unpaired answers and returns `AnswerOutputs`.

    The batch is one of `AnswerExamples`. What the mismatched pairs give is computed live under policy and reference:
    which pairs there are depends on the order of the rows, hence on the seed, so that trials could share little of it.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.model = policy.model

    def forward(self, batch: Mapping[str, Tensor]) -> AnswerOutputs:
        """See the class. `mismatched_logratios` [M] have no gradient; their dropout is that of the other log-probs."""
        mismatched = {name: batch[MISMATCHED + name] for name in ROW if MISMATCHED + name in batch}
        # before the policy's own pass: a reference's branch is laid on the parameters that its gradient needs
        reference, trunk = self._by_reference(mismatched) if mismatched else (None, {})
        logps = completion_statistics(self.policy, batch).logps
        ratios = logps.new_zeros(0) if reference is None else self._logps({**mismatched, **trunk}) - reference
        return AnswerOutputs(
            policy_logps=logps,
            reference_logps=batch["reference_logps"].to(logps.dtype),
            desirable=batch["desirable"],
            mismatched_logratios=ratios,
        )

    def _by_reference(self, mismatched: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """[M] log π_ref(y'|x), and the trunk's output, which is the policy's too."""
        with self.policy.trunk_noted() as noted, self.policy.as_reference():
            logps = self._logps(mismatched)
        return logps, {"trunk": noted[-1]} if noted else {}

    def _logps(self, batch: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return completion_statistics(self.policy, batch).logps


class TextModel(nn.Module):
    """The policy as one module whose forward takes a batch of blocks of a text and returns `TextOutputs`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.model = policy.model

    def forward(self, batch: Mapping[str, Tensor]) -> TextOutputs:
        """See the class."""
        found = completion_statistics(self.policy, batch)
        return TextOutputs(found.logps, found.completion_tokens)


@dataclass(frozen=True)
class Completions:
    """The C completion tokens of a packed batch: states [C, d] that predict them, their ids [C], their sequence [C].

    `completion_tokens` [S] says how many each of the S sequences has.
    """

    hidden: Tensor
    targets: Tensor
    rows: Tensor
    completion_tokens: Tensor


@dataclass(frozen=True)
class Statistics:
    """Of S sequences, each [S]: sums of completion log-probs, means of the divergence where it was asked for."""

    logps: Tensor
    divergences: Tensor | None
    completion_tokens: Tensor


def packed_completions(policy: Policy, batch: Mapping[str, Tensor]) -> Completions:
    """One pass over a packed batch; where it carries the trunk's output [N, d] the pass starts above it."""
    packing = Packing(batch["lengths"])
    ids = batch["input_ids"]
    states = policy.above_trunk(batch["trunk"], packing) if "trunk" in batch else policy.states(ids, packing)
    return Completions(states[packing.predictors], ids[packing.targets], packing.rows, packing.completion_tokens)


def completion_statistics(
    policy: Policy,
    batch: Mapping[str, Tensor],
    reference_hidden: Tensor | None = None,
    kind: str = "kl",
    temperature: float = 1.0,
) -> Statistics:
    """What the policy says of each sequence of a packed batch, its divergence from `reference_hidden` [C, d] too."""
    found = packed_completions(policy, batch)
    logps, divergences = token_statistics(
        found.hidden, found.targets, policy.head, reference_hidden, kind=kind, temperature=temperature
    )
    count = len(found.completion_tokens)
    sums = sum_by_row(logps, found.rows, count)
    if divergences is None:
        return Statistics(sums, None, found.completion_tokens)
    means = sum_by_row(divergences, found.rows, count) / found.completion_tokens
    return Statistics(sums, means, found.completion_tokens)


def sum_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum [N] values into `count` rows: the ragged form of a masked sum over tokens."""
    return values.new_zeros(count).index_add(0, rows, values)
