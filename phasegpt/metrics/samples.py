"""KL(π‖π_ref) on the policy's own answers: how far it has moved where it itself goes.

Beside `kl_divergence`, whose direction is the same and whose support is the answers of the held-out pairs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from phasegpt.encoding import sequence_batch
from phasegpt.forward import completion_hidden, completion_statistics
from phasegpt.models import Policy

Ids = tuple[int, ...]


def sample_divergences(
    policy: Policy, prompts: Sequence[Ids], answers: Sequence[Ids], batch_size: int = 4
) -> list[float]:
    """KL(π‖π_ref) in nats a token of each answer: exact over the vocabulary, mean over the answer's tokens.

    `answers` are the token ids that the policy wrote to `prompts`, its end token included; at least one token each.
    0 for an untrained policy, up to rounding. Greedy answers follow the policy's likeliest path: this is the divergence
    met along it, and no estimate of the divergence between whole sequences.
    """
    order = sorted(range(len(answers)), key=lambda index: len(prompts[index]) + len(answers[index]))
    found = [0.0] * len(answers)
    policy.model.eval()
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = sequence_batch([(prompts[i], answers[i]) for i in chosen], policy.base.tokenizer.pad_token_id)
        batch = {name: value.to(policy.head.device) for name, value in batch.items()}
        with policy.as_reference():
            reference, _, _ = completion_hidden(policy, batch)
        with torch.no_grad():
            _, divergences = completion_statistics(policy, batch, reference)
        for index, value in zip(chosen, cast(Tensor, divergences).tolist(), strict=True):
            found[index] = value
    return found
