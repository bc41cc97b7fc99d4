"""What a sampler does with a search space, in words for the plan. Knows no study: nothing is drawn here."""

from collections.abc import Iterator
from typing import Any

from phasegpt.config_search import Search
from tune.space import Values, contains, literature_points
from tune.study import POINTS_PER_LITERATURE
from tune.tpe import STARTUP


def parameter_lines(search: Search, own: Values) -> Iterator[str]:
    """One line a parameter: its key, its range, the config's own value, and whether that lies inside."""
    for key, distribution in search.parameters.items():
        outside = "" if contains(distribution, own[key]) else ", outside: tried in the first trial alone"
        range_ = ", ".join(f"{name} {_plain(values)}" for name, values in distribution.written().items())
        yield f"{key}: {range_}; the config's own {_said(own[key])}{outside}"


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return ", ".join(f"{key} is {' or '.join(map(str, allowed))}" for key, allowed in values.items())
    return values


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def sampling(search: Search, own: Values, trials: int) -> str:
    """What the trials are, in order."""
    if search.sampler == "grid":
        fixed = [key for key, distribution in search.parameters.items() if not distribution.grid()]
        kept = f"; {', '.join(fixed)} without points of a grid: the config's own value" if fixed else ""
        return f"the config's own values, then every other point of the grid: {trials} trials{kept}"
    points = literature_points(search.parameters, own, trials // POINTS_PER_LITERATURE)
    named = f", then {', '.join(source for source, _ in points)}" if points else ""
    left = trials - 1 - len(points)
    return f"the config's own values{named}, then {_drawn(search.sampler, left, trials)}"


def _drawn(sampler: str, left: int, trials: int) -> str:
    if sampler == "random":
        return f"{left} at random"
    if sampler == "nsga2":
        return f"{left} by NSGA-II in generations, the first at random"
    if trials <= STARTUP:
        return f"{left} at random: TPE begins after {STARTUP} results"
    return f"{left} by TPE, at random until {STARTUP} trials have a result"
