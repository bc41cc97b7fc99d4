"""The order of a search as a Ray Tune searcher: the baseline, then the study's trials, then the finals.

Ray asks `suggest` for work and tells what came of it; here is decided what that means for the study. All jobs of a
search pass through the same warm actors, so the finals cost no second start.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from phasegpt.config_search import Search
from phasegpt.files import read_json
from tune.finalists import Candidate, choose, violations
from tune.jobs import Job, as_config, baseline_job, final_job, trial_job
from tune.study import METRICS, Study

log = logging.getLogger("phasegpt")
FINISHED_KEY, ERROR_KEY = "finished", "failure"


class JobSearcher(Searcher):  # type: ignore[misc]
    """Hands out jobs and records their ends. `results` is the folder where each job leaves `<name>.json`."""

    def __init__(self, study: Study, search: Search, spec: Mapping[str, Any], results: Path, seed: int) -> None:
        first = next(iter(search.objectives))
        super().__init__(metric=first, mode=search.objectives[first])
        self.study, self.search, self.spec, self.results, self.seed = study, search, spec, results, seed
        self.baselines = [baseline_job("search"), baseline_job("final")]
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self._baselines = [job for job in self.baselines if not self.done(job)]
        self._finals: list[Job] | None = None
        self._stopped: set[str] = set()
        self._handed_out_all = False

    def done(self, job: Job) -> bool:
        """Whether a job's result is on disk, from this process or an earlier one."""
        return (self.results / f"{job.name}.json").is_file()

    def read(self, name: str) -> Any:
        """The result of a job by its name."""
        return read_json(self.results / f"{name}.json")

    def suggest(self, trial_id: str) -> Any:
        """The next job for Ray, None to wait, FINISHED at the end."""
        job = self._next()
        if job is None and self._running():
            return None
        if job is None:
            self._handed_out_all = True
            return Searcher.FINISHED
        self.jobs[trial_id] = job
        return as_config(job, self.spec)

    def _next(self) -> Job | None:
        if self._baselines:
            return self._baselines.pop(0)
        if any(job.kind == "baseline" for job in self._running()):
            return None  # constraints relative to the baseline need it first
        if not all(self.done(job) for job in self.baselines):
            return None  # one failed: nothing could be judged
        asked = self.study.ask()
        if asked is not None:
            return trial_job(asked.number, asked.values, asked.origin)
        if any(job.kind == "trial" for job in self._running()):
            return None
        if self._finals is None:
            self._finals = [job for job in self.final_jobs() if not self.done(job)]
        return self._finals.pop(0) if self._finals else None

    def _running(self) -> list[Job]:
        return [job for trial_id, job in self.jobs.items() if trial_id not in self.ended]

    def interrupted(self) -> bool:
        """Whether the search ended with work left to do."""
        return not self._handed_out_all or any(how == "interrupted" for how in self.ended.values())

    def candidates(self) -> list[Candidate]:
        """The trials that came to a result."""
        baseline = self.read("baseline-search")["metrics"]
        found = []
        for trial in self.study.trials():
            metrics = trial.user_attrs.get(METRICS)
            if metrics:
                values = self.study.values(trial)
                found.append(Candidate(trial.number, values, metrics, violations(self.search, metrics, baseline)))
        return found

    def final_jobs(self) -> Sequence[Job]:
        """The finals: each finalist on each fresh seed."""
        chosen = choose(self.search, self.candidates())
        seeds = range(self.search.finalists.seeds)
        return [final_job(c.number, c.values, replicate, self.seed) for replicate in seeds for c in chosen]

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An evaluation before the end goes to the study."""
        self._report(self.jobs[trial_id], result)

    def _report(self, job: Job, result: Mapping[str, Any]) -> None:
        if job.kind == "trial" and not result.get(FINISHED_KEY) and self.metric in result:
            self.study.report(job.number, int(result["step"]), metrics_of(result))

    def note_stop(self, trial_id: str, step: int) -> None:
        """The scheduler has stopped a trial: Ray itself tells a searcher the same for a stop as for an end."""
        self._stopped.add(trial_id)
        log.info("%s: stopped early at step %d", self.jobs[trial_id].name, step)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A job ended: tell the study which way."""
        job = self.jobs[trial_id]
        how, why = self._how(trial_id, result, error)
        self.ended[trial_id], self.why[trial_id] = how, why
        if job.kind != "trial" or how == "interrupted":
            return
        if how == "complete" and result is not None:
            metrics = metrics_of(result)
            baseline = self.read("baseline-search")["metrics"]
            self.study.complete(job.number, metrics, violations(self.search, metrics, baseline))
        elif how == "pruned":
            self._report(job, result or {})  # Ray keeps the evaluation that led to a stop from `on_trial_result`
            self.study.prune(job.number, why)
        else:
            self.study.fail(job.number, why)

    def _how(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> tuple[str, str]:
        if result is not None and result.get(ERROR_KEY):
            return "failed", str(result[ERROR_KEY])
        if result is not None and result.get(FINISHED_KEY):
            return "complete", ""
        if trial_id in self._stopped:
            return "pruned", "stopped by the scheduler"
        if not error:
            return "interrupted", ""
        return "failed", "the worker died; its log is beside the search"

    def on_trial_error(self, trial_id: str) -> None:
        """Part of Ray's interface; errors arrive through `on_trial_complete`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles searchers beside its state, which nothing here reads back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: resume is replay from the study and the results (DESIGN decision 11)."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a job reported as `metric/<name>`, without what Ray adds."""
    prefix = "metric/"
    return {k[len(prefix) :]: float(v) for k, v in result.items() if k.startswith(prefix)}


class StopNotingScheduler(TrialScheduler):  # type: ignore[misc]
    """A thin wrapper around a Ray scheduler that notes a STOP with the searcher before Ray acts on it.

    Jobs other than trials, and reports without the metric, pass it by. A trial's own end wins: ASHA says STOP at max_t.
    """

    def __init__(self, inner: TrialScheduler, searcher: JobSearcher) -> None:
        super().__init__()
        self.inner, self.searcher = inner, searcher

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see JobSearcher

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The metric is the searcher's."""
        return bool(self.inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Trials alone are scheduled."""
        if self._scheduled(trial):
            self.inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See `on_trial_add`."""
        if self._scheduled(trial):
            self.inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """The inner decision, noted if it is STOP."""
        if not self._scheduled(trial) or result.get(FINISHED_KEY) or self.searcher.metric not in result:
            return str(TrialScheduler.CONTINUE)
        decision = str(self.inner.on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            self.searcher.note_stop(trial.trial_id, int(result["step"]))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last report of a finished trial counts for those that follow."""
        if self._scheduled(trial) and self.searcher.metric in result:
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See `on_trial_add`."""
        if self._scheduled(trial):
            self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """First come, first served."""
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """For Ray's own status lines."""
        return str(self.inner.debug_string())

    def _scheduled(self, trial: Any) -> bool:
        job = self.searcher.jobs.get(trial.trial_id)
        return job is not None and job.kind == "trial"
