"""Evidence from few prompts and few runs: paired gains with intervals, P(A > B), and which finalist is best.

What is estimated is the mean over *new prompts and new runs* (seeds). Scores of several runs on a prompt are averaged,
so that runs cannot pose as independent prompts; how far the runs themselves lie apart is added, since all prompts of a
run share its training. A side of one run stands for itself: that very model, not its recipe. The arithmetic is in
`spread.py`; docs/methods.md has the measured coverage.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from phasegpt.spread import (
    Array,
    RunSpread,
    prompt_draws,
    resampling,
    run_draws,
    run_reach,
    run_spread,
    same,
    skewed_reach,
    student_reach,
)

Runs = Sequence[Mapping[str, float]]
"""A model's runs (seeds), each {prompt id: score}."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; n the prompts.

    `p_positive` is the share of drawn means (new prompts, new runs) above zero, of those at zero a half.
    """

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
    def word(self) -> str:
        """What the interval says: better, worse or not distinguishable."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not distinguishable"

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
    return {prompt: math.fsum(values) / len(values) for prompt, values in _by_prompt(runs).items()}


def _by_prompt(runs: Runs) -> dict[str, list[float]]:
    """Each prompt's scores in the order of the runs that have it, prompts in alphabetical order."""
    return {p: [run[p] for run in runs if p in run] for p in sorted({p for run in runs for p in run})}


def mean_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `values` [prompts] of one run. Without any spread the interval is the mean itself.

    Raises ValueError for fewer than two values and for such as are not finite.
    """
    return _score_interval(_checked(values), (), level, seed)


def runs_interval(runs: Runs, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean score over new prompts and new runs, from the `runs` of one recipe; errors as `mean_interval`."""
    means = mean_by_prompt(runs)
    return _score_interval(_checked(list(means.values())), [_spread(runs, list(means))], level, seed)


def _score_interval(values: Array, sides: Sequence[RunSpread], level: float, seed: int) -> Interval:
    return _interval(values, skewed_reach(values, level, seed), sides, level, level, seed)


def _checked(values: Sequence[float]) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least two finite values, found {len(x)}: {x[:5]}")
    return x


def paired_interval(a: Runs, b: Runs, level: float = 0.95, seed: int = 0, comparisons: int = 1) -> Interval:
    """By how much A's scores exceed B's on the same prompts; A and B are runs (seeds) of {prompt id: score}.

    `comparisons` is out of how many such differences the best is picked: each gets 1 − (1 − level) / comparisons, so
    that all of them hold together at `level` (Dunn 1961, JASA 56). Raises ValueError where A and B share fewer than two
    prompts, or a score is not finite.
    """
    shared = sorted(_prompts(a) & _prompts(b))
    if len(shared) < 2:
        raise ValueError(f"a paired interval needs two prompts that both have; found {len(shared)}")
    ours, theirs = (_means(runs, shared) for runs in (a, b))
    differences, each = np.where(same(ours, theirs), 0.0, ours - theirs), 1 - (1 - level) / comparisons
    reach = student_reach(differences, each)
    return _interval(differences, (reach, reach), [_spread(runs, shared) for runs in (a, b)], each, level, seed)


def _prompts(runs: Runs) -> set[str]:
    return {prompt for run in runs for prompt in run}


def _means(runs: Runs, prompts: Sequence[str]) -> Array:
    means = mean_by_prompt(runs)
    return _checked([means[prompt] for prompt in prompts])


def _spread(runs: Runs, prompts: Sequence[str]) -> RunSpread:
    return run_spread(_table(runs, prompts))


def _interval(
    values: Array, reach: tuple[float, float], sides: Sequence[RunSpread], each: float, level: float, seed: int
) -> Interval:
    """The mean of `values`, with `reach` for its prompts and what the runs of `sides` add at the level `each`.

    The two are independent: they add as their squares (Howe 1974, JASA 69).
    """
    mean, runs = float(values.mean()), run_reach(sides, each)
    drawn = prompt_draws(values[:, None], seed)[:, 0]
    rng = np.random.default_rng([seed, 1])
    for side in sides:
        drawn += run_draws(side, len(drawn), rng)
    low, high = mean - math.hypot(reach[0], runs), mean + math.hypot(reach[1], runs)
    return Interval(mean, low, high, _above(drawn), len(values), level)


def _above(drawn: Array) -> float:
    """The share of `drawn` above zero; of those at zero a half."""
    ties = same(drawn, 0.0)
    return float(((drawn > 0) & ~ties).mean() + ties.mean() / 2)


def paired_gain(a: Runs, b: Runs, better: Literal["max", "min"] = "max", comparisons: int = 1) -> Gain:
    """What A gains over B in the direction in which the metric is better; arguments and errors as `paired_interval`."""
    left, right = _signed(a, better), _signed(b, better)
    interval = paired_interval(left, right, comparisons=comparisons)
    return Gain(**vars(interval), ratio=_paired_ratio(a, b), wins=paired_wins(left, right))


def simultaneous_gains(candidates: Sequence[Runs], own: Runs, better: Literal["max", "min"] = "max") -> list[Gain]:
    """What each of `candidates` gains over `own`, with intervals that hold together: the best may be picked afterwards.

    The winner of a search is the best of several on the very scores that judge it, so that an interval of its own would
    promise too much. Errors as `paired_interval`.
    """
    return [paired_gain(candidate, own, better, len(candidates)) for candidate in candidates]


