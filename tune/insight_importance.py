"""Which parameters mattered: PED-ANOVA over the finished trials, with an interval for each.

PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv 2304.10255) asks of each parameter how much the values of the best
trials are distributed otherwise than those of all: the Pearson divergence of both densities. Densities are those of the
trials that were drawn, so a sampler that crowds around a value does not by itself make it look important. Pure
functions of records.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from tune.console import short_name
from tune.insight_records import Record, comparable
from tune.insight_space import Parameters
from tune.space import CHOICE, Values, as_params, draw

FEWEST = 10
"""Below so many finished trials nothing is said."""
BEST, BEST_TRIALS = 0.25, 5
"""The best quarter is set against all, and never fewer trials than so many."""
RESAMPLES, LEVEL = 200, 0.95
TOO_FEW = "too few trials to tell"


@dataclass(frozen=True)
class Share:
    """A parameter's share of the importance of all, with its interval; `trials` is how many of the finished had it."""

    key: str
    share: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Importance:
    """What mattered for one objective, the largest share first; no shares where there are too few trials."""

    objective: str
    trials: int
    shares: tuple[Share, ...]
    verdict: str


def importance(
    records: Sequence[Record],
    parameters: Parameters,
    own: Values,
    objective: str,
    better: str,
    seed: int,
    resamples: int = RESAMPLES,
) -> Importance:
    """The shares for `objective`, of which `better` is max or min, with percentile intervals over seeded resamples.

    `own` are the config's values of all parameters. The two draws of a parameter with single values beside its range
    count as one: the divergences of both add up to that of the pair.
    """
    used = comparable(records, objective)
    if len(used) < FEWEST:
        return Importance(objective, len(used), (), f"{TOO_FEW}: {len(used)} finished, {FEWEST} are needed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of every resample
    sign = -1.0 if better == "max" else 1.0
    trials = [as_trial(record.values, parameters, own, sign * record.metrics[objective]) for record in used]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(trials), size=len(trials)) for _ in range(resamples))
    again = np.array([_shares([trials[i] for i in chosen], parameters) for chosen in drawn])
    tail = 50 * (1 - LEVEL)
    spans = np.percentile(again, [tail, 100 - tail], axis=0)
    rows = zip(parameters, _shares(trials, parameters), *spans, strict=True)
    shares = [
        Share(key, float(share), float(low), float(high), sum(key in record.values for record in used))
        for key, share, low, high in rows
    ]
    shares.sort(key=lambda share: -share.share)
    return Importance(objective, len(used), tuple(shares), verdict(shares))


def verdict(shares: Sequence[Share]) -> str:
    """Which parameters are told apart, by intervals that do not overlap."""
    if len(shares) == 1:
        return "one parameter alone is searched: there is nothing to compare it with"
    above = {
        one.key: [other.key for other in shares if other.high < one.low]
        for one in shares
        if any(other.high < one.low for other in shares)
    }
    if not above:
        return f"{TOO_FEW}: the intervals of all parameters overlap"
    return "; ".join(f"{short_name(k)} matters more than {_listed(below)}" for k, below in above.items())


def _listed(keys: Sequence[str]) -> str:
    *before, last = map(short_name, keys)
    return f"{', '.join(before)} and {last}" if before else last


def _shares(trials: list[FrozenTrial], parameters: Parameters) -> list[float]:
    """The share of each parameter; equal ones where the best trials are spread as all are."""
    best = max(BEST, BEST_TRIALS / len(trials))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials under a condition, which the count beside a share says
        found = PedAnovaImportanceEvaluator(target_quantile=best).evaluate(_Sample(trials))
    folded = [found.get(key, 0.0) + found.get(key + CHOICE, 0.0) for key in parameters]
    total = sum(folded)
    return [value / total if total else 1 / len(folded) for value in folded]


class _Sample:
    """As much of a study as PED-ANOVA asks for. A trial may be there several times; an Optuna study would copy each."""

    directions = (StudyDirection.MINIMIZE,)

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._trials = [_numbered(trial, number) for number, trial in enumerate(trials)]

    def get_trials(self, **_: Any) -> list[FrozenTrial]:
        """All of them; they have all ended well."""
        return self._trials

    def _is_multi_objective(self) -> bool:
        return False


def _numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    twin = copy.copy(trial)
    twin.number = twin._trial_id = number
    return twin


def as_trial(values: Mapping[str, Any], parameters: Parameters, own: Values, value: float) -> FrozenTrial:
    """A finished trial as Optuna has it; a config's own value outside its range counts as the nearest inside."""
    params = as_params(parameters, {key: values[key] for key in parameters if key in values})
    distributions: dict[str, BaseDistribution] = {}

    def ask(name: str, distribution: BaseDistribution) -> Any:
        distributions[name] = distribution
        return params[name]

    draw(parameters, own, ask)
    inside = {name: _inside(distribution, params[name]) for name, distribution in distributions.items()}
    return create_trial(params=inside, distributions=distributions, value=value)


def _inside(distribution: BaseDistribution, value: Any) -> Any:
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return value
    near = min(max(value, distribution.low), distribution.high)
    if distribution.step is None:
        return near
    return distribution.low + round((near - distribution.low) / distribution.step) * distribution.step
