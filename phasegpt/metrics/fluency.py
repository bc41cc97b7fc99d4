"""Perplexity of the policy on fixed neutral prose: does ordinary fluency survive the tuning?"""

import math
from collections.abc import Iterator, Sequence

import torch

from phasegpt.divergences import token_statistics
from phasegpt.encoding import pad
from phasegpt.models import Policy

WINDOW = 512
STRIDE = 384
BATCH = 4


def perplexity(policy: Policy, tokens: Sequence[int], window: int = WINDOW, stride: int = STRIDE) -> float:
    """exp of the mean negative log-likelihood in nats a token; range [1, inf), lower is more fluent.

    A window of `window` tokens moves on by `stride`; each token but the very first is scored exactly once, in the
    first window that holds it, so with at least `window - stride` tokens of context beyond the first window.
    Raises ValueError for fewer than two tokens, which leave nothing to score, and for windows without overlap.
    """
    if not 0 < stride < window:
        raise ValueError(f"perplexity over windows of {window} needs a stride from 1 to {window - 1}, found {stride}")
    if len(tokens) < 2:
        raise ValueError(f"perplexity needs two tokens of text, found {len(tokens)}; see evaluation.fluency_tokens")
    total, count = 0.0, 0
    windows = list(_windows(len(tokens), window, stride))
    policy.model.eval()
    with torch.no_grad():
        for begin in range(0, len(windows), BATCH):
            spans = windows[begin : begin + BATCH]
            ids, attention = pad([tokens[first:last] for first, last, _ in spans], 0)
            device = policy.head.device
            ids, attention = ids.to(device), attention.to(device)
            hidden = policy.decoder(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
            scored = attention[:, 1:].bool()
            for row, (first, _, new) in enumerate(spans):
                scored[row, : new - first - 1] = False
            logps, _ = token_statistics(hidden[:, :-1][scored], ids[:, 1:][scored], policy.head)
            total -= logps.sum(dtype=torch.float64).item()
            count += len(logps)
    return math.exp(min(total / count, 700.0))


def _windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first token scored) of each window over `length` tokens."""
    begin, new = 0, 1
    while True:
        end = min(begin + window, length)
        yield begin, end, new
        if end == length:
            return
        begin, new = begin + stride, end
