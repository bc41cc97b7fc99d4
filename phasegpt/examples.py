"""What a run trains on, an example at a time: pairs, or answers with their own label. Makes batches of shared work.

Knows what a batch of each kind holds; nothing of losses or of the loop that asks for batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phasegpt.encoding import Group
from phasegpt.forward import MISMATCHED
from phasegpt.packing import pack
from phasegpt.pairs import UnpairedRow
from phasegpt.shared_work import SharedWork


class Examples(Protocol):
    """Examples by number, as a trainer asks for them."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int], whole: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The tensors of these examples, which are a worker's part of the micro-batch `whole`; None: all of it."""

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """What `model` says of a batch: what the objective takes."""

    def names(self, numbers: Sequence[int]) -> list[str]:
        """What a message calls each sequence of a batch, in its order."""


@dataclass(frozen=True)
class PairExamples:
    """Pairs by id, for a `PairModel`; with the reference's hidden states where the divergence is asked for."""

    shared: SharedWork
    ids: Sequence[str]
    with_divergence: bool

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, numbers: Sequence[int], whole: Sequence[int] | None = None) -> dict[str, Tensor]:
        """B pairs: see `SharedWork.batch`."""
        return self.shared.batch([self.ids[number] for number in numbers], self.with_divergence)

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """`PairOutputs`."""
        return model(batch, with_divergence=self.with_divergence)

    def names(self, numbers: Sequence[int]) -> list[str]:
        """The chosen answers, then the rejected ones."""
        return [f"the {kind} answer of pair {self.ids[n]}" for kind in ("chosen", "rejected") for n in numbers]


@dataclass(frozen=True)
class AnswerExamples:
    """Answers with their own label, for an `AnswerModel`; `max_length` is the longest sequence, in tokens."""

    shared: SharedWork
    answers: Sequence[UnpairedRow]
    max_length: int

    def __len__(self) -> int:
        return len(self.answers)

    def batch(self, numbers: Sequence[int], whole: Sequence[int] | None = None) -> dict[str, Tensor]:
        """A answers: `SharedWork.answers`, `desirable` [A], and a packed row of M mismatched pairs, if any.

        Answers are turned within `whole`, however the workers share it; what is not in it has no mismatched pair.
        """
        rows = [self.answers[number] for number in numbers]
        batch = self.shared.answers([row.id for row in rows], with_hidden=False)
        batch["desirable"] = torch.tensor([row.label for row in rows])
        mismatched = list(self._mismatched(numbers, numbers if whole is None else whole))
        if mismatched:
            batch |= {MISMATCHED + name: value for name, value in pack(mismatched).items()}
        return batch

    def _mismatched(self, numbers: Sequence[int], whole: Sequence[int]) -> Iterator[Group]:
        """Each prompt with the answer of the row before it in `whole`, the first with that of the last row.

        So every answer of the batch is used once (arXiv 2402.01306; TRL's KTOTrainer turns the same way). Left out
        is an answer to the same prompt, which would be no mismatch. What exceeds the longest sequence is cut.
        """
        turned = dict(zip(whole, [*whole[-1:], *whole[:-1]], strict=True))
        for number in filter(turned.__contains__, numbers):
            row, before = self.answers[number], self.answers[turned[number]]
            if row.prompt != before.prompt:
                prompt, _ = self.shared.sequence(row.id)
                _, completion = self.shared.sequence(before.id)
                yield prompt, completion[: self.max_length - len(prompt)]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """`AnswerOutputs`."""
        return model(batch)

    def names(self, numbers: Sequence[int]) -> list[str]:
        """The answers."""
        return [f"answer {self.answers[number].id}" for number in numbers]
