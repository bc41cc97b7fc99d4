"""What a run has come to, as its MLflow run holds it: the same names for a trial, a final, a baseline and a single run.

`<metric>` is what a run came to and `clock/<name>` its speed and memory, one number a run and so at step 0, by which
MLflow draws bars; `eval/<metric>` are its evaluations by step, `train/<name>` its optimizer steps. Tables have a row a
prompt, a pair, a step.
Knows nothing of Ray, of the study or of what a run was for.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phasegpt.checkpoint_files import evaluation_files, history_left
from phasegpt.config_io import as_yaml
from phasegpt.files import read_json
from phasegpt.runs import RunPaths, clock_metrics
from tune.tracking import Status, Tracker

CONFIG = "config.yaml"
STATUS: dict[str, Status] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""How a run ended, and what MLflow calls that."""
REASONS = {"complete": "it ran to its end", "interrupted": "it was interrupted"}
"""Why it ended where nobody says it."""
log = logging.getLogger("phasegpt")


def record_end(
    tracker: Tracker, key: str, paths: RunPaths, config: Mapping[str, Any], how: str, *, told: bool = False
) -> None:
    """All that a run leaves that has ended as one of STATUS: its result, or what it left instead, and its files.

    `config` is its resolved config as plain values. `told`: its steps and evaluations were recorded as they came.
    """
    found = read_json(paths.results) if how == "complete" else left_by(paths.checkpoints)
    if not told:
        record_course(tracker, key, found)
    if how == "complete":
        record_result(tracker, key, found)
    tracker.tables(key, tables_of(found))
    record_files(tracker, key, paths, as_yaml(config))
    tracker.finish(key, STATUS[how])


def state_tags(how: str, why: str) -> dict[str, str]:
    """How a run ended, or what it is doing, and why."""
    return {"trial_state": how, "why": why or REASONS.get(how, "")}


def record_evaluation(tracker: Tracker, key: str, metrics: Mapping[str, float], step: int) -> None:
    """One evaluation on the way."""
    tracker.metrics(key, {f"eval/{name}": value for name, value in metrics.items()}, step)


def record_steps(tracker: Tracker, key: str, history: Sequence[Mapping[str, float]]) -> None:
    """Optimizer steps, {step, loss, …} each; those told before are not told again."""
    for row in history:
        values = {f"train/{name}": value for name, value in row.items() if name != "step"}
        tracker.metrics(key, values, int(row["step"]))


def record_course(tracker: Tracker, key: str, result: Mapping[str, Any]) -> None:
    """The steps and evaluations of a result; a measurement has none."""
    record_steps(tracker, key, result.get("training_log", ()))
    for row in result.get("curve", ()):
        record_evaluation(tracker, key, {n: v for n, v in row.items() if n != "step"}, int(row["step"]))


def record_result(tracker: Tracker, key: str, result: Mapping[str, Any]) -> None:
    """What a fit or a measurement came to, and at what speed; of a fit the step of the checkpoint that was chosen."""
    tracker.metrics(key, {**result["metrics"], **clock_metrics(result.get("clock", {}))}, 0)
    if result.get("adapter"):
        hashes = {"config_hash": result["config_hash"], "data_hash": result["hashes"]["data"]}
        tracker.tags(key, {**hashes, "chosen_step": str(result["step"])})


def tables_of(result: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The tables of a result by name; of a measurement there is no curve."""
    curve = curve_rows(result.get("training_log", ()), result.get("curve", ()))
    return {"answers.json": result["answers"], "pairs.json": result["pairs"], "curve.json": curve}


def curve_rows(training: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a step, in order: what was logged of it in training, and the evaluation that was made there."""
    rows: dict[int, dict[str, Any]] = {}
    for prefix, part in (("train", training), ("eval", evaluations)):
        for values in part:
            row = rows.setdefault(int(values["step"]), {"step": int(values["step"])})
            row |= {f"{prefix}/{name}": value for name, value in values.items() if name != "step"}
    return [rows[step] for step in sorted(rows)]


def left_by(checkpoints: Path) -> dict[str, Any]:
    """What a run has left that did not come to its end, laid out as a result: of rows those of its last evaluation."""
    try:
        kept = [read_json(path) for path in evaluation_files(checkpoints)]
    except (OSError, ValueError) as error:
        log.warning("the evaluations of a run are not recorded: %s", error)
        kept = []
    return {
        "training_log": history_left(checkpoints),
        "curve": [{"step": evaluation["step"], **evaluation["summary"]} for evaluation in kept],
        "answers": kept[-1]["answers"] if kept else (),
        "pairs": kept[-1]["pairs"] if kept else (),
    }


def record_files(tracker: Tracker, key: str, paths: RunPaths, config: str) -> None:
    """The files of a run, as far as they are there, however it ended; `config` is its resolved config as YAML.

    A run that has begun has kept that itself; one that failed before, or that only measures, has not.
    """
    kept = paths.checkpoints / CONFIG
    if kept.is_file():
        tracker.file(key, kept, "config")
    else:
        tracker.text(key, config, f"config/{CONFIG}")
    if paths.results.is_file():
        tracker.file(key, paths.results, "result")
    if paths.log.is_file():
        tracker.file(key, paths.log, "log")
    if paths.adapter.is_dir():
        tracker.folder(key, paths.adapter, "adapter")
