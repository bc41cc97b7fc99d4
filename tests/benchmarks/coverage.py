"""How often 95 % intervals of a paired gain hold the truth, for small numbers of prompts and runs.

Scores come from known worlds: *prompt + setting on this prompt + run + noise*, in units of the prompts' standard
deviation. The truth is the mean gain over new prompts and new runs. `howe` is `phasegpt.statistics.paired_interval`
itself; the others are what else could be used. With --scores the interval of a recipe's own mean score
(`runs_interval`) instead of a gain. Two minutes of one quiet core:
`python tests/benchmarks/coverage.py [--scores] [--samples 600] [--seed 1] [--json]`; docs/methods.md quotes both.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

sys.path.insert(0, str(Path(__file__).parents[2]))

from phasegpt import spread
from phasegpt.statistics import paired_interval, runs_interval

Array = NDArray[np.float64]
Limits = tuple[Array, Array]

PROMPTS, RUNS, RUN_SD = (10, 15, 20, 30, 50), (2, 3, 5), (0.0, 0.3, 1.0)
GAIN, SETTING_SD, NOISE_SD, LEVEL = 0.3, 0.5, 0.5, 0.95
RESAMPLES, OTHERS = 1000, 200
"""Of each bootstrap; and on how many samples the other methods are tried, whose misses are coarse."""


def lognormal(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> tuple[Array, float]:
    """Skewed effects of standard deviation SETTING_SD, and their mean."""
    scale = SETTING_SD / np.sqrt((np.exp(sigma**2) - 1) * np.exp(sigma**2))
    return scale * np.exp(sigma * rng.normal(size=shape)), float(scale * np.exp(sigma**2 / 2))


def clipped_mean(mean: float, sd: float) -> float:
    """The mean of a normal variable cut off at 0 and 1."""
    a, b = -mean / sd, (1 - mean) / sd
    inside, slope = stats.norm.cdf(b) - stats.norm.cdf(a), stats.norm.pdf(a) - stats.norm.pdf(b)
    return float(mean * inside + sd * slope + 1 - stats.norm.cdf(b))


def sample(world: str, rng: np.random.Generator, samples: int, runs: int, prompts: int, run_sd: float, one_sided=False):
    """Scores of A and of B, each [samples, runs, prompts], and A's true gain. `one_sided`: only A's runs differ."""
    prompt, setting = rng.normal(size=(samples, 1, prompts)), SETTING_SD * rng.normal(size=(samples, 1, prompts))
    noise = NOISE_SD * rng.normal(size=(2, samples, runs, prompts))
    run = run_sd * rng.normal(size=(2, samples, runs, 1)) * np.reshape([1, not one_sided], (2, 1, 1, 1))
    rest, gain = run + noise, GAIN
    if world.startswith("skewed"):
        setting, gain = lognormal(rng, setting.shape, 1.0 if world.endswith("very") else 0.6)
        return prompt + setting + rest[0], prompt + rest[1], gain
    if world.startswith("ties"):
        gain = 0.0 if world.endswith("no gain") else 0.5
        changed, same = rng.random(setting.shape) < 0.2, prompt + NOISE_SD * rng.normal(size=setting.shape)
        a, b = (np.where(changed, scores, same) for scores in (prompt + setting + gain + rest[0], prompt + rest[1]))
        return a, b, 0.2 * gain
    if world == "zeros":
        scale, sd = 0.25, np.sqrt(1 + run_sd**2 + NOISE_SD**2)
        start = float(-stats.norm.ppf(1 / 3) * sd)
        a, b = (np.clip(scale * (start + x), 0, 1) for x in (prompt + setting + GAIN + rest[0], prompt + rest[1]))
        sd_a = scale * np.sqrt(sd**2 + SETTING_SD**2)
        return a, b, clipped_mean(scale * (start + GAIN), sd_a) - clipped_mean(scale * start, scale * sd)
    return prompt + setting + gain + rest[0], prompt + rest[1], gain


WORLDS = ("normal", "skewed", "skewed, very", "zeros", "ties", "ties, no gain")


def as_runs(scores: Array) -> list[dict[str, float]]:
    """[runs, prompts] as `phasegpt.statistics` takes it."""
    return [{f"{prompt:03d}": float(value) for prompt, value in enumerate(run)} for run in scores]


def howe(a: Array, b: Array) -> Limits:
    """What the tool uses."""
    found = [paired_interval(as_runs(ours), as_runs(theirs), LEVEL) for ours, theirs in zip(a, b, strict=True)]
    return np.asarray([interval.low for interval in found]), np.asarray([interval.high for interval in found])


def _differences(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Differences of the prompts' means [samples, prompts], their mean and its standard error over prompts."""
    d = a.mean(1) - b.mean(1)
    return d, d.mean(1), d.std(1, ddof=1) / np.sqrt(d.shape[1])


