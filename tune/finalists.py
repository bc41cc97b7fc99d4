"""The finals: who runs again on fresh seeds, and what their scores on unseen prompts say.

Pure functions of results; the first objective decides, constraints must hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from phasegpt.config_search import Search
from phasegpt.metrics.declared import DECLARED, Direction
from phasegpt.metrics.text import TEXT_METRICS, VERSIONED, scorer
from phasegpt.statistics import Gain, Interval, Runs, mean_by_prompt, p_best, paired_gain, runs_interval
from tune.pareto import preference, upward
from tune.space import Values

OWN = 0
"""The trial with the config's own values."""

DIGITS = 7
"""To how many digits after the point two finalists must differ for one to be better (`spread.ABSOLUTE`)."""


@dataclass(frozen=True)
class Candidate:
    """A finished trial as the finals see it: what it scored in the search, and how far it broke each constraint."""

    number: int
    values: Values
    metrics: Mapping[str, float]
    violations: Mapping[str, float]


@dataclass(frozen=True)
class Finalist:
    """A finalist's values with what its fresh seeds came to on the final half of the prompts.

    `scores` is one {prompt id: first objective} a seed, `interval` that of their mean; `gain` is over the config's own
    values (None for those themselves), with an interval that holds for all challengers together, `over_baseline` over
    the untuned model, with one that holds for all finalists; both are paired by prompt. Each is None where it has fewer
    than two prompts: perplexity, say, is one number a run. `p_best` is the probability of being the best of the
    finalists, None where they share no two prompts.
    """

    number: int
    values: Values
    seeds: tuple[int, ...]
    scores: Runs
    metrics: Mapping[str, float]
    violations: Mapping[str, float]
    interval: Interval | None
    gain: Gain | None
    over_baseline: Gain | None
    p_best: float | None = None

    @property
    def feasible(self) -> bool:
        """Whether the means over its seeds keep every constraint."""
        return all(violation <= 0 for violation in self.violations.values())


