"""Exact token-level divergences between policy and reference over the full vocabulary, chunked over tokens.

Logits of a batch are the largest tensor of preference tuning ([tokens, vocabulary]). They are made here from hidden
states for `chunk_tokens` completion tokens at a time, and made again in the backward pass, so that the peak does not
grow with the number of tokens. Nothing here knows of models or pairs.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Kind = Literal["kl", "reverse_kl", "js_divergence"]
KINDS: tuple[str, ...] = get_args(Kind)
CHUNK_TOKENS = 256


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
    if kind not in KINDS:
        raise ValueError(f"unknown divergence {kind!r}: expected one of {', '.join(KINDS)}")
    if not temperature > 0:
        raise ValueError(f"the divergence's temperature must be positive, found {temperature}")
    log_p = torch.log_softmax(policy_logits / temperature, dim=-1)
    return _between(log_p, torch.log_softmax(reference_logits.detach() / temperature, dim=-1), kind)


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
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of `targets` and, where `reference_hidden` is given, divergences, for N completion tokens.

    hidden            [N, d] last hidden states of the policy (after the final norm)
    targets           [N] the token that follows each of them
    head              [V, d] weight of the language-model head, shared by policy and reference
    reference_hidden  [N, d] the reference's, or None

    Returns ([N] log-probs, [N] divergences or None). Equal to one pass over all tokens for every `chunk_tokens`.
    Raises ValueError where the reference has other tokens than the policy.
    """
    if reference_hidden is not None and reference_hidden.shape != hidden.shape:
        raise ValueError(
            f"the reference's hidden states {list(reference_hidden.shape)} are not those of the policy's tokens "
            f"{list(hidden.shape)}; the shared work was made from other pairs or another base model"
        )
    logps, divergences = [], []
    for begin in range(0, max(1, len(hidden)), chunk_tokens):
        span = slice(begin, begin + chunk_tokens)
        reference = None if reference_hidden is None else reference_hidden[span]
        chunk_logps, chunk_divergences = checkpoint(
            _chunk, hidden[span], targets[span], head, reference, kind, temperature, use_reentrant=False
        )
        logps.append(chunk_logps)
        divergences.append(chunk_divergences)
    return torch.cat(logps), None if reference_hidden is None else torch.cat(divergences)


def _chunk(
    policy: Tensor, targets: Tensor, head: Tensor, reference: Tensor | None, kind: str, temperature: float
) -> tuple[Tensor, Tensor | None]:
    policy_logits = (policy @ head.T).to(torch.promote_types(policy.dtype, torch.float32))
    log_p = torch.log_softmax(policy_logits, dim=-1)
    logps = log_p.gather(-1, targets[:, None])[:, 0]
    if reference is None:
        return logps, None
    reference_logits = (reference.to(policy.dtype) @ head.T).to(policy_logits.dtype)
    if temperature == 1.0:  # the usual case needs the policy's softmax only once
        return logps, _between(log_p, torch.log_softmax(reference_logits.detach(), dim=-1), kind)
    return logps, divergence(policy_logits, reference_logits, kind, temperature)
