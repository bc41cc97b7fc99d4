"""How far a mean over a few prompts and a few runs (seeds) may be off: the arithmetic under `statistics.py`.

A score is taken as *prompt + run + noise*, prompts and runs both drawn at random: what is asked is the mean over new
prompts and new runs. Runs of one recipe share their training, so they miss together on all prompts; that part does not
shrink with the number of prompts and has to be estimated from the runs (Hillis 2007, Statistics in Medicine 26, has
the same problem with readers and cases). Knows arrays alone: no metric, no finalist, no direction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
RELATIVE, ABSOLUTE = 1e-6, 1e-7
"""What counts as the same. Equal answers in other batches differ by up to 2e-9 in a score of about 0.2 (1e-8 of it);
the coarsest step that a metric really takes, one word more in an answer of 128, is above 1e-4 of it."""

FEWEST, MOST = 8, 200
"""From how many to how many prompts the bootstrap is asked: below too few resamples differ, above skew hardly tells."""

WIDEST = 2.0
"""The bootstrap may widen Student's limits up to this factor: in resamples of few different values t has no bound."""


@dataclass(frozen=True)
class RunSpread:
    """The variance that a side's mean owes to its runs, beyond the noise in each score: `excess`, zero or more.

    `raw` is the same with the noise still in it, on `freedom` degrees. A single run has none: it stands for itself.
    """

    excess: float = 0.0
    raw: float = 0.0
    freedom: int = 0


def same(a: Array, b: Array | float) -> NDArray[np.bool_]:
    """Where a and b differ by rounding alone: by at most 1e-6 of the larger one, or by 1e-7."""
    return np.asarray(np.abs(a - b) <= np.maximum(ABSOLUTE, RELATIVE * np.maximum(np.abs(a), np.abs(b))))


def run_spread(scores: Array) -> RunSpread:
    """The run part of the variance of a mean; `scores` is [runs, prompts], NaN where a run has no such prompt.

    The analysis of variance of an incomplete block design (Yates 1940): run effects within prompts. Where runs do not
    overlap (each has its own prompts) they are compared by their means.
    """
    runs = len(scores)
    if runs < 2:
        return RunSpread()
    seen = ~np.isnan(scores)
    counts, repeats = seen.sum(1).astype(np.float64), seen.sum(0)
    centred = scores - np.nansum(scores, 0) / repeats
    links = np.diag(counts) - (seen / repeats) @ seen.T
    freedom = int(seen.sum()) - scores.shape[1] - runs + 1
    if np.linalg.matrix_rank(links) < runs - 1:
        centred, links, freedom = scores - np.nanmean(scores), np.diag(counts), int(seen.sum()) - runs
    inverse = np.linalg.pinv(links)
    effects = inverse @ np.nansum(centred, 1)
    residual = float(np.nansum(centred**2) - effects @ links @ effects)
    effects -= effects.mean()
    raw = float(effects @ effects) / (runs - 1) / runs
    if raw <= ABSOLUTE**2:
        return RunSpread()
    lean = float(np.trace(inverse) - inverse.mean() * runs) / (runs - 1) / runs
    noise = max(0.0, residual) / freedom * lean if freedom > 0 else 0.0
    return RunSpread(max(0.0, raw - noise), raw, runs - 1)


def run_reach(sides: Sequence[RunSpread], level: float) -> float:
    """Half the width of Student's interval for what the runs of all `sides` add; degrees of freedom by Welch (1947)."""
    raw = [side.raw for side in sides if side.freedom]
    excess = sum(side.excess for side in sides)
    if not raw or excess == 0.0:
        return 0.0
    freedom = sum(raw) ** 2 / sum(side.raw**2 / side.freedom for side in sides if side.freedom)
    return student_quantile((1 + level) / 2, freedom) * math.sqrt(excess)


def student_reach(values: Array, level: float) -> float:
    """Half the width of Student's interval for the mean of `values` [prompts], which should not lean to one side.

    Only prompts that differ from the commonest value tell the spread, so only they count as degrees of freedom: where
    most prompts did not change, a few that did are little evidence. Zero where the values are the same.
    """
    if bool(same(values, float(values[0])).all()):
        return 0.0
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return student_quantile((1 + level) / 2, max(1, len(values) - _commonest(values))) * error


def skewed_reach(values: Array, level: float, seed: int = 0) -> tuple[float, float]:
    """How far below and above the mean of skewed `values` [prompts] the ends of its interval lie.

    On either side the wider one of Student's and the studentised bootstrap's limit (Efron and Tibshirani 1993, chapter
    12.5), the latter at most twice the former.
    """
    reach = student_reach(values, level)
    if reach == 0.0 or not FEWEST <= len(values) <= MOST:
        return reach, reach
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = np.quantile(_studentised(values, error, seed), [(1 - level) / 2, (1 + level) / 2])
    return min(max(float(high) * error, reach), WIDEST * reach), min(max(float(-low) * error, reach), WIDEST * reach)


def _commonest(values: Array) -> int:
    """How many of the values share the commonest one."""
    ordered = np.sort(values)
    group = np.cumsum(~same(ordered[1:], ordered[:-1]))
    return int(np.bincount(np.concatenate([[0], group])).max())


def _studentised(values: Array, error: float, seed: int) -> Array:
    """(mean of a resample − mean) / its standard error, [resamples]."""
    weights, n = resampling(len(values), seed), len(values)
    centred = values - values.mean()
    means = weights @ centred
    errors = np.sqrt(np.maximum(weights @ centred**2 - means**2, 0.0) / (n - 1))
    errors[errors <= RELATIVE * error] = error  # a resample of one value over and over
    return np.asarray(means / errors)


@lru_cache(maxsize=8)
def resampling(n: int, seed: int) -> Array:
    """How much each of n prompts weighs in each bootstrap resample: [resamples, n], rows sum to one."""
    resamples = min(RESAMPLES, max(1000, MOST * RESAMPLES // n))  # thousands of prompts would fill the memory
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples) / n
    weights.flags.writeable = False
    return np.asarray(weights)


def prompt_draws(values: Array, seed: int) -> Array:
    """The means of `values` [prompts, columns] with the prompts resampled, all columns alike: [resamples, columns].

    Deviations are stretched by √(n / (n − 1)), without which the bootstrap of n values has too small a variance.
    """
    n, mean = len(values), values.mean(0)
    return np.asarray(mean + (resampling(n, seed) @ (values - mean)) * math.sqrt(n / (n - 1)))


def run_draws(side: RunSpread, resamples: int, rng: np.random.Generator) -> Array:
    """What other runs would add to a side's mean: [resamples]. From Student's t: two or three cannot be resampled."""
    if not side.excess:
        return np.zeros(resamples)
    return np.asarray(rng.standard_t(side.freedom, resamples) * math.sqrt(side.excess))


@lru_cache(maxsize=1024)
def student_quantile(p: float, freedom: float) -> float:
    """The quantile at p (0.5 to 1) of Student's t with `freedom` degrees of freedom, one or more, fractions allowed.

    With t = √ν tan θ the density is cos^(ν−1) θ on a finite range; the trapezium rule, on points that crowd at its end,
    gives five digits.
    """
    angle = math.pi / 2 * (1 - np.linspace(1, 0, 2001) ** 2)
    density = np.cos(angle).clip(0) ** (freedom - 1)
    slices = np.diff(angle) * (density[1:] + density[:-1]) / 2
    area = np.concatenate([[0.0], np.cumsum(slices)])
    return math.sqrt(freedom) * math.tan(float(np.interp(2 * p - 1, area / area[-1], angle)))
