"""A power law y = a · N^b of a measure over model sizes, with how sure its exponent is. Pure functions of numbers.

Least squares on logarithms (weighted where every point's error is known), and Student's interval for b. A law needs
three different sizes: two always lie on one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phasegpt.spread import student_quantile

SIZES = 3
"""So many different sizes a law needs."""
NORMAL = 1.959964
"""Half the width of a 95 % interval in standard errors."""


class NoLawError(ValueError):
    """Why there is no law, as a sentence for the reader."""


@dataclass(frozen=True)
class Point:
    """A measured `value` of a model with so many `parameters`; `error` is the standard error of its logarithm."""

    parameters: int
    value: float
    error: float | None = None


@dataclass(frozen=True)
class PowerLaw:
    """y = exp(`log_factor`) · N^`exponent`; `low` and `high` are the ends of the exponent's 95 % interval.

    `sizes` are how many different N it rests on, `smallest` and `largest` between which it was measured.
    """

    log_factor: float
    exponent: float
    low: float
    high: float
    sizes: int
    smallest: int
    largest: int

    def at(self, parameters: float) -> float:
        """What it gives for a size."""
        return math.exp(self.log_factor + self.exponent * math.log(parameters))

    def sentence(self, name: str) -> str:
        """The law in words: what twice the size does to `name`."""
        factor, low, high = (2**b for b in (self.exponent, self.low, self.high))
        said = (
            f"{name} ∝ N^{self.exponent:.2f}, exponent with 95 % interval [{self.low:.2f}, {self.high:.2f}] from "
            f"{self.sizes} sizes: twice the parameters multiply it by {factor:.3g} [{low:.3g}, {high:.3g}]"
        )
        if self.low <= 0 <= self.high:
            return f"{said}. Zero lies in the interval: whether it changes with size is not told"
        return (
            f"{said}. It was measured between {self.smallest:,} and {self.largest:,} parameters and holds there alone"
        )


def log_error(low: float | None, high: float | None) -> float | None:
    """The standard error of a logarithm by both ends of the value's 95 % interval; None where that says nothing."""
    if low is None or high is None or not 0 < low < high:
        return None
    return (math.log(high) - math.log(low)) / (2 * NORMAL)


def power_law(points: Sequence[Point]) -> PowerLaw:
    """The law of `points`; several may have one size. Raises NoLawError with the reason where there is none.

    Where all errors are known they are the weights, and the interval is widened by as much as the points lie further
    from the line than those say (Birge 1932, Phys. Rev. 40), never narrowed.
    """
    sizes = sorted({point.parameters for point in points})
    if len(sizes) < SIZES:
        raise NoLawError(f"a power law takes {SIZES} different trained sizes, and there {_are(len(sizes))}")
    if any(point.value <= 0 for point in points):
        raise NoLawError("a power law takes values above zero, and one is not")
    errors = [point.error for point in points if point.error is not None]
    known = len(errors) == len(points)
    x = np.log([point.parameters for point in points])
    y = np.log([point.value for point in points])
    weights = 1 / np.square(errors) if known else np.ones(len(points))
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float((weights * (x - x_mean) ** 2).sum())
    exponent = float((weights * (x - x_mean) * (y - y_mean)).sum()) / spread
    freedom = len(points) - 2
    scatter = float((weights * (y - y_mean - exponent * (x - x_mean)) ** 2).sum()) / freedom
    reach = student_quantile(0.975, freedom) * math.sqrt((max(1.0, scatter) if known else scatter) / spread)
    factor = float(y_mean - exponent * x_mean)
    return PowerLaw(factor, exponent, exponent - reach, exponent + reach, len(sizes), sizes[0], sizes[-1])


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count or 'none'}"
