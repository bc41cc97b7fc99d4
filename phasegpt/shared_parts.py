"""What shared work is made of, how much room each part takes, and which parts fit into a budget. Imports no torch.

`answers`  token ids and the reference's log-prob of each answer: a few bytes a token, always kept
`hidden`   the reference's last hidden state for each completion token, which its exact divergence is made of
`trunk`    what comes out of the layers below the lowest one that trains, for each token
"""

from collections.abc import Mapping

ANSWERS, HIDDEN, TRUNK = "answers", "hidden", "trunk"
SAVED_FIRST = (HIDDEN, TRUNK)
"""Either saves about as many layers of a forward pass; the hidden states take less room, having no prompts."""

GB = 1e9


def part_bytes(tokens: float, completion_tokens: float, hidden_size: int, width: int = 4) -> dict[str, float]:
    """Bytes of the large parts: `tokens` counts a prompt once for its answers, `width` is bytes a number."""
    return {HIDDEN: completion_tokens * hidden_size * width, TRUNK: tokens * hidden_size * width}


def fitting(wanted: Mapping[str, float], budget: float) -> tuple[str, ...]:
    """The parts that are kept, of those `wanted` with their bytes: what is left out is computed live in each trial."""
    kept: list[str] = []
    for part in SAVED_FIRST:
        if part in wanted and sum(wanted[other] for other in kept) + wanted[part] <= budget:
            kept.append(part)
    return tuple(kept)
