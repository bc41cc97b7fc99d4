"""`--track all`: the three tracks in turn under one parent run, on one Ray, with one comparison at the end.

Each is a search of its own, NAME-a, NAME-b and NAME-c; what they share (the base model's shared work, the baselines) is
computed once. Resuming goes on with those that have not ended.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phasegpt.config_io import project_root
from phasegpt.files import read_json, write_json
from phasegpt.mirror import push_below
from phasegpt.mlflow_client import tracking_uri
from tune import environment
from tune.captions import NOTE, as_block
from tune.compared import Compared, compare
from tune.drive import INTERRUPTED, NO_RESULT, WON, Trainable, drive
from tune.keepsakes import leave_comparison
from tune.request import Request
from tune.sealed import put_new
from tune.spool import SPOOL
from tune.sync import unsent
from tune.tracking import Tracker


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
            if request.places.summary.is_file():
                continue
            status = drive(request, options, trainable, name)
            if status == INTERRUPTED or not request.places.summary.is_file():  # or the disk was full
                return status
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
    _record(requests, name, found, place, options)
    written = [place, *place.parent.glob(f"{name}-report/*.html")]
    text = json.dumps(report, indent=1) if options.json else "\n  ".join([as_text(found), *map(str, written)])
    sys.stdout.write(text + "\n")
    return WON if found else NO_RESULT


def _record(
    requests: Sequence[Request], name: str, found: Sequence[Compared], place: Path, options: argparse.Namespace
) -> None:
    """The parent run of the tracks in MLflow, with the report that has them side by side."""
    project = requests[0].config.logging.wandb_project
    spool = place.parents[2] / "experiments" / "v14" / name / SPOOL
    tracker = Tracker(tracking_uri(project_root(), options.tracking_uri), project, spool)
    tags = {"kind": "tracks", "search": name, NOTE: as_block(as_text(found))}
    tracker.run(name, name, tags=tags)
    for result in found:
        tracker.metrics(name, {f"track_{result.track}/{metric}": v for metric, v in result.metrics.items()}, 0)
    tracker.table(name, [_row(result) for result in found], "tracks.json")
    tracker.file(name, place, "result")
    leave_comparison(requests, tracker, name, place.with_name(f"{name}-report"))
    tracker.finish(name, "FINISHED" if found else "FAILED")
    if waiting := tracker.close(timeout=60):
        sys.stderr.write(unsent(waiting, tracker.trouble, spool.parent) + "\n")


def _row(result: Compared) -> dict[str, Any]:
    return {
        "track": result.track,
        "method": result.method,
        "base_model": result.base_model,
        "winner": result.winner,
        "verdict": result.verdict,
        "p_best": result.p_best,
        **result.metrics,
    }


def as_text(found: Sequence[Compared]) -> str:
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
        elif result.hindrance:
            said += f"  not compared with track {found[0].track}: {result.hindrance}"
        lines += [said, f"           {result.verdict}"]
    return "\n".join(lines)
