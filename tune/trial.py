"""One job in a warm actor: config + sampled values -> fit. What runs on the cluster's machines.

The base model stays in the process between jobs (reused actors); failures come back as a reason, not as a dead actor.
A job of several workers starts them from the actor and passes on what they tell: to Tune and to the searcher it looks
the same.
"""

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.heap import give_back
from tune.jobs import Job, from_config, trial_name
from tune.luggage import Luggage, job_paths
from tune.process_load import ProcessLoad
from tune.reports import ERROR_KEY, FINISHED_KEY, FULL_KEY, NOTE_KEY, PAUSED_KEY, metrics_of, with_metrics
from tune.smaller import OOM, begin_smaller, chosen_before, out_of_memory, remark, smaller

if TYPE_CHECKING:
    from phasegpt.config import Config
    from phasegpt.crew import Crew
    from phasegpt.parts import Workbench
    from phasegpt.runs import RunPaths
    from phasegpt.shared_store import Progress
    from phasegpt.workers import Telling

log = logging.getLogger("phasegpt")
SECONDS_BETWEEN_REPORTS = 1.0
_warm: dict[str, "Workbench"] = {}
Tell = Callable[[dict[str, Any]], None]
Save = Callable[[], None]


def run_job(config: Mapping[str, Any]) -> None:
    """The trainable: run one job and report `metric/<name>` values, the first objective also under its own name.

    Reports on the way carry `step` and, after an evaluation, the metrics; the last one carries `finished`, or `paused`
    where the job was asked to go no further. A run that fails for a reason of its own (non-finite loss, out of memory,
    bad values) ends with that reason as `failure`. One that runs out of memory has a second try in smaller bites.
    """
    from ray import tune

    begun, luggage = time.monotonic(), Luggage(*from_config(config))
    report = attempted(luggage.job, luggage.spec, luggage.bring)
    if not report:
        report = _run_it(luggage)
        report = {**attempted(luggage.job, luggage.spec, luggage.leave), **report}
    ended = not report.keys() & {ERROR_KEY, FULL_KEY, PAUSED_KEY}
    tune.report({**report, FINISHED_KEY: ended, "seconds": time.monotonic() - begun})


def _run_it(luggage: Luggage) -> dict[str, Any]:
    """Run a job, and in smaller bites where memory ran out: what to report."""
    job, spec, folder = luggage.job, luggage.spec, luggage.paths.checkpoints

    def attempt(values: Mapping[str, Any]) -> dict[str, Any]:
        now = replace(job, values={**job.values, **values})
        return attempted(now, spec, lambda: _run_on_crew(now, spec, luggage.save))

    before = chosen_before(folder)
    report = attempt(before)
    values = smaller(_config(job, spec)) if report.get(ERROR_KEY, "").startswith(OOM) and not before else None
    if values is not None:
        begin_smaller(folder, values)
        before = values
        report = attempt(values)
    return {**report, NOTE_KEY: remark(before)} if before else report