def _weights(n: int) -> Array:
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


def _tails(drawn: Array) -> Array:
    return np.asarray(np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1))


def student(a: Array, b: Array) -> Limits:
    """Student's t on the prompts' means; runs are not looked at."""
    d, mean, error = _differences(a, b)
    reach = stats.t.ppf((1 + LEVEL) / 2, d.shape[1] - 1) * error
    return mean - reach, mean + reach


def percentile(a: Array, b: Array) -> Limits:
    """Prompts resampled, plain quantiles."""
    d, _, _ = _differences(a, b)
    low, high = _tails(d @ _weights(d.shape[1]).T)
    return low, high


def bca(a: Array, b: Array) -> Limits:
    """Prompts resampled, bias-corrected and accelerated (Efron 1987)."""
    d, mean, _ = _differences(a, b)
    drawn = np.sort(d @ _weights(d.shape[1]).T, 1)
    below = (drawn < mean[:, None]).mean(1) + (drawn == mean[:, None]).mean(1) / 2
    bias, lean = special.ndtri(below.clip(1 / RESAMPLES, 1 - 1 / RESAMPLES)), d - mean[:, None]
    spread_ = (lean**2).sum(1)
    push = np.where(spread_ > 0, (lean**3).sum(1) / (6 * np.where(spread_ > 0, spread_, 1) ** 1.5), 0.0)
    ends = []
    for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + special.ndtri(p)
        place = (special.ndtr(bias + z / (1 - push * z)) * RESAMPLES).astype(int).clip(0, RESAMPLES - 1)
        ends.append(drawn[np.arange(len(drawn)), place])
    return ends[0], ends[1]


def studentised(a: Array, b: Array) -> Limits:
    """Prompts resampled, bootstrap-t."""
    d, mean, error = _differences(a, b)
    weights, centred = _weights(d.shape[1]), d - mean[:, None]
    means = centred @ weights.T
    errors = np.sqrt(np.maximum(centred**2 @ weights.T - means**2, 0) / (d.shape[1] - 1))
    errors = np.where(errors <= 1e-9 * error[:, None], error[:, None], errors)
    low, high = _tails(np.divide(means, errors, out=np.zeros_like(means), where=errors > 0))
    return mean - high * error, mean - low * error


def wilcoxon(a: Array, b: Array) -> Limits:
    """The interval of the Hodges-Lehmann estimate that inverts the signed-rank test."""
    d, _, _ = _differences(a, b)
    n = d.shape[1]
    i, j = np.triu_indices(n)
    walsh = np.sort((d[:, i] + d[:, j]) / 2, 1)
    k = int(n * (n + 1) / 4 - 1.96 * np.sqrt(n * (n + 1) * (2 * n + 1) / 24))
    return walsh[:, k], walsh[:, -1 - k]


def pigeonhole(a: Array, b: Array) -> Limits:
    """Prompts and runs resampled (Owen 2007), plain quantiles."""
    rng, weights = np.random.default_rng(1), _weights(a.shape[2]).T
    drawn = np.zeros((len(a), RESAMPLES))
    for sign, side in ((1, a), (-1, b)):
        runs = side.shape[1]
        shares = rng.multinomial(runs, np.full(runs, 1 / runs), RESAMPLES) / runs
        drawn += sign * sum((side[:, run] @ weights) * shares[:, run] for run in range(runs))
    low, high = _tails(drawn)
    return low, high


def satterthwaite(a: Array, b: Array) -> Limits:
    """Student's t on the two-way variance (prompts and runs), degrees of freedom by Satterthwaite."""
    _, mean, error = _differences(a, b)
    n, runs = a.shape[2], a.shape[1]
    raw, noise = np.zeros(len(a)), np.zeros(len(a))
    for side in (a, b):
        rest = side - side.mean(1, keepdims=True) - side.mean(2, keepdims=True) + side.mean((1, 2), keepdims=True)
        raw += side.mean(2).var(1, ddof=1) / runs
        noise += (rest**2).sum((1, 2)) / (runs - 1) / (n - 1) / n / runs
    excess, free = np.maximum(raw - noise, 0), 2 * (runs - 1)
    variance = error**2 + excess
    below = error**4 / (n - 1) + np.where(excess > 0, raw**2 / free + noise**2 / free / (n - 1), 0)
    freedom = np.divide(variance**2, below, out=np.full(len(a), float(n - 1)), where=below > 0)
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance)
    return mean - reach, mean + reach


