"""The search space: ranges of a `search:` block as Optuna distributions, and the points a search begins with.

A parameter with single values beside its range takes two draws: first which of them or the range (`KEY?`), then, for
the range, the value. A parameter with a condition is drawn where the condition holds, and is no part of the values
elsewhere: the config's own then stays.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from phasegpt.config_ranges import LISTED, Distribution, active, holds, in_order
from phasegpt.config_search import Search

Values = dict[str, Any]
Parameters = Mapping[str, Distribution]
Draw = Callable[[str, BaseDistribution], Any]
"""Draws the value of a name from a distribution."""

RANGE, CHOICE = "range", "?"

LITERATURE: tuple[tuple[str, Values], ...] = (
    ("TRL's DPO with adapters", {"training.beta": 0.1, "training.learning_rate": 1e-5}),
    ("Zephyr QLoRA", {"training.beta": 0.01, "training.learning_rate": 5e-6}),
    ("SmolLM2's own recipe", {"training.beta": 0.5, "training.learning_rate": 1e-6}),
)
"""Published settings of DPO, by where they come from; a search begins with those that lie inside its ranges."""


def draw(parameters: Parameters, own: Values, ask: Draw) -> Values:
    """One point of the space, as a config holds it; `own` are the config's values of all parameters."""
    values: Values = {}
    for key in in_order(parameters):
        distribution = parameters[key]
        if not holds(distribution, values):
            continue
        if distribution.also:
            taken = ask(key + CHOICE, CategoricalDistribution((RANGE, *map(as_optuna, distribution.singles()))))
            if taken != RANGE:
                values[key] = from_optuna(taken, distribution, own[key])
                continue
        values[key] = from_optuna(ask(key, to_optuna(distribution, own[key])), distribution, own[key])
    return values


def as_params(parameters: Parameters, values: Values) -> Values:
    """A point by the names and in the form that `draw` asks for."""
    params: Values = {}
    for key, value in values.items():
        if parameters[key].also:
            beside = value in parameters[key].singles()
            params[key + CHOICE] = as_optuna(value) if beside else RANGE
            if beside:
                continue
        params[key] = as_optuna(value)
    return params


def to_optuna(distribution: Distribution, own: Any) -> BaseDistribution:
    """The Optuna distribution of a range; both edges can be drawn.

    A choice is given the config's `own` value where it lacks it: the first trial takes that value, and Optuna's choices
    cannot grow for one trial alone.
    """
    kind, values = distribution.kind, distribution.values
    if kind in LISTED:
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
    lists = {as_optuna(listed): listed for listed in (*distribution.singles(), own) if isinstance(listed, list)}
    return lists.get(value, value)


def grid_points(parameters: Parameters, own: Values) -> list[Values]:
    """The config's `own` values, then every other combination of the grids', the last parameter moving fastest.

    A range without points of its own keeps the config's value.
    """
    combinations = itertools.product(*(d.grid() or [own[key]] for key, d in parameters.items()))
    points = [active(parameters, dict(zip(parameters, values, strict=True))) for values in combinations]
    first, seen = active(parameters, own), []
    for point in (first, *points):
        if point not in seen:
            seen.append(point)
    return seen


def budget(search: Search, own: Values) -> int:
    """How many trials a search has: as many as it asks for, or as its grid has points."""
    return len(grid_points(search.parameters, own)) if search.sampler == "grid" else search.trials


def contains(distribution: Distribution, value: Any) -> bool:
    """Whether a range, or what stands beside it, holds `value`."""
    if value in distribution.singles():
        return True
    if distribution.kind in LISTED or not isinstance(value, int | float) or isinstance(value, bool):
        return False
    low, high = distribution.values[:2]
    return bool(low <= value <= high)  # type: ignore[operator]


def allows(distribution: Distribution, value: Any) -> bool:
    """Whether a trial can be given `value`: of a choice one that it holds, of a range any."""
    return distribution.kind not in LISTED or contains(distribution, value)


def first_points(search: Search, own: Values, published: int) -> list[tuple[str, Values]]:
    """What a search asks before its sampler, each with where it comes from: the config's own values, then the rest of
    a grid, or at most `published` published settings.
    """
    points = [("config", active(search.parameters, own))]
    if search.sampler == "grid":
        return points + [("grid", point) for point in grid_points(search.parameters, own)[1:]]
    return points + literature_points(search.parameters, own, published)


def literature_points(parameters: Parameters, own: Values, limit: int) -> list[tuple[str, Values]]:
    """At most `limit` published settings inside every range, none of them `own`; the rest keeps the config's values."""
    points: list[tuple[str, Values]] = []
    for source, published in LITERATURE:
        named = {name: value for name, value in published.items() if name in parameters}
        inside = all(contains(parameters[name], value) for name, value in named.items())
        if inside and {**own, **named} != own:
            points.append((source, active(parameters, {**own, **named})))
    return points[:limit]
