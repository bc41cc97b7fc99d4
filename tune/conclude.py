"""The end of a search: finals judged, winner named, champion's seat decided, summary written.

Reads results from disk and the study; the same for a search that ran through and for one that was resumed.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phasegpt.checkpoint_files import ADAPTER
from phasegpt.config_search import Search
from phasegpt.files import read_json
from tune.finalists import OWN, Candidate, Finalist, judge, prompt_scores, scored_now, verdict, winner, with_p_best
from tune.jobs import baseline_job, baseline_name, final_job, trial_name
from tune.pareto import fronts, hypervolume, upward
from tune.request import Request
from tune.searcher import JobSearcher
from tune.study import CURVE, METRICS, NOTES, ORIGIN, SAMPLED, WHY

log = logging.getLogger("phasegpt")


@dataclass(frozen=True)
class Conclusion:
    """What a search came to. `finalists` best first; `adapter` the winner's, None where its job left none."""

    winner: Finalist
    finalists: tuple[Finalist, ...]
    verdict: str
    baseline: Mapping[str, Any]
    adapter: Path | None
    run_name: str


def conclude(request: Request, searcher: JobSearcher) -> Conclusion | None:
    """Judge the finals; None where no trial or no final came to a result."""
    chosen = searcher.chosen() if all(searcher.done(job) for job in searcher.baselines) else []
    if not chosen:
        return None
    baseline = scored_now(searcher.read(baseline_job("final").name))
    results = {c.number: final_results(request, searcher, c) for c in chosen}
    first = next(iter(request.config.search.objectives))
    own = [prompt_scores(result, first) for result in results.get(OWN, ())]
    ran = [candidate for candidate in chosen if results[candidate.number]]
    if not ran:
        return None
    counts = max(1, sum(candidate.number != OWN for candidate in ran)), len(ran)
    judged = with_p_best(
        request.config.search,
        [_judge(request, candidate, results[candidate.number], own, baseline, counts) for candidate in ran],
    )
    best = winner(request.config.search, judged)
    run_name = final_results(request, searcher, best)[0]["name"].rsplit("/", 1)[-1]
    ordered = sorted(judged, key=lambda f: (f is not best, not f.feasible, f.number))
    return Conclusion(best, tuple(ordered), verdict(best), baseline, _adapter(request, searcher, run_name), run_name)


def _adapter(request: Request, searcher: JobSearcher, job: str) -> Path | None:
    """The adapter that a job left: here, whatever machine it ran on, else where its result says."""
    said, here = searcher.read(job).get("adapter"), request.places.checkpoints / job / ADAPTER
    return (here if here.is_dir() else Path(said)) if said else None


def final_results(request: Request, searcher: JobSearcher, who: Candidate | Finalist) -> list[Mapping[str, Any]]:
    """The results of a finalist's seeds, as far as they are there, all by the present scorer."""
    seeds = range(request.config.search.finalists.seeds)
    jobs = [final_job(who.number, who.values, replicate, request.config.experiment.seed) for replicate in seeds]
    return [scored_now(searcher.read(job.name)) for job in jobs if searcher.done(job)]


def _judge(
    request: Request,
    candidate: Candidate,
    results: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, float]],
    baseline: Mapping[str, Any],
    counts: tuple[int, int],
) -> Finalist:
    seeds = [int(result["config"]["experiment"]["seed"]) for result in results]
    others = own if own and candidate.number != OWN else None
    return judge(request.config.search, candidate, seeds, results, others, baseline, *counts)


def summary(
    request: Request, searcher: JobSearcher, conclusion: Conclusion | None, champion: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The object that `--json` prints and `results/…/<name>.json` keeps."""
    trials = [_trial(trial, searcher) for trial in searcher.study.trials()]
    own = next((trial for trial in trials if trial["id"] == trial_name(OWN)), None)
    baseline = searcher.read(baseline_name("search")) if searcher.done(baseline_job("search")) else None
    best, first = conclusion.winner if conclusion else None, next(iter(request.config.search.objectives))
    return {
        "name": request.name,
        "track": request.track,
        "objectives": dict(request.config.search.objectives),
        "winner": best and {"trial": trial_name(best.number), "params": best.values, "metrics": best.metrics},
        "verdict": conclusion.verdict if conclusion else "no trial came to a result",
        "defaults": own and {"metrics": own["metrics"]},
        "baseline": baseline and {"metrics": baseline["metrics"]},
        "baseline_final": conclusion and {"metrics": conclusion.baseline["metrics"]},
        "trials": trials,
        "front": _front(request.config.search, searcher) if baseline else None,
        "finalists": [_finalist(f, first) for f in conclusion.finalists] if conclusion else [],
        "champion": champion,
    }


def _front(search: Search, searcher: JobSearcher) -> dict[str, Any] | None:
    """Of several objectives the trials that no other beats, and the volume they win over the baseline together."""
    if len(search.objectives) == 1:
        return None
    kept = [c for c in searcher.candidates() if all(violation <= 0 for violation in c.violations.values())]
    points = [upward(search.objectives, candidate.metrics) for candidate in kept]
    first = [c for c, front in zip(kept, fronts(points), strict=True) if front == 0]
    return {
        "trials": [trial_name(candidate.number) for candidate in first],
        "hypervolume": hypervolume(points, upward(search.objectives, searcher.baseline())),
        "pick": search.pick,
    }


def _trial(trial: Any, searcher: JobSearcher) -> dict[str, Any]:
    attributes = trial.user_attrs
    name = trial_name(trial.number)
    path = searcher.results / f"{name}.json"
    result = read_json(path) if path.is_file() else {}
    return {
        "id": name,
        "state": trial.state.name,
        "origin": attributes.get(ORIGIN, SAMPLED),
        "params": searcher.study.values(trial),
        "metrics": attributes.get(METRICS, {}),
        "curve": _curve(result) or attributes.get(CURVE, {}),
        "why": attributes.get(WHY, ""),
        "notes": attributes.get(NOTES, []),
        "steps": result.get("steps", 0),
        "seconds": result.get("seconds", {}).get("total", 0.0),
    }


def _curve(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a finished trial was evaluated at, its end included; empty for one that left no result."""
    rows = [dict(row) for row in result.get("curve", ())]
    return {str(row.pop("step")): row for row in rows}


def _finalist(finalist: Finalist, objective: str) -> dict[str, Any]:
    interval = finalist.interval
    return {
        "trial": trial_name(finalist.number),
        "params": finalist.values,
        "seeds": list(finalist.seeds),
        "metrics": finalist.metrics,
        "mean": interval.mean if interval else finalist.metrics[objective],
        "interval": [interval.low, interval.high] if interval else None,
        "over_defaults": finalist.gain and finalist.gain.as_dict(),
        "over_baseline": finalist.over_baseline and finalist.over_baseline.as_dict(),
        "p_best": finalist.p_best,
        "feasible": finalist.feasible,
    }
