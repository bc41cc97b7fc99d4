"""From the winner of a search to the champion's seat: gathers the evidence and asks the registry's gate."""

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.base_model import base_address, base_identity
from phasegpt.config_io import project_root
from phasegpt.credentials import without_credentials
from phasegpt.mlflow_client import open_client
from tune.conclude import Conclusion
from tune.delivery import run_of
from tune.finalists import OWN, Finalist, prompt_scores
from tune.jobs import trial_name
from tune.lineage import git_state
from tune.request import Request
from tune.tracking import Tracker

if TYPE_CHECKING:
    from tune.gate import Candidate, Decision

log = logging.getLogger("phasegpt")
SECONDS_FOR_MLFLOW = 120
ATTEMPTS, PAUSE = 3, 2.0
"""MLflow's own HTTP retries are off while a search records (`outbox`), so a hiccup is met here; pause in seconds."""


def crown(request: Request, found: Conclusion, tracker: Tracker, uri: str, finals: Sequence[Any]) -> dict[str, Any]:
    """Register the winner and let the gate decide; what came of it, for the summary.

    `finals` are the results (RunResult dictionaries) of the winner's seeds. The checkpoint of its first seed stands for
    it; its scores are those of all its seeds. Where MLflow cannot be reached nothing is promoted; the reason says it.
    """
    from mlflow.exceptions import MlflowException

    from tune.gate import model_name

    unseated = {"model": model_name(request.track), "version": None, "promoted": False}
    if found.adapter is None:
        return {**unseated, "reason": "the winner left no adapter to register"}
    waiting = tracker.flush(SECONDS_FOR_MLFLOW)
    key = f"{request.name}/{found.run_name}"
    try:
        run_id = _run_id(request, key, tracker, uri, waiting)
        if run_id is None:
            why = "MLflow was away" if waiting else f"MLflow has no run {key}"
            return {**unseated, "reason": f"{why}; nothing was registered"}
        decision = _promote(_candidate(request, found, found.adapter, run_id, finals), uri)
    except (MlflowException, ValueError, OSError) as error:  # RegistryError, ModelError, DamagedError
        log.error("the winner could not be registered\n%s", without_credentials(traceback.format_exc()))
        return {**unseated, "reason": f"not registered: {without_credentials(str(error))}"}
    return {**unseated, "version": decision.version, "promoted": decision.promote, "reason": decision.reason}


def _run_id(request: Request, key: str, tracker: Tracker, uri: str, waiting: int) -> str | None:
    """MLflow's id of the run behind `key`; asked of MLflow where an earlier process recorded it."""
    sent = tracker.run_id(key)
    return sent if sent or waiting else run_of(open_client(uri), request.config.logging.wandb_project, key)


def _promote(candidate: "Candidate", uri: str) -> "Decision":
    """Through the gate; again where MLflow fails, which is safe: what is registered already is found there."""
    from mlflow.exceptions import MlflowException

    from tune.registry import promote

    for attempt in range(1, ATTEMPTS):
        try:
            return promote(open_client(uri), candidate)
        except (MlflowException, OSError) as error:
            log.warning("the registration failed (%d of %d): %s", attempt, ATTEMPTS, without_credentials(str(error)))
            time.sleep(PAUSE)
    return promote(open_client(uri), candidate)


def _candidate(request: Request, found: Conclusion, adapter: Path, run_id: str, finals: Sequence[Any]) -> "Candidate":
    from tune.gate import Candidate

    best, first = found.winner, finals[0]
    config, (commit, dirty) = first["config"], git_state()
    base = config["model"]["base_model"]
    objective = next(iter(request.config.search.objectives))
    own = next((finalist for finalist in found.finalists if finalist.number == OWN), None)
    return Candidate(
        base_model=base_address(base, project_root()),
        base_identity=base_identity(base, first["hashes"]["base_model"]),
        objective=objective,
        scores=scores_by_metric(finals),
        metrics=dict(best.metrics),
        constraints_met=best.feasible,
        constraints=_constraint_texts(request, best),
        interval_vs_reference=best.over_baseline,
        scorer=first["hashes"]["scorer"],
        answers=answers_by_prompt(finals),
        better=request.config.search.objectives[objective],
        track=request.track,
        search=request.name,
        run_id=run_id,
        adapter=adapter,
        config=config,
        trial=trial_name(best.number),
        data_hash=first["hashes"]["data"],
        config_hash=first["config_hash"],
        commit=commit,
        dirty=dirty,
        finalists=len(found.finalists),
        untuned=found.baseline["metrics"],
        own=own.metrics if own else {},
        interval_vs_own=best.gain,
        prompts={row["id"]: row["prompt"] for row in first["answers"]},
        answer_tokens=config["evaluation"]["max_new_tokens"],
        data=first["data"],
        seconds=sum(result["seconds"]["total"] for result in finals),
        versions=first["versions"],
    )


def scores_by_metric(finals: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """{metric: {prompt or pair id: [a value a seed]}} of every metric with rows, None where a seed has none."""
    rows = [row for result in finals for row in (*result["answers"], *result["pairs"])]
    names = sorted({name for row in rows for name, value in row.items() if not isinstance(value, str)})
    gathered: dict[str, dict[str, list[float | None]]] = {}
    for name in names:
        seeds = [prompt_scores(result, name) for result in finals]
        prompts = dict.fromkeys(prompt for scores in seeds for prompt in scores)
        gathered[name] = {prompt: [scores.get(prompt) for scores in seeds] for prompt in prompts}
    return gathered


def answers_by_prompt(finals: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{prompt id: [an answer a seed]}, which a later version of the metrics can score again."""
    gathered: dict[str, list[str]] = {}
    for row in (row for result in finals for row in result["answers"]):
        gathered.setdefault(row["id"], []).append(row["answer"])
    return gathered


def _constraint_texts(request: Request, best: Finalist) -> list[str]:
    said = []
    for name, constraint in request.config.search.constraints.items():
        value = best.metrics.get(name)
        kept = "kept" if best.violations[name] <= 0 else "broken"
        said.append(f"{name} {constraint}: {kept} at {'no value' if value is None else format(value, '.4g')}")
    return said
