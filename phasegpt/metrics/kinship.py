"""Kinship: how near the sentences of a text are to those of texts that move, in the eyes of a frozen model.

    kinship = σ(bias + direction · vector)

with the vector of `judge.Judge`. The direction is fitted on training domains (`fit_direction`) and lies in
weights.json. It knows the manner of such texts, not their course: the order of sentences changes nothing, and a text
in that manner that goes nowhere is not told apart. Hence it is one component beside those that count the movement.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Vectors = Callable[[str], Vector]

DIRECTIONS = 80  # principal components that the fit may use; 20, 40 and 120 were no better across domains
RIDGE = 30.0


@dataclass(frozen=True)
class Example:
    """A vector, how far its text moves (0 to 1) and how much it weighs."""

    vector: Vector
    moves: float
    weight: float


def kinship(text: str, fitted: Mapping[str, Any]) -> float:
    """The kinship of a text, 0 to 1, by a fitted {"bias", "direction"}. Loads the bundled model on first use."""
    return _kinship(text, float(fitted["bias"]), tuple(fitted["direction"]))


@lru_cache(maxsize=4096)
def _kinship(text: str, bias: float, direction: tuple[float, ...]) -> float:
    from phasegpt.metrics.judge import judge

    return chance(judge().vector(text), bias, direction)


def chance(vector: Vector, bias: float, direction: Sequence[float]) -> float:
    """σ(bias + direction · vector)."""
    return 1 / (1 + math.exp(-(bias + float(np.dot(direction, vector)))))


def fit_direction(examples: Sequence[Example]) -> dict[str, Any]:
    """Logistic regression with ridge on the first principal components (whitened), both classes of equal weight."""
    vectors = np.array([example.vector for example in examples])
    moves = np.array([example.moves for example in examples])
    weight = np.array([example.weight for example in examples])
    weight *= 1 + moves * ((weight @ (1 - moves)) / (weight @ moves) - 1)
    middle = vectors.mean(0)
    _, lengths, axes = np.linalg.svd(vectors - middle, full_matrices=False)
    kept = min(DIRECTIONS, int((lengths > 1e-8 * lengths[0]).sum()))
    whiten = axes[:kept].T / (lengths[:kept] / math.sqrt(len(vectors)))
    *slopes, bias = _logistic((vectors - middle) @ whiten, moves, weight)
    direction = whiten @ np.array(slopes)
    return {
        "bias": round(float(bias - middle @ direction), 5),
        "direction": [round(float(value), 6) for value in direction],
    }


def _logistic(table: Vector, label: Vector, weight: Vector) -> Vector:
    """Slopes and bias, by Newton's method; the bias goes without ridge."""
    table = np.column_stack([table, np.ones(len(table))])
    ridge = np.diag([RIDGE] * (table.shape[1] - 1) + [1e-6])
    beta = np.zeros(table.shape[1])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-table @ beta))
        slope = table.T @ (weight * (chances - label)) + ridge @ beta
        step = np.linalg.solve((table * (weight * chances * (1 - chances))[:, None]).T @ table + ridge, slope)
        beta -= step
        if np.abs(step).max() < 1e-10:
            break
    return beta
