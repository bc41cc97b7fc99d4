"""The search space: ranges of a `search:` block as Optuna distributions, and the points a search begins with."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from phasegpt.config_search import Distribution

Values = dict[str, Any]

LITERATURE: tuple[tuple[str, Values], ...] = (
    ("TRL's DPO with adapters", {"training.beta": 0.1, "training.learning_rate": 1e-5}),
    ("Zephyr QLoRA", {"training.beta": 0.01, "training.learning_rate": 5e-6}),
    ("SmolLM2's own recipe", {"training.beta": 0.5, "training.learning_rate": 1e-6}),
)
"""Published settings of DPO, by where they come from; a search begins with those that lie inside its ranges."""


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """The Optuna distribution of a range; both edges can be drawn."""
    kind, values = distribution.kind, distribution.values
    if kind in ("choice", "grid"):
        return CategoricalDistribution(values)
    if kind == "randint":
        return IntDistribution(*values)  # type: ignore[arg-type]
    low, high = float(values[0]), float(values[1])  # type: ignore[arg-type]
    if kind == "quniform":
        return FloatDistribution(low, high, step=float(values[2]))  # type: ignore[arg-type]
    return FloatDistribution(low, high, log=kind == "loguniform")


def grid_points(parameters: Mapping[str, Distribution]) -> Iterator[Values]:
    """Every combination of the values of grids and choices, the last parameter moving fastest."""
    names = list(parameters)
    for combination in itertools.product(*(parameters[name].values for name in names)):
        yield dict(zip(names, combination, strict=True))


def contains(distribution: Distribution, value: Any) -> bool:
    """Whether a range holds `value`."""
    if distribution.kind in ("choice", "grid"):
        return value in distribution.values
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    low, high = distribution.values[:2]
    return bool(low <= value <= high)  # type: ignore[operator]


def literature_points(parameters: Mapping[str, Distribution], own: Values, limit: int) -> list[tuple[str, Values]]:
    """At most `limit` published settings inside every range; what they do not name keeps the config's `own` value."""
    points: list[tuple[str, Values]] = []
    for source, published in LITERATURE:
        named = {name: value for name, value in published.items() if name in parameters}
        if named and all(contains(parameters[name], value) for name, value in named.items()):
            points.append((source, {**own, **named}))
    return points[:limit]
