"""Subtlety: whether a text that moves dialectically does so without naming the movement.

    subtlety = moves · (1 − explicitness)

`moves` climbs from 0 at spiral score 0.2 to 1 at 0.6. So a text without any dialectic gets 0, or close to it: it hides
nothing, and a plain text must not win by being called subtle. Lexical, deterministic; knows nothing of models.
"""

import math
import re

from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.words import CONNECTIVES, TERMINOLOGY, words_of

IMPLICIT_FROM = 0.5  # the binary classifier's threshold: at or above it a text counts as implicit
_NAMED = re.compile(
    r"\b(on (the )?one hand|on the other( hand)?|case against|case for|against (it|this|that) (stands?|speaks?)"
    r"|push(es)? back|middle ground|common ground|both (sides|claims|views|positions)|counter-\w+)\b"
)
_PER_TERM = 0.5
_PER_CONNECTIVE = 0.25


def subtlety(text: str) -> float:
    """How implicit the movement is: 0 (none, or all of it announced) to 1. Higher is subtler; per text; no unit."""
    moves = min(1.0, max(0.0, (spiral_score(text) - 0.2) / 0.4))
    return moves * (1 - explicitness(text))


def is_implicit(text: str) -> bool:
    """Whether the text moves, and mostly without saying so."""
    return subtlety(text) >= IMPLICIT_FROM


def explicitness(text: str) -> float:
    """How loudly a text announces its dialectic: 0 (not at all) to 1, per 100 words, whether or not it moves.

    1 − (1 − 0.5)^terms · (1 − 0.25)^connectives: of 100 words, one 'antithesis' gives 0.5, one 'but' 0.25, both 0.625.
    """
    words = words_of(text)
    scale = 100 / max(50, len(words))
    terms = sum(word in TERMINOLOGY for word in words) + len(_NAMED.findall(text.lower()))
    connectives = sum(word in CONNECTIVES for word in words)
    return 1 - math.pow(1 - _PER_TERM, scale * terms) * math.pow(1 - _PER_CONNECTIVE, scale * connectives)
