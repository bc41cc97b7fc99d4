"""Where values lie in their ranges, 0 at the lower end and 1 at the upper, and how far points of a space are apart.

Pure functions; a range of logarithms is measured in logarithms. Knows nothing of trials.
"""

import math
from collections.abc import Mapping
from typing import Any

from phasegpt.config_ranges import LISTED, Distribution

Parameters = Mapping[str, Distribution]


def ranges(parameters: Parameters) -> list[str]:
    """The keys that are searched in a range."""
    return [key for key, distribution in parameters.items() if distribution.kind not in LISTED]


def position(distribution: Distribution, value: Any) -> float | None:
    """Where `value` lies: 0 and 1 are the ends, a config's own value may lie beyond them.

    None of a choice, of what stands beside a range, and of what has no logarithm where one is needed.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if distribution.kind in LISTED or value in distribution.singles() or not number:
        return None
    if distribution.kind == "loguniform" and value <= 0:
        return None
    low, high, at = _measured(distribution, value)
    return (at - low) / (high - low)


def place(parameters: Parameters, keys: tuple[str, str], values: Mapping[str, Any]) -> tuple[float, float] | None:
    """The positions of a point in two ranges; None where it has none in one of them."""
    x, y = (position(parameters[key], values.get(key)) for key in keys)
    return None if x is None or y is None else (x, y)


def value_at(distribution: Distribution, where: float) -> float:
    """The inverse of `position` for a range."""
    low, high, _ = _measured(distribution, 1.0)
    at = low + where * (high - low)
    return math.exp(at) if distribution.kind == "loguniform" else at


def _measured(distribution: Distribution, value: float) -> tuple[float, float, float]:
    """Both ends and `value`, as logarithms where the range is one of logarithms."""
    low, high = (float(end) for end in distribution.values[:2])  # type: ignore[arg-type]
    if distribution.kind == "loguniform":
        return math.log(low), math.log(high), math.log(value)
    return low, high, float(value)


def differences(parameters: Parameters, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """How far two points are apart in each parameter that either of them has.

    Within a range it is the difference of positions; else 0 where the values are the same, and 1.
    """
    return {
        key: _apart(distribution, one.get(key), other.get(key))
        for key, distribution in parameters.items()
        if key in one or key in other
    }


def _apart(distribution: Distribution, one: Any, other: Any) -> float:
    places = position(distribution, one), position(distribution, other)
    if places[0] is None or places[1] is None:
        return float(one != other)
    return abs(places[0] - places[1])


def distance(parameters: Parameters, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The root mean square of the differences: 0 for the same point, 1 for opposite corners."""
    apart = differences(parameters, one, other).values()
    return math.sqrt(math.fsum(d * d for d in apart) / len(apart)) if apart else 0.0
