"""Evidence from few prompts: paired differences, bootstrap intervals, and the probability that A beats B.

The unit is the prompt: what several seeds say of one prompt is averaged first, so that seeds cannot pose as
independent prompts. Means have a studentised bootstrap (Efron and Tibshirani 1993, chapter 12.5), which holds its
level better than the percentile interval with a dozen prompts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000

Runs = Sequence[Mapping[str, float]]
"""A model's runs (seeds), each {prompt id: score}."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval. `p_positive` is the bootstrap share of means above zero; n the prompts."""

    mean: float
    low: float
    high: float
    p_positive: float
    n: int
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Wins:
    """P(A > B) on the same prompt, ties half: the `rate` with its interval; n the prompts."""

    rate: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __str__(self) -> str:
        return f"win rate {self.rate:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Gain(Interval):
    """By how much A is better than B on the same prompts, with what a gain is published beside.

    `ratio` is A's mean over B's in the metric's own unit, None where B's is not above zero; `wins` is P(A > B).
    """

    ratio: float | None = None
    wins: Wins | None = None

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] over {self.n} prompts{self.beside}"

    @property
    def beside(self) -> str:
        """Ratio and win rate as text, to stand behind the gain; empty where there is none."""
        ratio = "" if self.ratio is None else f", ratio {self.ratio:.2f}"
        return ratio + ("" if self.wins is None else f", {self.wins}")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        wins = stored.get("wins")
        return cls(**{**stored, "wins": wins and Wins(**wins)})


def mean_by_prompt(runs: Runs) -> dict[str, float]:
    """The mean of each prompt's score over the runs (seeds) that have it; held-out pairs differ from split to split."""
    return {prompt: float(np.mean(values)) for prompt, values in _by_prompt(runs).items()}


def _by_prompt(runs: Runs) -> dict[str, list[float]]:
    """Each prompt's scores in the order of the runs that have it, prompts in alphabetical order."""
    return {p: [run[p] for run in runs if p in run] for p in sorted({p for run in runs for p in run})}


def paired_interval(a: Runs, b: Runs, level: float = 0.95, seed: int = 0) -> Interval:
    """By how much A's scores exceed B's on the same prompts; A and B are runs (seeds) of {prompt id: score}.

    Raises ValueError where they share fewer than two prompts.
    """
    left, right = mean_by_prompt(a), mean_by_prompt(b)
    shared = sorted(left.keys() & right.keys())
    if len(shared) < 2:
        raise ValueError(f"a paired interval needs two prompts that both have; found {len(shared)}")
    return mean_interval([left[p] - right[p] for p in shared], level, seed)


def paired_gain(a: Runs, b: Runs, better: Literal["max", "min"] = "max") -> Gain:
    """What A gains over B in the direction in which the metric is better; arguments and errors as `paired_interval`."""
    sign = 1.0 if better == "max" else -1.0
    left, right = ([{p: sign * value for p, value in run.items()} for run in runs] for runs in (a, b))
    return Gain(**vars(paired_interval(left, right)), ratio=_paired_ratio(a, b), wins=paired_wins(left, right))


def _paired_ratio(a: Runs, b: Runs) -> float | None:
    left, right = mean_by_prompt(a), mean_by_prompt(b)
    shared = left.keys() & right.keys()
    below = math.fsum(right[p] for p in shared)
    return math.fsum(left[p] for p in shared) / below if below > 0 else None


def paired_wins(a: Runs, b: Runs, level: float = 0.95, seed: int = 0) -> Wins:
    """How often A's score is above B's on the same prompt: over every seed of A against every seed of B, ties half.

    The interval is the percentile bootstrap over prompts with one win and one loss added (in the manner of Agresti and
    Coull 1998): without them, a dozen prompts that all say the same would leave no doubt. Raises ValueError where A and
    B share no prompt.
    """
    left, right = _by_prompt(a), _by_prompt(b)
    rates = [_win_rate(left[prompt], right[prompt]) for prompt in left if prompt in right]
    if not rates:
        raise ValueError("a win rate needs a prompt that both have; found none")
    x = np.asarray([*rates, 0.0, 1.0])
    means = x[np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Wins(float(np.mean(rates)), float(low), float(high), len(rates), level)


def _win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many of the pairs of our score and theirs on one prompt we win, as a share; a tie is half a win."""
    return float(np.mean([(x > y) + (x == y) / 2 for x, y in itertools.product(ours, theirs)]))


def mean_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `values` [n] with a studentised bootstrap interval. Without any spread it is the mean itself.

    Two or three values have too few different resamples; they get Student's t interval. Raises ValueError for fewer.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least two finite values, found {len(x)}: {x[:5]}")
    mean, error = float(x.mean()), _standard_error(x)
    if error == 0.0:
        return Interval(mean, mean, mean, float(mean > 0), len(x), level)
    draws = x[np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))]
    means = draws.mean(1)
    if len(x) < 4:
        t_high = _student_quantile((1 + level) / 2, len(x) - 1)
        t_low = -t_high
    else:
        errors = draws.std(1, ddof=1) / np.sqrt(len(x))
        errors[errors <= 1e-12 * max(1.0, abs(mean))] = error  # a resample of one value over and over
        t_low, t_high = np.quantile((means - mean) / errors, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        mean, mean - float(t_high) * error, mean - float(t_low) * error, float((means > 0).mean()), len(x), level
    )


def _student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t with one or two degrees of freedom, where it has a closed form."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    return (2 * p - 1) / math.sqrt(2 * p * (1 - p))


def _standard_error(x: NDArray[np.float64]) -> float:
    return float(x.std(ddof=1) / np.sqrt(len(x)))
