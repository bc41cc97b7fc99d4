"""Exact token-level divergences between policy and reference over the full vocabulary, chunked over tokens.

Logits of a batch are the largest tensor of preference tuning ([tokens, vocabulary]). They are made here from hidden
states for some completion tokens at a time and made once: what the backward pass needs of them is a gradient of the
size of a hidden state for each token, taken on the way. Nothing here knows of models or pairs.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Kind = Literal["kl", "reverse_kl", "js_divergence"]
KINDS: tuple[str, ...] = get_args(Kind)
CHUNK_LOGITS = 2**23  # logits made at a time: 32 MiB in float32, 170 tokens of a vocabulary of 49k


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
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of `targets` and, where `reference_hidden` is given, divergences, for N completion tokens.

    hidden            [N, d] last hidden states of the policy (after the final norm); the only input with a gradient
    targets           [N] the token that follows each of them
    head              [V, d] weight of the language-model head, frozen, shared by policy and reference
    reference_hidden  [N, d] the reference's, or None
    chunk_tokens      tokens whose logits are made at a time; None takes CHUNK_LOGITS / V

    Returns ([N] log-probs, [N] divergences or None). Equal to one pass over all tokens for every `chunk_tokens`.
    Raises ValueError where the reference has other tokens than the policy.
    """
    if reference_hidden is not None and reference_hidden.shape != hidden.shape:
        raise ValueError(
            f"the reference's hidden states {list(reference_hidden.shape)} are not those of the policy's tokens "
            f"{list(hidden.shape)}; the shared work was made from other pairs or another base model"
        )
    _check(kind, temperature)
    chunk = chunk_tokens or max(1, CHUNK_LOGITS // len(head))
    found: tuple[Tensor, Tensor | None] = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        hidden, targets, head, reference_hidden, kind, temperature, chunk
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
    ) -> tuple[Tensor, Tensor | None]:
        out = _Statistics.empty(hidden, with_gradients=ctx.needs_input_grad[0], with_divergences=reference is not None)
        for begin in range(0, len(hidden), chunk):
            span = slice(begin, begin + chunk)
            _chunk(
                hidden[span], targets[span], head, None if reference is None else reference[span], kind, temperature,
                out.of(span),
            )  # fmt: skip
        ctx.save_for_backward(out.logp_gradients, out.divergence_gradients)
        return out.logps, out.divergences

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logp_weights: Tensor, divergence_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        logp_gradients, divergence_gradients = ctx.saved_tensors
        gradient = logp_weights[:, None].to(logp_gradients.dtype) * logp_gradients
        if divergence_gradients is not None and divergence_weights is not None:
            gradient += divergence_weights[:, None].to(gradient.dtype) * divergence_gradients
        return gradient, None, None, None, None, None, None


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


def _chunk(
    policy: Tensor,
    targets: Tensor,
    head: Tensor,
    reference: Tensor | None,
    kind: str,
    temperature: float,
    out: _Statistics,
) -> None:
    """Fill `out` for some tokens."""
    logits = _logits(policy, head)
    log_p = torch.log_softmax(logits, dim=-1)
    out.logps.copy_(log_p.gather(-1, targets[:, None])[:, 0])
    if reference is not None and out.divergences is not None:
        reference_logits = _logits(reference.to(policy.dtype), head)
        if temperature != 1.0:  # at 1 the policy's softmax is there already
            logits, reference_logits = logits / temperature, reference_logits / temperature
        tempered = log_p if temperature == 1.0 else torch.log_softmax(logits, dim=-1)
        log_q = torch.log_softmax(reference_logits, dim=-1)
        out.divergences.copy_(_between(tempered, log_q, kind))
        if out.divergence_gradients is not None:
            by_logits = _logit_gradient(tempered, log_q, kind, out.divergences) / temperature
            out.divergence_gradients.copy_(by_logits.to(head.dtype) @ head)
    if out.logp_gradients is not None:
        out.logp_gradients.copy_(head[targets] - log_p.exp_().to(head.dtype) @ head)


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    """[n, V] in float32 at least, whatever the states are in."""
    return (hidden @ head.T).to(torch.promote_types(hidden.dtype, torch.float32))


def _logit_gradient(log_p: Tensor, log_q: Tensor, kind: str, values: Tensor) -> Tensor:
    """∂D/∂z of each token [n, V], z the policy's logits at the temperature; `values` [n] is D itself.

    kl p (log p − log q − D), reverse_kl p − q, js_divergence ½ p (log p − log m − KL(p‖m)).
    """
    if kind == "kl":
        return log_p.exp() * (log_p - log_q - values[:, None])
    if kind == "reverse_kl":
        return log_p.exp() - log_q.exp()
    log_ratio = log_p - torch.logaddexp(log_p, log_q) + math.log(2.0)
    p = log_p.exp()
    return p * (log_ratio - (p * log_ratio).sum(-1, keepdim=True)) / 2
