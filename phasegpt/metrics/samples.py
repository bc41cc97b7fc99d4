"""KL(π‖π_ref) on the policy's own answers: how far it has moved where it itself goes.

Beside `kl_divergence`, whose direction is the same and whose support is the answers of the held-out pairs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from phasegpt.forward import completion_statistics, packed_completions
from phasegpt.models import Policy
from phasegpt.packing import pack

Ids = tuple[int, ...]


def sample_divergences(
    policy: Policy, prompts: Sequence[Ids], answers: Sequence[Ids], batch_size: int = 4
) -> list[float]:
    """KL(π‖π_ref) in nats a token of each answer: exact over the vocabulary, mean over the answer's tokens.

    `answers` are the token ids that the policy wrote to `prompts`, its end token included; at least one token each.
    0 for an untrained policy, up to rounding. Greedy answers follow the policy's likeliest path: this is the divergence
    met along it, and no estimate of the divergence between whole sequences.
    """
    found: list[float] = []
    policy.model.eval()
    for begin in range(0, len(answers), batch_size):
        span = slice(begin, begin + batch_size)
        groups = list(zip(prompts[span], answers[span], strict=True))
        batch = {name: value.to(policy.head.device) for name, value in pack(groups).items()}
        with policy.trunk_noted() as noted, policy.as_reference():
            reference = packed_completions(policy, batch).hidden
        trunk = {"trunk": noted[-1]} if noted else {}  # the same under policy and reference
        with torch.no_grad():
            divergences = completion_statistics(policy, {**batch, **trunk}, reference).divergences
        found += cast(Tensor, divergences).tolist()
    return found
