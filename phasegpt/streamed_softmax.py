"""Softmaxes over a vocabulary whose logits are made and used a block at a time, and what is averaged by them.

A block of logits stays in the processor's cache: it is made, weighed and multiplied back before the next one, as flash
attention does with its keys (arXiv 2205.14135, algorithm 1; the language-model head is keys and values at once). So
the logits of a batch are never written to memory, and the head is read once. Nothing here knows of tokens or losses.

z [n, v] and y [n, v] are a block of the policy's and the reference's logits at the temperature, w [v, d] the head's
rows of that block. π and ρ are the two softmaxes over the whole vocabulary, D their divergence at each of n tokens.
Where no gradient is wanted, `width` is 0 and so are the sums that it would need.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class RunningSoftmax:
    """A softmax over the logits taken so far: their log-sum-exp `lse` [n, 1], and the sums that it weighs."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self._like = like
        self._sums: list[Tensor] = []
        self.lse = like.new_full((rows, 1), -math.inf)

    def sum(self, width: int) -> Tensor:
        """A new sum [n, width] to add weighted values to; it shrinks as later blocks take their share."""
        self._sums.append(self._like.new_zeros(len(self.lse), width))
        return self._sums[-1]

    def take(self, logits: Tensor) -> Tensor:
        """The weights [n, v] of a new block, among all that was taken."""
        weights = torch.log_softmax(logits, dim=-1)
        of_block = logits[:, :1] - weights[:, :1]
        lse = torch.logaddexp(self.lse, of_block)
        share = (self.lse - lse).exp_()
        for total in self._sums:
            total.mul_(share)
        self.lse = lse
        return weights.add_(of_block - lse).exp_()


class AveragedHead:
    """A running softmax and the head's rows averaged by it, Σ_v π_v W_v [n, width], which is ∂lse/∂h."""

    def __init__(self, rows: int, width: int, like: Tensor) -> None:
        self.softmax = RunningSoftmax(rows, like)
        self.row = self.softmax.sum(width)

    @property
    def lse(self) -> Tensor:
        """[n, 1]."""
        return self.softmax.lse

    def take(self, logits: Tensor, w: Tensor) -> Tensor:
        """The weights of a block, its rows averaged in."""
        weights = self.softmax.take(logits)
        add_product(self.row, weights, w)
        return weights


def add_product(total: Tensor, weights: Tensor, w: Tensor) -> None:
    """total [n, d] += weights [n, v] @ w [v, d], multiplied in the head's precision and summed in that of `total`."""
    if total.shape[1] == 0:
        return
    if total.dtype == w.dtype:
        total.addmm_(weights, w)
    else:
        total.add_(weights.to(w.dtype) @ w)


class StreamedDivergence(Protocol):
    """A divergence D of π from ρ. Every block is taken once; after all of them once more where it says `again`."""

    again: bool

    def take(self, z: Tensor, y: Tensor, w: Tensor, weights: Tensor) -> None:
        """A block, of which the policy has just taken z; `weights` [n, v] are what it gave."""

    def take_again(self, z: Tensor, y: Tensor, w: Tensor) -> None:
        """A block when π and ρ are known."""

    def values(self) -> Tensor:
        """D [n, 1]."""

    def gradient(self) -> Tensor:
        """Σ_v (∂D/∂z_v) W_v [n, width]."""


class StreamedKl(StreamedDivergence):
    """KL(π‖ρ) = Σ π (z − y) − lse z + lse y; ∂D/∂z = π (z − y − Σ π (z − y))."""

    again = False

    def __init__(self, policy: AveragedHead, like: Tensor) -> None:
        rows, width = policy.row.shape
        self.policy, self.reference = policy, RunningSoftmax(rows, like)
        self.apart, self.row = policy.softmax.sum(1), policy.softmax.sum(width)

    def take(self, z: Tensor, y: Tensor, w: Tensor, weights: Tensor) -> None:
        """See the protocol."""
        self.reference.take(y)
        apart = (z - y).mul_(weights)
        self.apart += apart.sum(1, keepdim=True)
        add_product(self.row, apart, w)

    def values(self) -> Tensor:
        """See the protocol."""
        return self.apart - self.policy.lse + self.reference.lse

    def gradient(self) -> Tensor:
        """See the protocol."""
        return self.row - self.apart * self.policy.row


class StreamedReverseKl(StreamedDivergence):
    """KL(ρ‖π) = Σ ρ (y − z) − lse y + lse z; ∂D/∂z = π − ρ."""

    again = False

    def __init__(self, policy: AveragedHead, like: Tensor) -> None:
        rows, width = policy.row.shape
        self.policy, self.reference = policy, AveragedHead(rows, width, like)
        self.apart = self.reference.softmax.sum(1)

    def take(self, z: Tensor, y: Tensor, w: Tensor, weights: Tensor) -> None:
        """See the protocol."""
        apart = (y - z).mul_(self.reference.take(y, w))
        self.apart += apart.sum(1, keepdim=True)

    def values(self) -> Tensor:
        """See the protocol."""
        return self.apart - self.reference.lse + self.policy.lse

    def gradient(self) -> Tensor:
        """See the protocol."""
        return self.policy.row - self.reference.row


class StreamedJs(StreamedDivergence):
    """½ Σ π λ + ½ Σ ρ log(ρ/m) with λ = log(π/m), m = (π + ρ)/2; ∂D/∂z = ½ π (λ − Σ π λ).

    m mixes whole softmaxes, so the blocks are taken a second time, when both are known.
    """

    again = True

    def __init__(self, policy: AveragedHead, like: Tensor) -> None:
        rows, width = policy.row.shape
        self.policy, self.reference = policy, RunningSoftmax(rows, like)
        self.of_policy, self.of_reference = like.new_zeros(rows, 1), like.new_zeros(rows, 1)
        self.row = like.new_zeros(rows, width)

    def take(self, z: Tensor, y: Tensor, w: Tensor, weights: Tensor) -> None:
        """See the protocol."""
        self.reference.take(y)

    def take_again(self, z: Tensor, y: Tensor, w: Tensor) -> None:
        """See the protocol."""
        log_p, log_q = z - self.policy.lse, y - self.reference.lse
        log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
        apart = (log_p - log_m).mul_(log_p.exp())
        self.of_policy += apart.sum(1, keepdim=True)
        self.of_reference += (log_q - log_m).mul_(log_q.exp()).sum(1, keepdim=True)
        add_product(self.row, apart, w)

    def values(self) -> Tensor:
        """See the protocol."""
        return (self.of_policy + self.of_reference) / 2

    def gradient(self) -> Tensor:
        """See the protocol."""
        return (self.row - self.of_policy * self.policy.row) / 2


STREAMED: dict[str, Callable[[AveragedHead, Tensor], StreamedDivergence]] = {
    "kl": StreamedKl,
    "reverse_kl": StreamedReverseKl,
    "js_divergence": StreamedJs,
}
