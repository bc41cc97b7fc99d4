"""From easy to hard: the order of pairs whose beginnings a curriculum's stages train on.

Harder is more complex, then more subtle, then what the reference itself gets wrong: a lower margin per token between
the chosen and the rejected answer under the reference. Knows nothing of training.
"""

from collections.abc import Mapping, Sequence

from phasegpt.answers import couple_of
from phasegpt.files import text_sha256
from phasegpt.pairs import COMPLEXITIES, SUBTLETIES, Pair
from phasegpt.shared_work import SharedWork


class CurriculumError(ValueError):
    """Pairs that cannot be put in order; the message names the pair, the labels and the cure."""


def easy_to_hard(pairs: Sequence[Pair], margins: Mapping[str, float]) -> tuple[Pair, ...]:
    """Pairs from easy to hard, the same whatever order they come in.

    By complexity (simple, medium, complex), subtlety (explicit, moderate, implicit), `margins` (higher is easier), and
    id. Raises CurriculumError where a pair lacks one of the labels.
    """
    return tuple(sorted(pairs, key=lambda pair: (*difficulty(pair), -margins[pair.id], pair.id)))


def difficulty(pair: Pair) -> tuple[int, int]:
    """How complex and how subtle a pair is, from (0, 0). Raises CurriculumError where it lacks one of the labels."""
    if pair.complexity is None or pair.subtlety is None:
        raise CurriculumError(
            f"training.curriculum_learning: pair {pair.id} (line {pair.line}) has no complexity or no subtlety, which "
            f"say how hard it is; label it, or set training.curriculum_learning.enabled to false"
        )
    return COMPLEXITIES.index(pair.complexity), SUBTLETIES.index(pair.subtlety)


def reference_margins(shared: SharedWork, pair_ids: Sequence[str]) -> dict[str, float]:
    """For each pair log π_ref(y_w|x)/|y_w| − log π_ref(y_l|x)/|y_l|, in nats a token: higher, the easier the pair."""
    return {pair_id: _margin(shared, *couple_of(pair_id)) for pair_id in pair_ids}


def _margin(shared: SharedWork, chosen: str, rejected: str) -> float:
    y_w, y_l = (shared.reference_logp(name) / shared.completion_tokens(name) for name in (chosen, rejected))
    return y_w - y_l


def order_hash(pairs: Sequence[Pair]) -> str:
    """sha256 of the ids in their order, in hex: equal where two runs climb the same way."""
    return text_sha256(*(pair.id for pair in pairs))