METHODS: Mapping[str, Callable[[Array, Array], Limits]] = {
    method.__name__: method
    for method in (howe, student, percentile, bca, studentised, wilcoxon, pigeonhole, satterthwaite)
}


def measure(samples: int, seed: int) -> Iterator[dict[str, object]]:
    """A row for each world, run deviation, number of runs and of prompts: the share that holds, and misses by side."""
    for number, (world, run_sd, runs, prompts) in enumerate(itertools.product(WORLDS, RUN_SD, RUNS, PROMPTS)):
        a, b, truth = sample(world, np.random.default_rng([seed, number]), samples, runs, prompts, run_sd)
        row: dict[str, object] = {"world": world, "run_sd": run_sd, "runs": runs, "prompts": prompts}
        for name, method in METHODS.items():
            few = slice(None if name == "howe" else OTHERS)
            low, high = method(a[few], b[few])
            above, below = float((low > truth).mean()), float((high < truth).mean())
            row[name] = {"held": 1 - above - below, "truth_below": above, "truth_above": below}
            row[name] |= {"width": float(np.median(high - low))}  # type: ignore[operator]
        yield row


SCORES = {"zeros": 0.0, "skewed": 0.6, "skewed, very": 1.0}


def measure_scores(samples: int, seed: int) -> Iterator[dict[str, object]]:
    """The same for a mean score: a third of the scores zero, or prompts whose effects are lognormal (σ 0.6 and 1)."""
    for number, (world, run_sd, runs, prompts) in enumerate(itertools.product(SCORES, RUN_SD, RUNS, PROMPTS)):
        rng = np.random.default_rng([seed, 1000 + number])
        if world == "zeros":
            _, a, _ = sample(world, rng, samples, runs, prompts, run_sd)
            sd = np.sqrt(1 + run_sd**2 + NOISE_SD**2)
            truth = clipped_mean(float(-stats.norm.ppf(1 / 3) * sd) / 4, sd / 4)
        else:
            effects, truth = (2 * x for x in lognormal(rng, (samples, 1, prompts), SCORES[world]))
            a = effects + run_sd * rng.normal(size=(samples, runs, 1))
            a += NOISE_SD * rng.normal(size=(samples, runs, prompts))
        found = [runs_interval(as_runs(side), LEVEL) for side in a]
        above, below = (float(np.mean(x)) for x in ([i.low > truth for i in found], [i.high < truth for i in found]))
        row: dict[str, object] = {"world": world, "run_sd": run_sd, "runs": runs, "prompts": prompts}
        yield row | {"howe": {"held": 1 - above - below, "truth_below": above, "truth_above": below}}


def table(rows: list[dict]) -> Iterator[str]:
    """For each world and run deviation the share that holds: least to most over the numbers of prompts and runs."""
    others = [name for name in list(METHODS)[1:] if name in rows[0]]
    yield f"| world | run sd | {' | '.join([*(f'howe, {runs} runs' for runs in RUNS), *others])} |"
    yield "|---" * (2 + len(RUNS) + len(others)) + "|"
    for world, run_sd in itertools.product(dict.fromkeys(row["world"] for row in rows), RUN_SD):
        mine = [row for row in rows if (row["world"], row["run_sd"]) == (world, run_sd)]
        cells = [_span([row["howe"]["held"] for row in mine if row["runs"] == runs]) for runs in RUNS]
        cells += [_span([row[name]["held"] for row in mine]) for name in others]
        yield f"| {world} | {run_sd} | {' | '.join(cells)} |"


def _span(shares: list[float]) -> str:
    return f"{100 * min(shares):.0f}–{100 * max(shares):.0f}"


def main() -> None:
    """Print the table, or every row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scores", action="store_true", help="the interval of a mean score, not of a gain")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    spread.RESAMPLES = RESAMPLES if options.scores else 10  # the limits of a gain ask for none
    rows = list((measure_scores if options.scores else measure)(options.samples, options.seed))
    print(json.dumps(rows, indent=1) if options.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
