"""What the MLflow run of a search itself holds: what it was given when it begins, what it came to when it ends.

The runs of its jobs are recorded by `watch.py`; the end adds to those who was a finalist, won, or is on the front.
"""

from collections.abc import Mapping
from typing import Any

from phasegpt.config_io import as_yaml
from phasegpt.pairs import HALVES
from tune.captions import NOTE, found_text, search_note
from tune.datasets import Inputs
from tune.lineage import search_params
from tune.marks import changes, marks
from tune.record import CONFIG
from tune.request import Request
from tune.tracking import Tracker
from tune.views import trials_view


def begin_search(request: Request, tracker: Tracker, tags: Mapping[str, str], family: str | None) -> None:
    """Create the run of a search, or go on with it: tags, params, inputs, files, and the view of its trials."""
    name, places = request.name, request.places
    if family is not None:
        tracker.run(family, family, tags={"kind": "tracks", "search": family})
    warnings = {"data_warnings": str(len(request.data.warnings))}
    own = {**tags, **warnings, "kind": "search", NOTE: search_note(request, "Under way.")}
    tracker.run(name, name, parent=family, tags=own, params=search_params(request))
    config = request.config.dump()
    tracker.datasets(name, Inputs().of(config, HALVES, trains=True))
    tracker.text(name, as_yaml(config), f"config/{CONFIG}")
    tracker.file(name, places.request, "config")
    tracker.file(name, places.data_checks, "data")
    if not request.arms:
        tracker.experiment_tag(
            *trials_view(name, list(request.config.search.parameters), request.config.search.objectives)
        )


def end_search(request: Request, tracker: Tracker, report: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """Record a summary; `before` is the one of an earlier end, where the search was extended since."""
    name, winner = request.name, report["winner"]
    if winner is not None:
        metrics = winner["metrics"]
        tracker.metrics(name, {**{f"winner/{metric}": value for metric, value in metrics.items()}, **metrics}, 0)
        tracker.tags(name, {"winner": winner["trial"], "verdict": report["verdict"]})
    tracker.tags(name, {NOTE: search_note(request, found_text(report))})
    tracker.tables(name, summary_tables(report))
    for job, tags in changes(marks(before) if before else {}, marks(report)).items():
        tracker.tags(f"{name}/{job}", tags)


def summary_tables(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Trials and finalists with a row each: what they are, their values, their metrics."""
    return {
        "trials.json": [_trial(trial) for trial in report["trials"]],
        "finalists.json": [_finalist(each) for each in report["finalists"]],
    }


def _trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    """One that was stopped has come as far as its curve."""
    steps = trial["steps"] or max(map(int, trial["curve"]), default=0)
    own = {"origin": trial["origin"], "steps": steps, "seconds": trial["seconds"], "why": trial["why"]}
    return {"id": trial["id"], "state": trial["state"], **trial["params"], **trial["metrics"], **own}


def _finalist(finalist: Mapping[str, Any]) -> dict[str, Any]:
    """With its mean in the first objective and the mean's interval."""
    low, high = finalist["interval"] or (None, None)
    span = {"mean": finalist["mean"], "mean_low": low, "mean_high": high}
    own = {"p_best": finalist["p_best"], "feasible": finalist["feasible"]}
    return {"trial": finalist["trial"], **finalist["params"], **span, **own, **finalist["metrics"]}
