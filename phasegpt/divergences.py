"""Exact token-level divergences between policy and reference over the full vocabulary, and log-probs beside them.

Logits of a batch are the largest tensor of preference tuning ([tokens, vocabulary]). They are made here from hidden
states, some tokens and a block of the vocabulary at a time (see `streamed_softmax`), and made once: what the backward
pass needs of them is a gradient of the size of a hidden state for each token, taken on the way. Nothing here knows of
models or pairs.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegpt.streamed_softmax import STREAMED, AveragedHead

Kind = Literal["kl", "reverse_kl", "js_divergence"]
KINDS: tuple[str, ...] = get_args(Kind)
CHUNK_TOKENS = 512  # tokens at a time
BLOCK = {"cpu": 1024, "cuda": 65_536}
"""Logits made at a time for each of them: on a CPU what its caches hold, 2 MiB in all; on a GPU what keeps it busy."""


def divergence(policy_logits: Tensor, reference_logits: Tensor, kind: str, temperature: float = 1.0) -> Tensor:
    """The divergence of π from π_ref at each token: [..., V] logits in, [...] values in nats out.

    kl             KL(π‖π_ref)  = Σ π (log π − log π_ref): the policy pays where it puts mass the reference lacks
    reverse_kl     KL(π_ref‖π)  = Σ π_ref (log π_ref − log π): the policy pays where it drops the reference's mass
    js_divergence  ½ KL(π‖m) + ½ KL(π_ref‖m) with m = (π + π_ref)/2: symmetric, at most ln 2

    `temperature` divides both logits first; higher looks more at unlikely tokens. Gradients reach the policy only.

    Worked by hand for V = 2: π = (¾, ¼), π_ref = (½, ½): kl = ¾ ln 1.5 + ¼ ln 0.5 = 0.130812,
    reverse_kl = ½ ln ⅔ + ½ ln 2 = 0.143841, js_divergence = 0.033823.

    Raises ValueError for another kind or a temperature that is not positive.
    """
    _check(kind, temperature)
    log_p = torch.log_softmax(policy_logits / temperature, dim=-1)
    return _between(log_p, torch.log_softmax(reference_logits.detach() / temperature, dim=-1), kind)


def _check(kind: str, temperature: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown divergence {kind!r}: expected one of {', '.join(KINDS)}")
    if not temperature > 0:
        raise ValueError(f"the divergence's temperature must be positive, found {temperature}")


def _between(log_p: Tensor, log_q: Tensor, kind: str) -> Tensor:
    """The divergence of two distributions given as log-probabilities [..., V]."""
    if kind == "kl":
        return _kl(log_p, log_q)
    if kind == "reverse_kl":
        return _kl(log_q, log_p)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def token_statistics(
    hidden: Tensor,
    targets: Tensor,
    head: Tensor,
    reference_hidden: Tensor | None = None,
    *,
    kind: str = "kl",
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    block: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of `targets` and, where `reference_hidden` is given, divergences, for N completion tokens.

    hidden            [N, d] last hidden states of the policy (after the final norm); the only input with a gradient
    targets           [N] the token that follows each of them
    head              [V, d] weight of the language-model head, frozen, shared by policy and reference
    reference_hidden  [N, d] the reference's, or None
    chunk_tokens      tokens whose logits are made at a time
    block             how much of the vocabulary at a time; None takes BLOCK

    Returns ([N] log-probs, [N] divergences or None), the same for every chunk and block. Raises ValueError where the
    reference has other tokens than the policy.
    """
    if reference_hidden is not None and reference_hidden.shape != hidden.shape:
        raise ValueError(
            f"the reference's hidden states {list(reference_hidden.shape)} are not those of the policy's tokens "
            f"{list(hidden.shape)}; the shared work was made from other pairs or another base model"
        )
    _check(kind, temperature)
    found: tuple[Tensor, Tensor | None] = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        hidden, targets, head, reference_hidden, kind, temperature, chunk_tokens, block
    )
    return found


