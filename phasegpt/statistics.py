"""Evidence from few prompts: paired differences, bootstrap intervals, and the probability that A beats B.

The unit is the prompt: scores of several seeds on one prompt are averaged first, so that seeds cannot pose as
independent prompts. Studentised bootstrap (Efron and Tibshirani 1993, chapter 12.5), which holds its level better
than the percentile interval with a dozen prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval. `p_positive` is the bootstrap share of means above zero; n the prompts."""

    mean: float
    low: float
    high: float
    p_positive: float
    n: int
    level: float = 0.95

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "p_positive": self.p_positive,
            "n": self.n,
            "level": self.level,
        }


def mean_by_prompt(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each prompt's score over the runs (seeds) that have it; held-out pairs differ from split to split."""
    prompts = sorted({prompt for run in runs for prompt in run})
    return {prompt: float(np.mean([run[prompt] for run in runs if prompt in run])) for prompt in prompts}


def paired_interval(
    a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]], level: float = 0.95, seed: int = 0
) -> Interval:
    """By how much A's scores exceed B's on the same prompts; A and B are runs (seeds) of {prompt id: score}.

    Raises ValueError where they share fewer than two prompts.
    """
    left, right = mean_by_prompt(a), mean_by_prompt(b)
    shared = sorted(left.keys() & right.keys())
    if len(shared) < 2:
        raise ValueError(f"a paired interval needs two prompts that both have; found {len(shared)}")
    return mean_interval([left[p] - right[p] for p in shared], level, seed)


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
