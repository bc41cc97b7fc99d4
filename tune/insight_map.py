"""How two searched parameters work together: the trials over both, and a smooth surface through what they came to.

The surface is the mean of a Gaussian process (squared exponential with a length for each parameter, and noise), fitted
to the positions of the trials in the searched ranges. Other parameters are not held still: what they do is noise to it.
Pure functions of records.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tune.insight_records import Record, comparable
from tune.insight_space import Parameters, place, ranges, value_at

FAVOURITES = ("training.learning_rate", "training.beta")
FEWEST = 10
"""Trials that a surface needs."""
MOST = 200
"""Trials that a surface is fitted to at most, drawn at random: its cost grows with their cube."""
GRID, FOLDS = 25, 5
FENCE = 3.0
"""A value worse than the worse quartile by more than so many interquartile ranges is drawn as that limit."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A trial on the map; `value` is None of one that was stopped or failed, or that runs."""

    trial: int
    x: float
    y: float
    state: str
    value: float | None
    feasible: bool


@dataclass(frozen=True)
class Surface:
    """The mean and its standard deviation in the objective's unit, at every y (rows) and x (columns).

    `explained` is the share of the variance that it predicts of trials it was not fitted to: 1 is all, 0 or less none.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...]
    sd: tuple[tuple[float, ...], ...]
    explained: float


@dataclass(frozen=True)
class Map:
    """Trials over the parameters `x_key` and `y_key`; `beside` counts finished ones without a place in both ranges.

    Worse values than `limit` are drawn and fitted as that.
    """

    x_key: str
    y_key: str
    objective: str
    better: str
    points: tuple[Point, ...]
    beside: int
    limit: float
    surface: Surface | None
    note: str

    def drawn(self, value: float) -> float:
        """A value of the objective as it is drawn and fitted."""
        return max(value, self.limit) if self.better == "max" else min(value, self.limit)


def default_keys(parameters: Parameters, ranked: Sequence[str]) -> tuple[str, str] | None:
    """Learning rate and β where both are searched in ranges, else the first two ranges of `ranked`, if there are."""
    known = ranges(parameters)
    if set(FAVOURITES) <= set(known):
        return FAVOURITES
    ordered = [key for key in (*ranked, *known) if key in known]
    first = list(dict.fromkeys(ordered))[:2]
    return (first[0], first[1]) if len(first) == 2 else None


def parameter_map(
    records: Sequence[Record], parameters: Parameters, keys: tuple[str, str], objective: str, better: str, seed: int
) -> Map:
    """The map over `keys`, with a surface where enough trials came to a result."""
    placed = [(record, place(parameters, keys, record.values)) for record in records]
    there = [(record, where) for record, where in placed if where is not None]
    done = [record for record, where in placed if where is None and record.state == "complete"]
    points = tuple(_point(record, keys, objective) for record, _ in there)
    limit = worst_told([point.value for point in points if point.value is not None], better)
    found = Map(*keys, objective, better, points, len(done), limit, None, "")
    usable = {record.number for record in comparable(records, objective)}
    measured = [(record, where) for record, where in there if record.number in usable]
    if len(measured) < FEWEST:
        note = f"no surface: {len(measured)} trials came to a result, {FEWEST} are needed"
        return replace(found, note=note)
    chosen = measured if len(measured) <= MOST else random.Random(seed).sample(measured, MOST)  # noqa: S311 - trials, not secrets
    values = np.array([found.drawn(record.metrics[objective]) for record, _ in chosen], dtype=np.float64)
    surface = _surface(np.array([where for _, where in chosen]), values, parameters, keys, seed)
    return replace(found, surface=surface, note=_said(surface, len(chosen), len(measured)))


def _said(surface: Surface, fitted: int, measured: int) -> str:
    trials = f"{fitted} trials" if fitted == measured else f"{fitted} of {measured} trials"
    if surface.explained <= 0:
        return f"the surface predicts trials that it has not seen no better than their mean ({trials})"
    return f"the surface predicts {surface.explained:.0%} of the variance of trials that it has not seen ({trials})"


def _point(record: Record, keys: tuple[str, str], objective: str) -> Point:
    x, y = (float(record.values[key]) for key in keys)
    value = record.metrics.get(objective) if record.state == "complete" else None
    return Point(record.number, x, y, record.state, value, record.feasible)


def worst_told(values: Sequence[float], better: str) -> float:
    """The worst value that is told apart from worse ones, such as a perplexity that blew up."""
    if not values:
        return 0.0
    low, high = np.quantile(values, [0.25, 0.75])
    if better == "max":
        return float(max(min(values), low - FENCE * (high - low)))
    return float(min(max(values), high + FENCE * (high - low)))


def _surface(places: Array, values: Array, parameters: Parameters, keys: tuple[str, str], seed: int) -> Surface:
    """Fit at `places` [trials, 2] and evaluate on a grid over the ranges, widened to trials beyond them."""
    low, high = np.minimum(places.min(0), 0.0), np.maximum(places.max(0), 1.0)
    x, y = (np.linspace(low[i], high[i], GRID) for i in (0, 1))
    grid = np.array([(one, other) for other in y for one in x], dtype=np.float64)
    mean, sd, explained = fit_surface(places, values, grid, seed)
    across, up = ([value_at(parameters[key], float(w)) for w in ends] for key, ends in zip(keys, (x, y), strict=True))
    return Surface(tuple(across), tuple(up), _rows(mean), _rows(sd), explained)


def _rows(values: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values.reshape(GRID, GRID))


def fit_surface(places: Array, values: Array, grid: Array, seed: int) -> tuple[Array, Array, float]:
    """(mean, standard deviation of the mean, explained) of the process at `grid`; inputs are [points, 2] and [points].

    What it explains is by predicting each fifth of the trials from a process fitted anew to the others, against the
    mean of those others.
    """
    if values.std() == 0.0:
        return np.full(len(grid), values[0]), np.zeros(len(grid)), 0.0
    fold = np.random.default_rng(seed).permutation(np.arange(len(values)) % FOLDS)
    errors, without = 0.0, 0.0
    for one in range(FOLDS):
        known, asked = fold != one, fold == one
        predicted, _ = _predict(places[known], values[known], places[asked])
        errors += float(((values[asked] - predicted) ** 2).sum())
        without += float(((values[asked] - values[known].mean()) ** 2).sum())
    mean, sd = _predict(places, values, grid)
    return mean, sd, 1.0 - errors / without


def _predict(places: Array, values: Array, asked: Array) -> tuple[Array, Array]:
    """Mean and its standard deviation at `asked`, of a process fitted to `values` at `places`."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF([0.5, 0.5], (0.1, 10.0)) + WhiteKernel(0.1, (1e-3, 2.0))
    centre, spread = values.mean(), values.std() or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is a parameter that does nothing
        process = GaussianProcessRegressor(kernel).fit(places, (values - centre) / spread)
    mean, sd = process.predict(asked, return_std=True)
    of_mean = np.sqrt(np.maximum(sd**2 - process.kernel_.k2.noise_level, 0.0))
    return mean * spread + centre, of_mean * spread
