"""The metrics that need an answer's text and nothing else, and the name of the version that scores it.

Torch comes only with the first text that the judge must read: the gate scores stored answers by the same table.
"""

from collections.abc import Callable, Mapping

from phasegpt.metrics import spiral
from phasegpt.metrics.degeneration import distinct_2, repetition
from phasegpt.metrics.density import spiral_density
from phasegpt.metrics.spiral import spiral_lexical, spiral_score
from phasegpt.metrics.subtlety import subtlety

TEXT_METRICS: Mapping[str, Callable[[str], float]] = {
    "spiral_score": spiral_score,
    "spiral_lexical": spiral_lexical,
    "subtlety": subtlety,
    "spiral_density": spiral_density,
    "repetition": repetition,
    "distinct_2": distinct_2,
}

VERSIONED = frozenset({"spiral_score", "spiral_lexical", "subtlety", "spiral_density"})
"""Metrics whose values belong to one version of the scorer, and are compared only within it."""


JUDGED = frozenset({"spiral_score", "subtlety"})
"""Metrics that ask the frozen bundled model: where it cannot be fetched, they cannot be measured."""


def scorer() -> str:
    """The version and the weights' hash behind the versioned metrics; every run records it."""
    return f"spiral {spiral.VERSION} {spiral.weights_hash()}"
