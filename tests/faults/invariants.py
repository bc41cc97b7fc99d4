"""What must be true of a search that has ended, whatever happened to it: what is not, in words.

A search is known by its storage folder; its jobs are those of tests.noop, so that what an undisturbed one came to is
known without running it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phasegpt.files import STAGE, read_json
from phasegpt.lines import read_lines
from tests.noop import loss
from tune.commands import COMMANDS
from tune.request import Request, resumed_request
from tune.spool import SPOOL
from tune.study import WHY, Study

STEPS = 3
EXPERIMENT = "phasegpt-v14"


def broken(folder: Path, name: str, trials: int, uri: str | None = None) -> list[str]:
    """Everything that is wrong with a search in `folder` of so many trials; nothing where nothing is lost or double."""
    request = resumed_request("b", name, str(folder))
    study = Study(*request.study, request.config.search, request.own_values(), 42)
    return [
        *_study(request, study, trials),
        *_results(request, study),
        *_record(request, study, uri or f"sqlite:///{folder}/mlflow.db"),
        *_files(request),
    ]


def undisturbed(request: Request) -> list[tuple[Any, ...]]:
    """`record` of the same search told by hand, one trial after another."""
    config = request.config
    with tempfile.TemporaryDirectory() as folder:
        study = Study("other", Path(folder) / "study.journal", config.search, request.own_values(), 42)
        while (asked := study.ask()) is not None:
            for step in range(1, STEPS):
                study.report(asked.number, step, {"eval_loss": loss(asked.values, step, STEPS)})
            study.complete(asked.number, {"eval_loss": loss(asked.values, STEPS, STEPS)}, {"perplexity": -39.0})
        return record(study)


def record(study: Study) -> list[tuple[Any, ...]]:
    """(number, state, values, value) of each trial."""
    return [(t.number, t.state.name, t.params, t.value) for t in study.trials()]


def _study(request: Request, study: Study, trials: int) -> Iterator[str]:
    found, wanted = record(study), undisturbed(request)
    if len(found) != trials:
        yield f"the study has {len(found)} trials, not {trials}"
    for ours, theirs in zip(found, wanted, strict=False):
        why = study.trial(ours[0]).user_attrs.get(WHY)
        if ours != theirs and not (ours[1] == "FAIL" and why):
            yield f"trial {ours[0]} is {ours[1:]}, undisturbed {theirs[1:]}"


def _results(request: Request, study: Study) -> Iterator[str]:
    for trial in study.trials():
        place = request.places.results / f"trial-{trial.number:03d}.json"
        if trial.state.name != "COMPLETE":
            continue
        if not place.is_file():
            yield f"{place.name} is missing"
        elif (there := read_json(place)["metrics"]["eval_loss"]) != trial.value:
            yield f"{place.name} has {there}, the study {trial.value}"


def _record(request: Request, study: Study, uri: str) -> Iterator[str]:
    from phasegpt.mlflow_client import open_client
    from tune.delivery import RUN_KEY

    client = open_client(uri)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], max_results=1000)
    own = [run for run in found if f"{run.data.tags[RUN_KEY]}/".startswith(f"{request.name}/")]
    runs = {run.data.tags[RUN_KEY].removeprefix(f"{request.name}/"): run for run in own}
    if len(runs) != len(own):
        yield f"MLflow has {len(own)} runs of {len(runs)} keys"
    results = {path.stem for path in request.places.results.glob("*.json")}
    failed = {f"trial-{t.number:03d}" for t in study.trials() if t.state.name == "FAIL"}
    if runs.keys() != results | failed | {request.name}:
        yield f"MLflow's runs differ from the results by {sorted(runs.keys() ^ (results | failed | {request.name}))}"
    for key, run in runs.items():
        wanted = "FAILED" if key in failed else "FINISHED"
        if run.info.status != wanted:
            yield f"the run {key} is {run.info.status}, not {wanted}"
    for trial in study.trials():
        key = f"trial-{trial.number:03d}"
        if key in runs and key not in failed:
            yield from _run(client, key, runs[key], trial.value)


def _run(client: Any, key: str, run: Any, value: float) -> Iterator[str]:
    if run.data.metrics.get("eval_loss") != value:
        yield f"the run {key} says {run.data.metrics.get('eval_loss')}, the study {value}"
    if run.data.tags.get("trial_state") != "complete":
        yield f"the run {key} is tagged {run.data.tags.get('trial_state')}"
    for metric, steps in (("eval_loss", [0]), ("eval/eval_loss", list(range(1, STEPS)))):
        there = sorted(point.step for point in client.get_metric_history(run.info.run_id, metric))
        if there != steps:
            yield f"the run {key} has {metric} at {there}, not {steps}"


def _files(request: Request) -> Iterator[str]:
    places = request.places
    for folder in (places.folder, places.results, places.checkpoints):
        left = [path.name for path in folder.rglob(".*") if STAGE.fullmatch(path.name)]
        if left:
            yield f"half-written files are left in {folder.name}: {left}"
    for journal in (places.folder / SPOOL, places.folder / COMMANDS):
        length = read_lines(journal)[1]
        if journal.exists() and length != journal.stat().st_size:
            yield f"{journal.name} ends with a torn line"
    for path in places.results.parent.rglob("*.json"):
        read_json(path)
