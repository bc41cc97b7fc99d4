"""What Ray tells about jobs, passed on to the terminal and to MLflow. Runs in the driver; decides nothing.

In MLflow a job's curve is under `eval/<metric>`, its steps under `train/<name>`; `<metric>` alone is what it came to.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback

from phasegpt.config_io import Tree
from phasegpt.files import read_json
from phasegpt.runs import clock_metrics
from tune.console import Console
from tune.jobs import Job, trial_job
from tune.reports import FINISHED_KEY, NOTE_KEY, metrics_of
from tune.searcher import JobSearcher
from tune.tracking import Status, Tracker, flat_params

log = logging.getLogger("phasegpt")
STATUS: dict[str, Status] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


class Watch(Callback):  # type: ignore[misc]
    """Ray's callbacks of one search. `on_ended` hears the name of a job that will not go on, once that is recorded."""

    def __init__(
        self,
        searcher: JobSearcher,
        console: Console,
        tracker: Tracker,
        parent: str,
        tags: Mapping[str, str],
        on_ended: Callable[[str], None],
    ) -> None:
        self.searcher, self.console, self.tracker, self.parent, self.tags = (
            searcher,
            console,
            tracker,
            parent,
            dict(tags),
        )
        self.on_ended = on_ended
        searcher.on_pruned = self._pruned

    def settle(self) -> None:
        """Record what an earlier process had no time to: jobs that ended and whose runs it left open."""
        left = set(self.tracker.left())
        for job, how, why in self.searcher.ended_before():
            if self.key(job) in left:
                self._begin(job)
                self._record(job, how, why)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks beside its state, which nothing here reads back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job begins in some actor."""
        job = self.searcher.jobs[trial.trial_id]
        self.console.start(job.name, job.values)
        log.info("%s: started with %s", job.name, dict(job.values))
        self._begin(job)

    def _begin(self, job: Job) -> None:
        tags = {**self.tags, "kind": job.kind, "origin": job.origin, "half": job.half, "trial_state": "running"}
        self.tracker.run(self.key(job), job.name, parent=self.parent, tags=tags, params=self._params(job))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A job reports a step or an evaluation."""
        job = self.searcher.jobs[trial.trial_id]
        metrics = metrics_of(result)
        self.console.update(job.name, int(result.get("step", 0)), metrics, str(result.get("doing", "")))
        if job.kind == "trial" and metrics and not result.get(FINISHED_KEY):
            self._log_curve(job, metrics, int(result["step"]))
        if result.get(NOTE_KEY):
            self.tracker.tags(self.key(job), {"note": str(result[NOTE_KEY])})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job ended: Ray has told the searcher, which knows how."""
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job's actor died for good."""
        self._ended(trial)

    def _ended(self, trial: Any) -> None:
        job = self.searcher.jobs[trial.trial_id]
        how = self.searcher.ended.get(trial.trial_id, "interrupted")
        why = self.searcher.why.get(trial.trial_id, "")
        self._record(job, how, why)

    def _pruned(self, number: int, why: str) -> None:
        """A trial that was paused has lost in its cohort."""
        self._record(trial_job(number, {}, ""), "pruned", why)

    def _record(self, job: Job, how: str, why: str) -> None:
        self.console.end(job.name, how, why)
        log.info("%s: %s %s", job.name, how, why)
        key = self.key(job)
        if how == "complete":
            self._log_result(job, key)
        self.tracker.tags(key, {"trial_state": how, **({"why": why} if why else {})})
        if how != "paused":
            self.tracker.finish(key, STATUS[how])
        if how not in ("paused", "interrupted"):
            self.on_ended(job.name)

    def _log_result(self, job: Job, key: str) -> None:
        path = self.searcher.results / f"{job.name}.json"
        result = read_json(path)
        for entry in result.get("training_log", ()):
            values = {f"train/{name}": value for name, value in entry.items() if name != "step"}
            self.tracker.metrics(key, values, int(entry["step"]))
        for evaluation in result.get("curve", ()):
            self._log_curve(job, {n: v for n, v in evaluation.items() if n != "step"}, evaluation["step"])
        self.tracker.metrics(key, result["metrics"], int(result["step"]))
        self.tracker.metrics(key, clock_metrics(result.get("clock", {})), int(result.get("steps", 0)))
        if result.get("answers"):
            self.tracker.table(key, result["answers"], "answers.json")
        self.tracker.file(key, path, "result")
        if result.get("adapter"):
            self.tracker.tags(key, {"config_hash": result["config_hash"], "data_hash": result["hashes"]["data"]})
            self.tracker.file(key, Path(result["adapter"]).with_name("config.yaml"), "config")
            self.tracker.folder(key, Path(result["adapter"]), "adapter")

    def _log_curve(self, job: Job, metrics: Mapping[str, float], step: int) -> None:
        self.tracker.metrics(self.key(job), {f"eval/{name}": value for name, value in metrics.items()}, step)

    def _params(self, job: Job) -> dict[str, str]:
        config = Tree(job.name, self.searcher.spec["config"], {}).with_values(job.values, job.name).values
        return flat_params({name: part for name, part in config.items() if name != "search"})

    def key(self, job: Job) -> str:
        """The tracker's name of a job's run."""
        return f"{self.parent}/{job.name}"