def violations(search: Search, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """How far `metrics` lie beyond each constraint; positive is violated."""
    nan = float("nan")
    return {
        name: constraint.violation(metrics.get(name, nan), baseline.get(name, nan))
        for name, constraint in search.constraints.items()
    }


Ranked = TypeVar("Ranked", bound="Scored")


class Scored(Protocol):
    """What can be ranked: a candidate, or a finalist."""

    @property
    def number(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def violations(self) -> Mapping[str, float]: ...


def rank(search: Search, scored: Sequence[Ranked]) -> list[Ranked]:
    """From best to worst: those that keep every constraint by `search.pick`, then the others from the least broken.

    Ties go to the earlier trial; equal answers that were evaluated in other batches differ by up to 2e-9.
    """
    kept = [one for one in scored if _broken(one) == 0]
    points = [tuple(round(x, DIGITS) for x in upward(search.objectives, one.metrics)) for one in kept]
    preferred = preference(points, search.pick, [search.weights.get(name, 1.0) for name in search.objectives])
    order = sorted(range(len(kept)), key=lambda i: (preferred[i], kept[i].number))
    rest = [one for one in scored if _broken(one) > 0]
    rest.sort(key=lambda one: (_broken(one), *(-x for x in upward(search.objectives, one.metrics)), one.number))
    return [*(kept[i] for i in order), *rest]


def _broken(one: Scored) -> float:
    return sum(max(0.0, violation) for violation in one.violations.values())


def choose(search: Search, candidates: Sequence[Candidate], own: Candidate | None = None) -> list[Candidate]:
    """The `finalists.count` that go to the finals: the best, and always the config's own values, whatever came of them.

    `own` stands for those values where the trial with them came to no result.
    """
    ranked = rank(search, candidates)
    mine = next((c for c in ranked if c.number == OWN), own)
    chosen = ranked[: search.finalists.count]
    if mine is not None and mine not in chosen:
        chosen = [*chosen[: max(1, search.finalists.count - 1)], mine]
    return chosen


def most_finals(search: Search, trials: int) -> int:
    """How many finals `choose` leads to when every one of `trials` trials comes to a result."""
    return min(max(search.finalists.count, 2), trials) * search.finalists.seeds


def judge(
    search: Search,
    candidate: Candidate,
    seeds: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    own_scores: Runs | None,
    baseline: Mapping[str, Any],
    challengers: int = 1,
    finalists: int = 1,
) -> Finalist:
    """Put a finalist's runs (RunResult dictionaries, one a seed) together with their intervals.

    The best is picked afterwards: over the config's own values out of `challengers`, over the untuned model out of all
    `finalists`, among which are the config's own values.
    """
    objective, direction = next(iter(search.objectives.items()))
    scores = [prompt_scores(result, objective) for result in results]
    metrics = _means([result["metrics"] for result in results])
    return Finalist(
        number=candidate.number,
        values=candidate.values,
        seeds=tuple(seeds),
        scores=scores,
        metrics=metrics,
        violations=violations(search, metrics, baseline["metrics"]),
        interval=score_interval(scores, objective) if len(mean_by_prompt(scores)) > 1 else None,
        gain=None if own_scores is None else _gain(scores, own_scores, direction, challengers),
        over_baseline=_gain(scores, [prompt_scores(baseline, objective)], direction, finalists),
    )


def score_interval(scores: Runs, metric: str) -> Interval:
    """Of the mean score, cut to the range that the metric is declared to have: no mean lies outside."""
    found = runs_interval(scores)
    if metric not in DECLARED:
        return found
    declared = DECLARED[metric]
    return replace(found, low=max(found.low, declared.low), high=min(found.high, declared.high))


def with_p_best(search: Search, finalists: Sequence[Finalist]) -> list[Finalist]:
    """The finalists with how probable it is that each is the best of them, where they share two prompts."""
    shared = set.intersection(*(set(mean_by_prompt(finalist.scores)) for finalist in finalists))
    if len(shared) < 2:
        return list(finalists)
    better = next(iter(search.objectives.values()))
    shares = p_best([finalist.scores for finalist in finalists], better)
    return [replace(finalist, p_best=share) for finalist, share in zip(finalists, shares, strict=True)]


def _gain(scores: Runs, others: Runs, better: Direction, comparisons: int = 1) -> Gain | None:
    """The paired gain; None where too few prompts or pairs are shared (another split, say)."""
    if len(mean_by_prompt(scores).keys() & mean_by_prompt(others).keys()) < 2:
        return None
    return paired_gain(scores, others, better, comparisons)


def prompt_scores(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """{prompt or pair id: value of `metric`} of one result; empty for a metric without rows."""
    rows = [*result.get("answers", ()), *result.get("pairs", ())]
    return {row["id"]: float(row[metric]) for row in rows if metric in row}


def scored_now(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A result by the present scorer: where another one made it, as before an update, its answers are scored again."""
    hashes = result.get("hashes", {})
    if hashes.get("scorer", scorer()) == scorer():
        return result
    answers = [
        {**row, **{name: TEXT_METRICS[name](row["answer"]) for name in VERSIONED if name in row}}
        for row in result["answers"]
    ]
    means = {name: float(np.mean([row[name] for row in answers])) for name in VERSIONED if name in result["metrics"]}
    return {
        **result,
        "answers": answers,
        "metrics": {**result["metrics"], **means},
        "hashes": {**hashes, "scorer": scorer()},
    }


def _means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set(runs[0]).intersection(*runs[1:])
    return {name: float(np.mean([run[name] for run in runs])) for name in sorted(names)}


def winner(search: Search, finalists: Sequence[Finalist]) -> Finalist:
    """The finalist to crown: the first by `rank`, on the means of the finals."""
    return rank(search, finalists)[0]


def verdict(finalist: Finalist, own: int = OWN) -> str:
    """One sentence on whether the winner beats the config's own values."""
    if finalist.number == own:
        return "the config's own values won: no other setting was better"
    gain = finalist.gain
    if gain is None:
        return "not comparable with the config's own values: fewer than two prompts or pairs were scored with both"
    than = "from" if gain.word == "not distinguishable" else "than"
    return f"{gain.word} {than} the config's own values: {gain}"
