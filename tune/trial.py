"""One job in a warm actor: config + sampled values -> fit. What runs on the cluster's machines.

The base model stays in the process between jobs (reused actors); failures come back as a reason, not as a dead actor.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.jobs import Job, from_config
from tune.searcher import ERROR_KEY, FINISHED_KEY

if TYPE_CHECKING:
    from phasegpt.config import Config
    from phasegpt.parts import Workbench
    from phasegpt.runs import RunPaths

log = logging.getLogger("phasegpt")
SECONDS_BETWEEN_REPORTS = 1.0
_warm: dict[str, "Workbench"] = {}


def run_job(config: Mapping[str, Any]) -> None:
    """The trainable: run one job and report `metric/<name>` values, the first objective also under its own name.

    Reports on the way carry `step` and, after an evaluation, the metrics; the last one carries `finished`. A run that
    fails for a reason of its own (non-finite loss, out of memory, bad values) ends with that reason as `failure`.
    """
    from ray import tune

    job, spec = from_config(config)
    begun = time.monotonic()
    try:
        report = _run(job, spec)
    except (ValueError, ArithmeticError, MemoryError, RuntimeError, OSError) as error:
        log.exception("%s failed", job.name)
        report = {ERROR_KEY: f"{type(error).__name__}: {error}", "step": 0}
    tune.report({**report, FINISHED_KEY: ERROR_KEY not in report, "seconds": time.monotonic() - begun})


def _run(job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from phasegpt.config_io import Tree
    from phasegpt.runs import run_paths

    os.environ["PHASEGPT_ROOT"] = spec["root"]
    torch.set_num_threads(max(1, int(spec["threads"])))
    config = Tree(spec["name"], spec["config"], {}).with_values(job.values, origin=job.name).typed()
    paths = run_paths(Path(spec["storage"]), spec["track"], f"{spec['name']}/{job.name}")
    bench = _workbench()
    if job.kind == "baseline":
        return _measure(config, paths, job, bench)
    return _fit(config, paths, job, bench, spec)


def _workbench() -> "Workbench":
    from phasegpt.parts import Workbench

    return _warm.setdefault("workbench", Workbench())


def _measure(config: "Config", paths: "RunPaths", job: Job, bench: "Workbench") -> dict[str, Any]:
    from phasegpt.files import write_json
    from phasegpt.metrics.text import scorer
    from phasegpt.train import measure

    evaluation = measure(config, paths=paths, half=job.half, workbench=bench, on_progress=_Reporter().progress)
    found = {"metrics": evaluation.summary, "name": paths.name, "hashes": {"scorer": scorer()}}
    write_json(paths.results, {**asdict(evaluation), **found})
    return _reported(evaluation.summary, 0, "")


def _fit(config: "Config", paths: "RunPaths", job: Job, bench: "Workbench", spec: Mapping[str, Any]) -> dict[str, Any]:
    from ray import tune

    from phasegpt.evaluate import Evaluation
    from phasegpt.train import fit

    report = _Reporter()

    def on_step(step: int, values: Mapping[str, float]) -> None:
        report.now_and_then({"step": step, "loss": values.get("loss", 0.0)})

    def on_evaluation(evaluation: Evaluation, _: Path) -> None:
        if evaluation.step < evaluation.steps:  # the last one is told by the end of the run, with its files on disk
            tune.report(_reported(evaluation.summary, evaluation.step, spec["objective"]))

    result = fit(
        config,
        on_evaluation,
        paths=paths,
        half=job.half,
        workbench=bench,
        on_step=on_step,
        on_progress=report.progress,
    )
    return _reported(result.metrics, result.steps, spec["objective"])


class _Reporter:
    """Reports of progress to the driver, at most one a second: each costs a round trip."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def now_and_then(self, report: Mapping[str, Any]) -> None:
        from ray import tune

        if time.monotonic() - self.last >= SECONDS_BETWEEN_REPORTS:
            self.last = time.monotonic()
            tune.report(dict(report))

    def progress(self, what: str, done: int, total: int) -> None:
        """Shared work that a job makes before its first step."""
        self.now_and_then({"step": 0, "doing": f"{what} {done}/{total}"})


def _reported(metrics: Mapping[str, float], step: int, objective: str) -> dict[str, Any]:
    named = {f"metric/{name}": value for name, value in metrics.items()}
    first = {objective: metrics[objective]} if objective in metrics else {}
    return {"step": step, **named, **first}
