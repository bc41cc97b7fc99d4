"""Perplexity of the policy on fixed neutral prose: does ordinary fluency survive the tuning?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phasegpt.encoding import Group, Tokens
from phasegpt.files import text_sha256
from phasegpt.forward import completion_statistics
from phasegpt.models import Policy
from phasegpt.packing import pack
from phasegpt.shared_store import Encoded, Passages, SharedStore
from phasegpt.shared_work import SharedWork

WINDOW = 512
STRIDE = 384
BATCH = 4


@dataclass(frozen=True)
class Prose:
    """Neutral prose as windows: what each shows before its scored tokens is a group's prompt, those its completion."""

    windows: tuple[Group, ...]
    shared: SharedWork | None = None

    def share(self, store: SharedStore, policy: Policy) -> "Prose":
        """The same prose with the trunk's output for it, where the policy has a trunk."""
        if not (policy.trunk_depth and self.windows):
            return self
        encoded = Encoded(self.windows, [(name,) for name in self._names()])
        passages = Passages(("prose", text_sha256(repr(self.windows))), lambda: encoded)
        return replace(self, shared=store.open(policy, passages, with_hidden=False))

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """All windows, BATCH at a time, packed."""
        for begin in range(0, len(self.windows), BATCH):
            span = slice(begin, begin + BATCH)
            if self.shared is None:
                yield pack(self.windows[span])
            else:
                yield self.shared.answers(self._names()[span], with_hidden=False)

    def _names(self) -> list[str]:
        return [f"window-{number}" for number in range(len(self.windows))]


def prose_of(tokens: Sequence[int], window: int = WINDOW, stride: int = STRIDE) -> Prose:
    """Prose of token ids, as windows of `window` tokens that move on by `stride`.

    Each token but the very first is scored exactly once, in the first window that holds it, so with at least
    `window - stride` tokens of context beyond the first window. No tokens, no windows. Raises ValueError for a single
    token, which leaves nothing to score, and for windows without overlap.
    """
    if not 0 < stride < window:
        raise ValueError(f"perplexity over windows of {window} needs a stride from 1 to {window - 1}, found {stride}")
    if len(tokens) == 1:
        raise ValueError("perplexity needs two tokens of text, found 1; see evaluation.fluency_tokens")
    ids: Tokens = tuple(tokens)
    return Prose(tuple((ids[begin:new], ids[new:end]) for begin, end, new in _windows(len(ids), window, stride)))


def _windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first token scored) of each window over `length` tokens."""
    begin, new = 0, 1
    while new < length:
        end = min(begin + window, length)
        yield begin, end, new
        begin, new = begin + stride, end


def perplexity(policy: Policy, prose: Prose) -> float:
    """exp of the mean negative log-likelihood in nats a token; range [1, inf), lower is more fluent."""
    total, count = 0.0, 0
    policy.model.eval()
    with torch.no_grad():
        for batch in prose.batches():
            found = completion_statistics(policy, {name: v.to(policy.head.device) for name, v in batch.items()})
            total -= found.logps.sum(dtype=torch.float64).item()
            count += int(found.completion_tokens.sum())
    return math.exp(min(total / count, 700.0))
