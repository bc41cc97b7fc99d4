"""Packed batches: one row of tokens without padding, in which the answers to a prompt share it.

A group is a prompt and its completions. The row holds group after group, each as prompt, first completion, second
completion and so on; every completion sees its own prompt and itself, at the positions that it has behind the prompt
alone. So a prompt is computed once for all its answers (prefix sharing, arXiv 2410.20305), nothing is spent on padding,
and each token's output is what the sequence of its own would give.

Where everything lies, and the way to padded rows and back. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegpt.encoding import Group


def pack(groups: Sequence[Group]) -> dict[str, Tensor]:
    """A packed batch: `input_ids` [N] and `lengths` [G, 1 + k], of each prompt and its completions, 0 for none."""
    width = max(len(group) for group in groups)
    lengths = [[*map(len, group), *[0] * (width - len(group))] for group in groups]
    tokens = [token for group in groups for part in group for token in part]
    return {"input_ids": torch.tensor(tokens), "lengths": torch.tensor(lengths)}


@dataclass(frozen=True)
class Span:
    """One sequence of a packed row: `prompt` and `completion` tokens at these places, behind each other or apart."""

    prompt: range
    completion: range

    @property
    def places(self) -> list[int]:
        """Where its tokens lie."""
        return [*self.prompt, *self.completion]


class Packing:
    """How a packed row is made up, from `lengths` as `pack` gives them; index tensors are made where those lie.

    S sequences, one a completion, in the order of the row; N tokens, C of them in completions.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.device = lengths.device
        self.groups = [tuple(length for length in row if length) for row in lengths.tolist()]
        self.spans = list(_spans(self.groups))

    @property
    def sequences(self) -> int:
        """S."""
        return len(self.spans)

    @cached_property
    def position_ids(self) -> Tensor:
        """[1, N]: each token's place in its own sequence."""
        return self._index([place for group in self.groups for place in _positions(group)])[None]

    @cached_property
    def completion_tokens(self) -> Tensor:
        """[S]: the lengths of the completions."""
        return self._index([len(span.completion) for span in self.spans])

    @cached_property
    def targets(self) -> Tensor:
        """[C]: where the tokens of the completions lie, sequence after sequence."""
        return self._index([place for span in self.spans for place in span.completion])

    @cached_property
    def predictors(self) -> Tensor:
        """[C]: where the states lie that predict them; all first ones of a group are predicted by its prompt's last."""
        return self._index([place for span in self.spans for place in (span.prompt[-1], *span.completion[:-1])])

    @cached_property
    def rows(self) -> Tensor:
        """[C]: the sequence of each completion token."""
        return torch.repeat_interleave(self.completion_tokens)

    @cached_property
    def mask(self) -> Tensor:
        """[S, T]: 1 at the tokens of `unpack`, 0 at its padding on the right."""
        lengths = self._index([len(span.places) for span in self.spans])
        return (torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]).long()

    @cached_property
    def _unpacked(self) -> Tensor:
        """[S, T] of places in the row; padding points at the first."""
        width = self.mask.shape[1]
        return self._index([[*span.places, *[0] * (width - len(span.places))] for span in self.spans])

    @cached_property
    def _copies(self) -> Tensor:
        """[N, k] of places in the flattened [S, T]: where `unpack` brings each token, S·T for nowhere else."""
        sequences, width = self.mask.shape
        found: list[list[int]] = [[] for group in self.groups for _ in range(sum(group))]
        for row, span in enumerate(self.spans):
            for column, place in enumerate(span.places):
                found[place].append(row * width + column)
        most = max(map(len, found))
        return self._index([[*places, *[sequences * width] * (most - len(places))] for places in found])

    @cached_property
    def _firsts(self) -> Tensor:
        """[S·T, 1]: the token of which `repack` takes this place, N where it takes it for none."""
        places = self._copies[:, 0]
        firsts = torch.full((self.mask.numel(),), len(places), device=self.device)
        return firsts.scatter_(0, places, torch.arange(len(places), device=self.device))[:, None]

    def unpack(self, values: Tensor) -> Tensor:
        """[N, …] -> [S, T, …]: each sequence in a row of its own, its prompt repeated, whatever at the padding.

        What is made of the padding must not reach anything that has a gradient.
        """
        return _moved(values, self._unpacked, self._copies)

    def repack(self, values: Tensor) -> Tensor:
        """[S, T, …] -> [N, …]: what `unpack` came from, where a prompt's rows agree."""
        return _moved(values.flatten(0, 1), self._copies[:, 0], self._firsts)

    def _index(self, places: Sequence[Any]) -> Tensor:
        return torch.tensor(places, dtype=torch.long, device=self.device)


class _Moved(torch.autograd.Function):
    """values[index], whose gradient is collected from the places in `copies`: torch's own sorts the index each time."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(copies)
        ctx.dimensions = index.dim()
        return values[index]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (copies,) = ctx.saved_tensors
        rows = gradient.flatten(0, ctx.dimensions - 1)
        nowhere = rows.new_zeros(1, *rows.shape[1:])
        return torch.cat([rows, nowhere])[copies].sum(1), None, None


def _moved(values: Tensor, index: Tensor, copies: Tensor) -> Tensor:
    moved: Tensor = _Moved.apply(values, index, copies)  # type: ignore[no-untyped-call]
    return moved


def _positions(group: Sequence[int]) -> list[int]:
    prompt, *completions = group
    return [*range(prompt), *(prompt + place for length in completions for place in range(length))]


def _spans(groups: Sequence[Sequence[int]]) -> list[Span]:
    spans, begin = [], 0
    for prompt, *completions in groups:
        ends = list(accumulate(completions, initial=begin + prompt))
        of_prompt = range(begin, begin + prompt)
        spans += [Span(of_prompt, range(*ends[n : n + 2])) for n in range(len(completions))]
        begin = ends[-1]
    return spans