def p_best(finalists: Sequence[Runs], better: Literal["max", "min"] = "max", seed: int = 0) -> list[float]:
    """How probable it is that each of `finalists` has the best mean over new prompts and new runs; they sum to one.

    Prompts are resampled for all finalists alike (paired on those that all have), runs drawn for each; where several
    are equally good they share. Raises ValueError where there are fewer than two shared prompts.
    """
    shared = sorted(set[str].intersection(*map(_prompts, finalists)))
    if len(shared) < 2:
        raise ValueError(f"comparing {len(finalists)} finalists needs two prompts that all have; found {len(shared)}")
    signed = [_signed(runs, better) for runs in finalists]
    scores = np.column_stack([_means(runs, shared) for runs in signed])
    drawn, rng = prompt_draws(scores, seed), np.random.default_rng([seed, 1])
    drawn += np.column_stack([run_draws(_spread(runs, shared), len(drawn), rng) for runs in signed])
    best = same(drawn, drawn.max(1, keepdims=True))
    return [float(share) for share in (best / best.sum(1, keepdims=True)).mean(0)]


def _signed(runs: Runs, better: Literal["max", "min"]) -> Runs:
    """Scores of which more is better."""
    return runs if better == "max" else [{prompt: -value for prompt, value in run.items()} for run in runs]


def _paired_ratio(a: Runs, b: Runs) -> float | None:
    left, right = mean_by_prompt(a), mean_by_prompt(b)
    shared = left.keys() & right.keys()
    below = math.fsum(right[p] for p in shared)
    return math.fsum(left[p] for p in shared) / below if below > 0 else None


def paired_wins(a: Runs, b: Runs, level: float = 0.95, seed: int = 0) -> Wins:
    """How often A's score is above B's on the same prompt: over every run of A against every run of B, ties half.

    The interval is the percentile bootstrap over prompts with one win and one loss added (in the manner of Agresti and
    Coull 1998): without them, a dozen prompts that all say the same would leave no doubt. What the runs of either side
    disagree by is added. Scores that differ by rounding alone are a tie. Raises ValueError where A and B share no
    prompt.
    """
    shared = sorted(_prompts(a) & _prompts(b))
    if not shared:
        raise ValueError("a win rate needs a prompt that both have; found none")
    met = _meetings(_table(a, shared), _table(b, shared))  # [runs of A, runs of B, prompts]
    rates, sides = np.nanmean(met, (0, 1)), [_mean_over(met, 1), _mean_over(met, 0)]
    rate, runs = float(rates.mean()), run_reach([run_spread(side) for side in sides], level)
    means = resampling(len(rates) + 2, seed) @ np.concatenate([rates, [0.0, 1.0]])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    low, high = rate - math.hypot(rate - float(low), runs), rate + math.hypot(float(high) - rate, runs)
    return Wins(rate, max(0.0, low), min(1.0, high), len(rates), level)


def _table(runs: Runs, prompts: Sequence[str]) -> Array:
    """Scores as [runs, prompts], NaN where a run has no such prompt; runs without any are left out."""
    kept = [run for run in runs if not run.keys().isdisjoint(prompts)]
    return np.asarray([[run.get(prompt, math.nan) for prompt in prompts] for run in kept])


def _meetings(ours: Array, theirs: Array) -> Array:
    """Who is above on each prompt, every run against every run: 1 we, 0 they, ½ a tie, NaN where one did not answer."""
    x, y = ours[:, None, :], theirs[None, :, :]
    won = np.where(same(x, y), 0.5, (x > y).astype(np.float64))
    return np.where(np.isnan(x) | np.isnan(y), math.nan, won)


def _mean_over(met: Array, axis: int) -> Array:
    """The mean of what there is along `axis`, NaN where there is nothing."""
    seen = (~np.isnan(met)).sum(axis)
    return np.where(seen > 0, np.nansum(met, axis) / seen.clip(1), math.nan)


@dataclass(frozen=True)
class Share:
    """How often one of two things happened, `k` times of `n`, with the exact interval of its probability.

    `low` and `high` are Clopper and Pearson's (1934), from 0 to 1 where n is 0; `p` is that of the exact two-sided sign
    test, of so uneven a count where both are as likely.
    """

    k: int
    n: int
    low: float
    high: float
    p: float
    level: float = 0.95

    @classmethod
    def of(cls, k: int, n: int, level: float = 0.95) -> Self:
        """Raises ValueError where k is not from 0 to n."""
        if not 0 <= k <= n:
            raise ValueError(f"a share needs 0 <= k <= n; found k = {k}, n = {n}")
        if n == 0:
            return cls(0, 0, 0.0, 1.0, 1.0, level)
        from scipy.stats import binomtest  # takes most of a second

        test = binomtest(k, n)
        interval = test.proportion_ci(level, method="exact")
        return cls(k, n, float(interval.low), float(interval.high), float(test.pvalue), level)

    @property
    def rate(self) -> float | None:
        """k / n, None where n is 0."""
        return self.k / self.n if self.n else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rate": self.rate}

    def __str__(self) -> str:
        rate = "-" if self.rate is None else f"{self.rate:.2f}"
        return f"{rate} [{self.low:.2f}, {self.high:.2f}] ({self.k} of {self.n})"