class _TokenStatistics(torch.autograd.Function):
    """See `token_statistics`.

    A token's two values depend on its own hidden state alone, so the backward pass needs one vector [d] for each:
    ∂log π(t)/∂h = W_t − Σ_v π_v W_v and ∂D/∂h = Σ_v (∂D/∂z_v) W_v. Both are made with the logits, which are then
    dropped: a step multiplies by the head once less than if it made the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        head: Tensor,
        reference: Tensor | None,
        kind: str,
        temperature: float,
        chunk: int,
        block: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        out = _Statistics.empty(hidden, with_gradients=ctx.needs_input_grad[0], with_divergences=reference is not None)
        for begin in range(0, len(hidden), chunk):
            span = slice(begin, begin + chunk)
            rows = _Rows(hidden[span], targets[span], None if reference is None else reference[span])
            _stream(rows, head, kind, temperature, block, out.of(span))
        ctx.save_for_backward(out.logp_gradients, out.divergence_gradients)
        return out.logps, out.divergences

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logp_weights: Tensor, divergence_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        logp_gradients, divergence_gradients = ctx.saved_tensors
        gradient = logp_weights[:, None].to(logp_gradients.dtype) * logp_gradients
        if divergence_gradients is not None and divergence_weights is not None:
            gradient += divergence_weights[:, None].to(gradient.dtype) * divergence_gradients
        return gradient, None, None, None, None, None, None, None


@dataclass(frozen=True)
class _Rows:
    """Some tokens: hidden states [n, d] of policy and reference (or None), targets [n]."""

    policy: Tensor
    targets: Tensor
    reference: Tensor | None


@dataclass(frozen=True)
class _Statistics:
    """What is found of N tokens: log-probs [N], divergences [N], and for each the gradient on its hidden state [N, d].

    Made before the chunks are, since small results between large temporaries would break the heap into pieces that
    no later chunk fits (seen: 0.6 MB more for every token).
    """

    logps: Tensor
    divergences: Tensor | None
    logp_gradients: Tensor | None
    divergence_gradients: Tensor | None

    @classmethod
    def empty(cls, hidden: Tensor, *, with_gradients: bool, with_divergences: bool) -> Self:
        values = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        return cls(
            values,
            torch.empty_like(values) if with_divergences else None,
            torch.empty_like(hidden) if with_gradients else None,
            torch.empty_like(hidden) if with_gradients and with_divergences else None,
        )

    def of(self, span: slice) -> "_Statistics":
        """The part of some tokens; writing to it writes to the whole."""
        parts = (self.divergences, self.logp_gradients, self.divergence_gradients)
        return _Statistics(self.logps[span], *(None if part is None else part[span] for part in parts))


def _stream(rows: _Rows, head: Tensor, kind: str, temperature: float, block: int | None, out: _Statistics) -> None:
    """Fill `out` for some tokens, a block of the vocabulary at a time."""
    count, like = len(rows.policy), out.logps
    width = 0 if out.logp_gradients is None else head.shape[1]
    policy = AveragedHead(count, width, like)
    tempered = policy if temperature == 1.0 else AveragedHead(count, width, like)
    divergence = None if rows.reference is None else STREAMED[kind](tempered, like)
    chosen = torch.zeros_like(like)
    blocks = torch.split(head, block or BLOCK[head.device.type])
    begin = 0
    for w in blocks:
        z = _logits(rows.policy, w)
        chosen += _where_targeted(z, rows.targets - begin)
        weights = policy.take(z, w)
        if divergence is not None and rows.reference is not None:
            z, y = _at(temperature, z), _at(temperature, _logits(rows.reference, w))
            divergence.take(z, y, w, weights if tempered is policy else tempered.take(z, w))
        begin += len(w)
    if divergence is not None and rows.reference is not None and divergence.again:
        for w in blocks:
            z, y = (_at(temperature, _logits(states, w)) for states in (rows.policy, rows.reference))
            divergence.take_again(z, y, w)
    out.logps.copy_(chosen - policy.lse[:, 0])
    if out.logp_gradients is not None:
        out.logp_gradients.copy_(head[rows.targets] - policy.row)
    if divergence is not None and out.divergences is not None:
        out.divergences.copy_(divergence.values()[:, 0])
        if out.divergence_gradients is not None:
            out.divergence_gradients.copy_(divergence.gradient() / temperature)


def _logits(hidden: Tensor, w: Tensor) -> Tensor:
    """[n, v] in float32 at least, whatever the states are in."""
    return (hidden.to(w.dtype) @ w.T).to(torch.promote_types(w.dtype, torch.float32))


def _at(temperature: float, z: Tensor) -> Tensor:
    return z if temperature == 1.0 else z / temperature


def _where_targeted(z: Tensor, targets: Tensor) -> Tensor:
    """[n]: the logit of each target in this block, from whose beginning `targets` count; 0 for those outside."""
    inside = (targets >= 0) & (targets < z.shape[1])
    return z.gather(1, targets.clamp(0, z.shape[1] - 1)[:, None])[:, 0] * inside