def attempted(job: Job, spec: Mapping[str, Any], work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What `work` says, nothing where it says nothing, or why it failed; FULL_KEY where the storage takes no more."""
    from phasegpt.crew import WorkerError
    from phasegpt.files import is_full
    from phasegpt.logs import log_to

    try:
        return work() or {}
    except (ValueError, ArithmeticError, MemoryError, RuntimeError, OSError) as error:
        with log_to(job_paths(job, spec).log):
            log.exception("%s failed", job.name)
        said = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
        if is_full(error):
            return {FULL_KEY: said, "step": 0}
        return {ERROR_KEY: f"{OOM}: {said}" if out_of_memory(error) else said, "step": 0}


def _config(job: Job, spec: Mapping[str, Any]) -> "Config":
    """The search's config with the job's values on it."""
    from phasegpt.config_io import Tree

    return Tree(spec["name"], spec["config"], {}).with_values(job.values, origin=job.name).typed()


def _run_on_crew(job: Job, spec: Mapping[str, Any], save: Save) -> dict[str, Any]:
    from phasegpt.crew import Crew

    crew = Crew(**spec["crew"])
    return _run(job, spec, crew, save) if crew.count == 1 else _run_on_workers(job, spec, crew)


def _run(job: Job, spec: Mapping[str, Any], crew: "Crew", save: Save) -> dict[str, Any]:
    import torch
    from ray import tune

    torch.set_num_threads(max(1, int(crew.cpus)))
    reporter = _Reporter(tune.report)
    return _job(job, spec, _workbench(), tune.report, reporter.due, reporter.aside, time.time(), save)


def _run_on_workers(job: Job, spec: Mapping[str, Any], crew: "Crew") -> dict[str, Any]:
    from ray import tune

    from phasegpt.workers import run_on_workers

    plain = {"job": asdict(job), "spec": spec, "launched": time.time()}
    folder = Path(spec["storage"]) / "experiments" / "v14" / f"track_{spec['track']}" / spec["name"] / "ray"
    result: dict[str, Any] = run_on_workers(_on_worker, plain, crew, folder, tune.report)
    return result


def _on_worker(plain: Mapping[str, Any], telling: "Telling") -> dict[str, Any]:
    """A worker's part of a job: what `_run` does, told through the mailbox."""
    from phasegpt.parts import Workbench

    job, spec = from_config(plain)
    return _job(job, spec, Workbench(), telling.tell, telling.due, telling.aside, plain["launched"])


def _job(
    job: Job,
    spec: Mapping[str, Any],
    bench: "Workbench",
    tell: Tell,
    due: Callable[[], bool],
    aside: Tell,
    launched: float,
    save: Save = lambda: None,
) -> dict[str, Any]:
    """Measure or fit; what to report at the end. `tell` reports now, `aside` now and then, and `due` says when.

    `save` puts what the job has where others find it, before an evaluation is told.
    """
    os.environ["PHASEGPT_ROOT"] = spec["root"]
    config, paths, load = _config(job, spec), job_paths(job, spec), ProcessLoad()

    def tell_with_load(report: dict[str, Any]) -> None:
        if metrics_of(report):
            save()
        tell({**report, **load.now_and_then()})

    def on_progress(what: str, done: int, total: int) -> None:
        """Shared work that a job makes before its first step."""
        aside({"step": 0, "doing": f"{what} {done}/{total}"})

    if job.kind == "baseline":
        report = _measure(config, paths, job, bench, on_progress)
    else:
        start, objective = _start(job, spec), spec["objective"]
        report = _fit(config, paths, job, bench, objective, tell_with_load, due, on_progress, launched, start)
    return {**report, **load.read()}


def _start(job: Job, spec: Mapping[str, Any]) -> Path | None:
    """The adapter of the trial that a job starts from: what it came to, or came as far as."""
    from phasegpt.checkpoint_files import last_adapter
    from phasegpt.parts import RunError

    if job.warm is None:
        return None
    name = trial_name(job.warm)
    folder = job_paths(replace(job, name=name), spec).checkpoints
    adapter = last_adapter(folder)
    if adapter is None:
        raise RunError(f"{job.name} starts from the weights of {name}, which left none in {folder}")
    return adapter


def _workbench() -> "Workbench":
    """This process's bench, which its jobs share; what earlier ones left in memory is given back.

    What the imports made is left out of all later garbage collections: it stays anyway, and each fit asks for one,
    which took a third of a second over half a million objects.
    """
    import phasegpt.train  # noqa: F401 - all that a fit imports
    from phasegpt.parts import Workbench

    if "workbench" in _warm:
        give_back()
    else:
        gc.collect()
        gc.freeze()
        _warm["workbench"] = Workbench()
    return _warm["workbench"]


def _measure(
    config: "Config", paths: "RunPaths", job: Job, bench: "Workbench", on_progress: "Progress"
) -> dict[str, Any]:
    from phasegpt import ranks
    from phasegpt.baseline import measure
    from phasegpt.files import write_json
    from phasegpt.metrics.text import scorer

    evaluation = measure(config, paths=paths, half=job.half, workbench=bench, on_progress=on_progress)
    found = {"metrics": evaluation.summary, "name": paths.name, "hashes": {"scorer": scorer()}}
    if ranks.first():
        write_json(paths.results, {**asdict(evaluation), **found})
    return with_metrics(evaluation.summary, 0, "")


def _fit(
    config: "Config",
    paths: "RunPaths",
    job: Job,
    bench: "Workbench",
    objective: str,
    tell: Tell,
    due: Callable[[], bool],
    on_progress: "Progress",
    launched: float,
    start: Path | None,
) -> dict[str, Any]:
    from phasegpt.evaluate import Evaluation
    from phasegpt.train import Paused, fit

    def on_step(step: int, _: Mapping[str, float]) -> None:
        if due():
            tell({"step": step})

    def on_evaluation(evaluation: Evaluation, _: Path) -> None:
        if evaluation.step < evaluation.steps:  # the last one is told by the end of the run, with its files on disk
            tell(with_metrics(evaluation.summary, evaluation.step, objective))

    try:
        result = fit(
            config,
            on_evaluation,
            paths=paths,
            half=job.half,
            until=job.until,
            start=start,
            workbench=bench,
            on_step=on_step,
            on_progress=on_progress,
            launched=launched,
        )
    except Paused as pause:
        return {**with_metrics(pause.evaluation.summary, pause.evaluation.step, objective), PAUSED_KEY: True}
    return with_metrics(result.metrics, result.steps, objective)


class _Reporter:
    """Reports of progress to the driver, at most one a second: each costs a round trip."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether the last report is old enough; if so the next one is told now."""
        if time.monotonic() - self.last < SECONDS_BETWEEN_REPORTS:
            return False
        self.last = time.monotonic()
        return True

    def aside(self, report: dict[str, Any]) -> None:
        """Report if it is due."""
        if self.due():
            self.tell(report)
