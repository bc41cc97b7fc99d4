"""`--track all`: the three tracks in turn under one parent run, on one Ray, with one comparison at the end.

Each is a search of its own, NAME-a, NAME-b and NAME-c; what they share (the base model's shared work, the baselines) is
computed once. Resuming goes on with those that have not ended.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phasegpt.config_io import project_root
from phasegpt.files import read_json, write_json
from phasegpt.metrics.declared import DECLARED
from phasegpt.mirror import push_below
from phasegpt.statistics import Gain, Interval, Runs, mean_by_prompt, p_best, runs_interval, simultaneous_gains
from tune import environment
from tune.captions import NOTE, as_block
from tune.delivery import tracking_uri
from tune.drive import INTERRUPTED, NO_RESULT, WON, Trainable, drive
from tune.finalists import prompt_scores
from tune.request import Request
from tune.sealed import put_new
from tune.spool import SPOOL
from tune.sync import unsent
from tune.tracking import Tracker


@dataclass(frozen=True)
class TrackResult:
    """A track's winner on the final half.

    `interval`, `gain` (over the first track's winner) and `p_best` are None where the tracks differ in their first
    objective or share no two prompts.
    """

    track: str
    method: str
    base_model: str
    winner: str
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    interval: Interval | None
    gain: Gain | None
    p_best: float | None
    verdict: str
    champion: Mapping[str, Any] | None


def search_all(
    requests: Sequence[Request], name: str, options: argparse.Namespace, trainable: Trainable | None = None
) -> int:
    """Run or resume the searches of `requests`, compare their winners; the exit status."""
    environment.prepare(own_cluster=options.address is None)
    from tune.run import cluster

    for request in requests:
        if not request.resumed:
            request.save()  # all of them: a resume finds the later ones as well
            put_new(request.places)
    dashboard = any(request.config.training.distributed.workers > 1 for request in requests)
    with cluster(options.address, dashboard=dashboard):
        for request in requests:
            if not request.places.summary.is_file() and drive(request, options, trainable, name) == INTERRUPTED:
                return INTERRUPTED
    found = compare(requests)
    report = {
        "name": name,
        "tracks": {request.track: read_json(request.places.summary) for request in requests},
        "comparison": [asdict(result) for result in found],
    }
    place = requests[0].places.storage / "results" / "v14" / f"{name}.json"
    write_json(place, report)
    if trouble := push_below(place):
        sys.stderr.write(f"{place} is here alone: {trouble}\n")
    _record(requests[0], name, found, place, options)
    text = json.dumps(report, indent=1) if options.json else f"{as_text(found)}\n  {place}"
    sys.stdout.write(text + "\n")
    return WON if found else NO_RESULT


def _record(
    request: Request, name: str, found: Sequence[TrackResult], place: Path, options: argparse.Namespace
) -> None:
    """The parent run of the tracks in MLflow."""
    spool = place.parents[2] / "experiments" / "v14" / name / SPOOL
    tracker = Tracker(tracking_uri(project_root(), options.tracking_uri), request.config.logging.wandb_project, spool)
    tags = {"kind": "tracks", "search": name, NOTE: as_block(as_text(found))}
    tracker.run(name, name, tags=tags)
    for result in found:
        tracker.metrics(name, {f"track_{result.track}/{metric}": v for metric, v in result.metrics.items()}, 0)
    tracker.table(name, [_row(result) for result in found], "tracks.json")
    tracker.file(name, place, "result")
    tracker.finish(name, "FINISHED" if found else "FAILED")
    if waiting := tracker.close(timeout=60):
        sys.stderr.write(unsent(waiting, tracker.trouble, spool.parent) + "\n")


def compare(requests: Sequence[Request]) -> list[TrackResult]:
    """The winners side by side, each by its finals; a track without a winner is left out."""
    won = [r for r in requests if r.places.summary.is_file() and read_json(r.places.summary)["winner"]]
    scores = [_scores(request) for request in won]
    metrics = {next(iter(request.config.search.objectives)) for request in won}
    shared = set.intersection(*(set(mean_by_prompt(runs)) for runs in scores)) if scores else set()
    if len(metrics) == 1 and len(shared) > 1:
        metric = metrics.pop()
        way = won[0].config.search.objectives[metric]
        better = (DECLARED[metric].better if metric in DECLARED else None) or way
        gains: list[Gain | None] = [None, *simultaneous_gains(scores[1:], scores[0], better)]
        best: list[float | None] = [*p_best(scores, better)] if len(scores) > 1 else [None]
        intervals: list[Interval | None] = [runs_interval(runs) for runs in scores]
    else:
        gains, best, intervals = [None] * len(won), [None] * len(won), [None] * len(won)
    return [_result(*each) for each in zip(won, intervals, gains, best, strict=True)]


def _scores(request: Request) -> Runs:
    """What the winner's finals scored in the first objective, one {prompt: score} a seed."""
    winner = read_json(request.places.summary)["winner"]["trial"].removeprefix("trial-")
    metric = next(iter(request.config.search.objectives))
    finals = sorted(request.places.results.glob(f"final-{winner}-seed-*.json"))
    return [prompt_scores(read_json(path), metric) for path in finals]


def _result(request: Request, interval: Interval | None, gain: Gain | None, best: float | None) -> TrackResult:
    summary = read_json(request.places.summary)
    return TrackResult(
        track=request.track,
        method=request.config.training.method,
        base_model=request.config.model.base_model,
        winner=summary["winner"]["trial"],
        values=summary["winner"]["params"],
        metrics=summary["winner"]["metrics"],
        interval=interval,
        gain=gain,
        p_best=best,
        verdict=summary["verdict"],
        champion=summary["champion"],
    )


def _row(result: TrackResult) -> dict[str, Any]:
    return {
        "track": result.track,
        "method": result.method,
        "base_model": result.base_model,
        "winner": result.winner,
        "verdict": result.verdict,
        "p_best": result.p_best,
        **result.metrics,
    }


def as_text(found: Sequence[TrackResult]) -> str:
    """The comparison for people."""
    if not found:
        return "No track came to a result; the logs tell why."
    lines = ["Across tracks, on the final half of the prompts:"]
    for result in found:
        said = f"  track {result.track}  {result.method:12} {result.winner}"
        if result.interval is not None:
            said += f"  {result.interval.mean:.3f} [{result.interval.low:.3f}, {result.interval.high:.3f}]"
        said += "" if result.p_best is None else f"  P(best) {result.p_best:.2f}"
        if result.gain is not None:
            said += f"  against track {found[0].track} {result.gain.mean:+.3f}: {result.gain.word}"
        lines += [said, f"           {result.verdict}"]
    return "\n".join(lines)
