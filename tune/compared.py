"""The winners of several searches side by side, each by its finals: for `--track all` and `tune.report --compare`.

The first search that has a winner is what the others are measured against. Two are compared where they decide by one
metric, measured in one way on two prompts or more that both have; else the reason stands in place of the gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phasegpt.files import read_json
from phasegpt.metrics.declared import DECLARED, Direction, unit_of
from phasegpt.metrics.text import VERSIONED
from phasegpt.statistics import Gain, Interval, Runs, mean_by_prompt, p_best, simultaneous_gains
from tune.finalists import score_interval
from tune.jobs import final_name, trial_number
from tune.request import Request

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """The winner of a search on the final half of the prompts.

    `mean` and `interval` are of the first `objective`, `over_untuned` is the gain over the search's own untuned model,
    `gain` that over the first search's winner: its intervals hold for all searches together. Where it is None the
    `hindrance` says why. `remark` is what to keep in mind about a gain. `p_best` is among those that are compared.
    """

    name: str
    track: str
    method: str
    base_model: str
    winner: str
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    objective: str
    mean: float
    interval: Interval | None
    over_untuned: Gain | None
    gain: Gain | None
    hindrance: str
    remark: str
    p_best: float | None
    verdict: str
    champion: Mapping[str, Any] | None


@dataclass(frozen=True)
class Side:
    """A search that has a winner: its summary, and what the winner's finals left, one result a seed."""

    request: Request
    summary: Mapping[str, Any]
    results: Sequence[Result]

    @property
    def metric(self) -> str:
        """The first objective, which decides."""
        return next(iter(self.request.config.search.objectives))

    @property
    def better(self) -> Direction:
        """The way in which that is better."""
        declared = DECLARED[self.metric].better if self.metric in DECLARED else None
        return declared or self.request.config.search.objectives[self.metric]

    @property
    def scores(self) -> Runs:
        """{prompt or pair: score} a seed; prompts of the same id and another text are others."""
        return [_scores(result, self.metric) for result in self.results]

    def of(self, name: str) -> Any:
        """What the finals' `name` was made of: scorer or data; None where that was not noted."""
        return self.results[0].get("hashes", {}).get(name) if self.results else None


def _scores(result: Result, metric: str) -> dict[str, float]:
    rows = [*result.get("answers", ()), *result.get("pairs", ())]
    return {f"{row['id']} {row.get('prompt', '')}": float(row[metric]) for row in rows if metric in row}


def compare(requests: Sequence[Request]) -> list[Compared]:
    """The winners in the order of `requests`; a search without a winner is left out."""
    sides = list(_sides(requests))
    if not sides:
        return []
    hindrances = ["", *(hindrance(side, sides[0]) for side in sides[1:])]
    scores = [side.scores for side in sides]
    met = [place for place, reason in enumerate(hindrances) if not reason]
    others = [place for place in met if place > 0]
    found = simultaneous_gains([scores[place] for place in others], scores[0], sides[0].better)
    gains = dict(zip(others, found, strict=True))
    shared = set.intersection(*(set(mean_by_prompt(scores[place])) for place in met))
    chances = p_best([scores[place] for place in met], sides[0].better) if others and len(shared) > 1 else []
    best = dict(zip(met, chances, strict=False))
    return [
        replace(_alone(side), gain=gains.get(i), hindrance=hindrances[i], remark=_remark(side, sides[0]),
                p_best=best.get(i))
        for i, side in enumerate(sides)
    ]  # fmt: skip


def _sides(requests: Sequence[Request]) -> Iterator[Side]:
    for request in requests:
        summary = read_json(request.places.summary) if request.places.summary.is_file() else {}
        if summary.get("winner"):
            number = trial_number(summary["winner"]["trial"])
            finals = sorted(request.places.results.glob(f"{final_name(number, '*')}.json"))
            yield Side(request, summary, [read_json(path) for path in finals])


def hindrance(side: Side, first: Side) -> str:
    """Why the winners of two searches cannot be compared; empty where they can."""
    metric = side.metric
    if metric != first.metric or side.better != first.better:
        return f"decides by another metric: {metric} ({side.better}), not {first.metric} ({first.better})"
    if metric in VERSIONED and side.of("scorer") != first.of("scorer"):
        return f"{metric} by another version of the scorer: {side.of('scorer')}, not {first.of('scorer')}"
    if reason := _other_pairs(side, first) if unit_of(metric) == "pair" else _other_length(side, first):
        return reason
    ours, theirs = mean_by_prompt(side.scores), mean_by_prompt(first.scores)
    if not (ours and theirs):
        return f"{metric} has no value for each prompt, so there is nothing to pair by"
    shared = ours.keys() & theirs.keys()
    if len(shared) < 2:
        return f"other prompts: {len(shared)} that both have a {metric} for, and a comparison needs two"
    return ""


def _other_pairs(side: Side, first: Side) -> str:
    """Why a metric of held-out pairs, which compares with the reference, says other things of the two."""
    base = first.request.config.model.base_model
    if side.request.config.model.base_model != base:
        return f"another base model than {base}: {side.metric} is measured from each model's own reference"
    if side.of("data") != first.of("data"):
        return f"other preference data: {side.metric} is measured on pairs that were held out of it"
    return ""


def _other_length(side: Side, first: Side) -> str:
    """Why a metric of answers says other things of the two: long ones score otherwise than short ones."""
    ours, theirs = (each.request.config.evaluation.max_new_tokens for each in (side, first))
    return "" if ours == theirs else f"answers of up to {ours} tokens, not {theirs}: {side.metric} depends on length"


def _remark(side: Side, first: Side) -> str:
    if side.request.config.model.base_model == first.request.config.model.base_model:
        return ""
    return "another base model: the gain is that of model and tuning together"


def _alone(side: Side) -> Compared:
    """What can be said of a winner without the others."""
    summary, config, scores = side.summary, side.request.config, side.scores
    winner, untuned = summary["winner"], summary["finalists"][0]["over_baseline"]
    interval = score_interval(scores, side.metric) if len(mean_by_prompt(scores)) > 1 else None
    return Compared(
        name=side.request.name,
        track=side.request.track,
        method=config.training.method,
        base_model=config.model.base_model,
        winner=winner["trial"],
        values=winner["params"],
        metrics=winner["metrics"],
        objective=side.metric,
        mean=interval.mean if interval else winner["metrics"][side.metric],
        interval=interval,
        over_untuned=Gain.from_dict(untuned) if untuned else None,
        gain=None,
        hindrance="",
        remark="",
        p_best=None,
        verdict=summary["verdict"],
        champion=summary["champion"],
    )
