"""The search space: ranges of a `search:` block as Optuna distributions, and the points a search begins with."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from phasegpt.config_search import Distribution, Search

Values = dict[str, Any]

LITERATURE: tuple[tuple[str, Values], ...] = (
    ("TRL's DPO with adapters", {"training.beta": 0.1, "training.learning_rate": 1e-5}),
    ("Zephyr QLoRA", {"training.beta": 0.01, "training.learning_rate": 5e-6}),
    ("SmolLM2's own recipe", {"training.beta": 0.5, "training.learning_rate": 1e-6}),
)
"""Published settings of DPO, by where they come from; a search begins with those that lie inside its ranges."""


def to_optuna(distribution: Distribution, own: Any) -> BaseDistribution:
    """The Optuna distribution of a range; both edges can be drawn.

    A choice is given the config's `own` value where it lacks it: the first trial takes that value, and Optuna's choices
    cannot grow for one trial alone.
    """
    kind, values = distribution.kind, distribution.values
    if kind in ("choice", "grid"):
        choices, first = tuple(map(as_optuna, values)), as_optuna(own)
        return CategoricalDistribution(choices if first in choices else (*choices, first))
    if kind == "randint":
        return IntDistribution(*values)
    low, high = float(values[0]), float(values[1])  # type: ignore[arg-type]
    if kind == "quniform":
        return FloatDistribution(low, high, step=float(values[2]))  # type: ignore[arg-type]
    return FloatDistribution(low, high, log=kind == "loguniform")


def as_optuna(value: Any) -> Any:
    """A value as an Optuna choice and its journal can hold it: a list as JSON text, all else as it is."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def from_optuna(value: Any, distribution: Distribution, own: Any) -> Any:
    """The inverse of `as_optuna` for a value of this range or the config's `own`: a text that stands for one of their
    lists is that list.
    """
    lists = {as_optuna(listed): listed for listed in (*distribution.plain(), own) if isinstance(listed, list)}
    return lists.get(value, value)


def grid_points(parameters: Mapping[str, Distribution], own: Values) -> list[Values]:
    """The config's `own` values, then every other combination of the grids', the last parameter moving fastest."""
    combinations = itertools.product(*(distribution.plain() for distribution in parameters.values()))
    points = [dict(zip(parameters, combination, strict=True)) for combination in combinations]
    return [own, *(point for point in points if point != own)]


def budget(search: Search, own: Values) -> int:
    """How many trials a search has: as many as it asks for, or as its grid has points."""
    return len(grid_points(search.parameters, own)) if search.sampler == "grid" else search.trials


def contains(distribution: Distribution, value: Any) -> bool:
    """Whether a range holds `value`."""
    if distribution.kind in ("choice", "grid"):
        return value in distribution.plain()
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    low, high = distribution.values[:2]
    return bool(low <= value <= high)  # type: ignore[operator]


def literature_points(parameters: Mapping[str, Distribution], own: Values, limit: int) -> list[tuple[str, Values]]:
    """At most `limit` published settings inside every range, none of them `own`; the rest keeps the config's values."""
    points: list[tuple[str, Values]] = []
    for source, published in LITERATURE:
        named = {name: value for name, value in published.items() if name in parameters}
        inside = all(contains(parameters[name], value) for name, value in named.items())
        if inside and {**own, **named} != own:
            points.append((source, {**own, **named}))
    return points[:limit]
