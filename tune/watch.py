"""What Ray tells about jobs, passed on to the terminal and to MLflow. Runs in the driver; decides nothing.

What a job's result says is recorded by `record.py`; here is when, and under which run.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback

from phasegpt.checkpoint_files import history_left
from phasegpt.config_io import Tree
from phasegpt.runs import RunPaths
from tune.captions import NOTE, job_note, run_name
from tune.console import Console
from tune.datasets import Inputs
from tune.jobs import Job, trial_job
from tune.luggage import job_paths
from tune.marks import UNMARKED
from tune.record import STATUS, record_end, record_evaluation, record_steps, state_tags
from tune.reports import FINISHED_KEY, NOTE_KEY, load_of, metrics_of
from tune.searcher import JobSearcher
from tune.study import ORIGIN, SAMPLED
from tune.tracking import Tracker, flat_params

log = logging.getLogger("phasegpt")


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
        self.searcher, self.console, self.tracker, self.parent = searcher, console, tracker, parent
        # a job's own hash comes with its result
        self.tags = {name: value for name, value in tags.items() if name != "config_hash"}
        self.inputs = Inputs()
        self.on_ended = on_ended
        searcher.on_pruned = self._pruned

    def settle(self) -> None:
        """Record what an earlier process had no time or no room to: jobs whose runs it did not say had ended."""
        for job, how, why in self.searcher.ended_before():
            if self.tracker.missed(self.key(job), STATUS[how]):
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
        key, config = self.key(job), self._config(job)
        own = {"kind": job.kind, "origin": job.origin, "half": job.half, "trial_state": "running"}
        tags = {**self.tags, **own, **UNMARKED.get(job.kind, {}), NOTE: job_note(job, "running")}
        inputs = self.inputs.of(config, (job.half,), trains=job.kind != "baseline")
        with self.tracker.together():
            self.tracker.run(key, run_name(job), parent=self.parent, tags=tags, params=flat_params(config))
            self.tracker.datasets(key, inputs)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A job reports a step or an evaluation."""
        job = self.searcher.jobs[trial.trial_id]
        metrics, key, step = metrics_of(result), self.key(job), int(result.get("step", 0))
        self.console.update(job.name, step, metrics, str(result.get("doing", "")))
        self.tracker.metrics(key, load_of(result), step)
        if job.kind == "trial" and metrics and not result.get(FINISHED_KEY):
            record_evaluation(self.tracker, key, metrics, step)
            record_steps(self.tracker, key, history_left(self._paths(job).checkpoints))
        if result.get(NOTE_KEY):
            self.tracker.tags(key, {"note": str(result[NOTE_KEY])})

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
        trial = self.searcher.study.trial(number)
        job = trial_job(number, self.searcher.study.values(trial), trial.user_attrs.get(ORIGIN, SAMPLED))
        self._record(job, "pruned", why)

    def _record(self, job: Job, how: str, why: str) -> None:
        self.console.end(job.name, how, why)
        log.info("%s: %s %s", job.name, how, why)
        key, tags = self.key(job), state_tags(how, why)
        with self.tracker.together():
            self.tracker.tags(key, {**tags, NOTE: job_note(job, how, tags["why"])})
            if how != "paused":
                record_end(self.tracker, key, self._paths(job), self._config(job), how)
        if how not in ("paused", "interrupted"):
            self.on_ended(job.name)

    def _config(self, job: Job) -> dict[str, Any]:
        """The config of a job as plain values, without what is the search's."""
        config = Tree(job.name, self.searcher.spec["config"], {}).with_values(job.values, job.name).values
        return {name: part for name, part in config.items() if name != "search"}

    def _paths(self, job: Job) -> RunPaths:
        return job_paths(job, self.searcher.spec)

    def key(self, job: Job) -> str:
        """The tracker's name of a job's run."""
        return f"{self.parent}/{job.name}"
