"""The forward pass of training and evaluation: a batch of pairs in, `PairOutputs` out; or of answers, `AnswerOutputs`.

Only completion tokens reach the language-model head, and those in chunks; the reference comes from shared work.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phasegpt.divergences import token_statistics
from phasegpt.models import Policy
from phasegpt.objectives import AnswerOutputs, PairOutputs, TextOutputs

SEQUENCES = ("input_ids", "attention_mask", "completion_mask")
MISMATCHED = "mismatched_"
"""Goes before the names of SEQUENCES where a batch holds prompts with the answers to other prompts."""


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
        """See the class. `with_divergence` needs `reference_hidden` [N, d] in the batch: the N completion tokens."""
        reference_hidden = batch["reference_hidden"] if with_divergence else None
        logps, divergences = completion_statistics(self.policy, batch, reference_hidden, self.kind, self.temperature)
        chosen, rejected = logps.chunk(2)
        reference_chosen, reference_rejected = batch["reference_logps"].to(logps.dtype).chunk(2)
        return PairOutputs(
            policy_chosen_logps=chosen,
            policy_rejected_logps=rejected,
            reference_chosen_logps=reference_chosen,
            reference_rejected_logps=reference_rejected,
            completion_tokens=batch["completion_mask"].sum(1),
            divergences=divergences,
        )


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
        """See the class."""
        logps, _ = completion_statistics(self.policy, batch)
        return AnswerOutputs(
            policy_logps=logps,
            reference_logps=batch["reference_logps"].to(logps.dtype),
            desirable=batch["desirable"],
            mismatched_logratios=self._mismatched_logratios(batch, logps),
        )

    def _mismatched_logratios(self, batch: Mapping[str, Tensor], logps: Tensor) -> Tensor:
        """[M] log π(y'|x) − log π_ref(y'|x), without gradient; dropout is that of the batch's other log-probs."""
        mismatched = {name: batch[MISMATCHED + name] for name in SEQUENCES if MISMATCHED + name in batch}
        if not mismatched:
            return logps.new_zeros(0)
        with torch.no_grad(), self.policy.trunk_noted() as noted:
            policy_logps, _ = completion_statistics(self.policy, mismatched)
        trunk = {"trunk": noted[-1]} if noted else {}
        with self.policy.as_reference():
            reference_logps, _ = completion_statistics(self.policy, {**mismatched, **trunk})
        return policy_logps - reference_logps


class TextModel(nn.Module):
    """The policy as one module whose forward takes a batch of blocks of a text and returns `TextOutputs`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.model = policy.model

    def forward(self, batch: Mapping[str, Tensor]) -> TextOutputs:
        """See the class."""
        logps, _ = completion_statistics(self.policy, batch)
        return TextOutputs(logps, batch["completion_mask"].sum(1))


def completion_hidden(policy: Policy, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, d] that predict the N completion tokens, those tokens [N], and the row of each [N]."""
    hidden = last_hidden(policy, batch)
    predicts = batch["completion_mask"][:, 1:].bool()
    return hidden[:, :-1][predicts], batch["input_ids"][:, 1:][predicts], predicts.nonzero()[:, 0]


def last_hidden(policy: Policy, batch: Mapping[str, Tensor]) -> Tensor:
    """Last hidden states [2B, T, d]; where the batch carries the trunk's output the pass starts above it."""
    if "trunk" in batch:
        return policy.above_trunk(batch["trunk"], batch["attention_mask"])
    states: Tensor = policy.decoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    return states


def completion_statistics(
    policy: Policy,
    batch: Mapping[str, Tensor],
    reference_hidden: Tensor | None = None,
    kind: str = "kl",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Per sequence of a batch [2B]: the sum of completion log-probs, and the mean divergence where it can be had."""
    hidden, targets, rows = completion_hidden(policy, batch)
    logps, divergences = token_statistics(
        hidden, targets, policy.head, reference_hidden, kind=kind, temperature=temperature
    )
    count = len(batch["input_ids"])
    sums = sum_by_row(logps, rows, count)
    if divergences is None:
        return sums, None
    tokens = sum_by_row(torch.ones_like(divergences), rows, count)
    return sums, sum_by_row(divergences, rows, count) / tokens


def sum_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum [N] values into `count` rows: the ragged form of a masked sum over tokens."""
    return values.new_zeros(count).index_add(0, rows, values)
