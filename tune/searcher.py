"""The order of a search as a Ray Tune searcher: the baseline, then the study's trials, then the finals.

Ray asks `suggest` for work and tells what came of it; here is decided what that means for the study. All jobs of a
search pass through the same warm actors, so the finals cost no second start.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher

from phasegpt.config_search import Search
from phasegpt.files import is_full, read_json
from phasegpt.mirror import mirror_of
from phasegpt.pairs import HALVES
from tune.arms import Arm
from tune.cohorts import Cohorts
from tune.commands import Commands
from tune.finalists import OWN, Candidate, choose, violations
from tune.jobs import Job, arm_job, as_config, baseline_job, final_job, trial_job
from tune.luggage import fetch, job_paths
from tune.reports import ERROR_KEY, FINISHED_KEY, FULL_KEY, NOTE_KEY, PAUSED_KEY, metrics_of
from tune.study import METRICS, ORIGIN, SAMPLED, WHY, Study

log = logging.getLogger("phasegpt")
STOPPED = "stopped by command"
ENDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class JobSearcher(Searcher):  # type: ignore[misc]
    """Hands out jobs and records their ends. `results` is the folder where each job leaves `<name>.json`.

    `rungs` are the steps at which cohorts are compared where the scheduler is `halving`. `on_pruned` hears of a trial
    that lost while no job of it ran; it is None until somebody listens. `commands` are what people ask of the search.
    `trouble` says why the search ends before its end where nobody asked for that.
    """

    def __init__(
        self,
        study: Study,
        search: Search,
        spec: Mapping[str, Any],
        results: Path,
        seed: int,
        rungs: Sequence[int] = (),
        baseline_checkpoint: str | None = None,
        commands: Commands | None = None,
    ) -> None:
        first = next(iter(search.objectives))
        super().__init__(metric=first, mode=search.objectives[first])
        self.study, self.search, self.spec, self.results, self.seed = study, search, spec, results, seed
        self.baselines = [baseline_job(half, baseline_checkpoint) for half in HALVES]
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self._baselines = [job for job in self.baselines if not self.done(job)]
        self._finals: list[Job] | None = None
        self._stopped: dict[str, str] = {}
        self.trouble = ""
        self._handed_out_all = False
        self.on_pruned: Callable[[int, str], None] | None = None
        halving = search.scheduler == "halving"
        self._cohorts = Cohorts(study, search, rungs, self.baseline, self._pruned) if halving else None
        self.to_stop: set[int] = set()
        self._mirrors = mirror_of(results) is not None
        self._commands = commands
        self.obey(first=True)

    def baseline(self) -> Mapping[str, float]:
        """The baseline's metrics on the search half."""
        metrics: Mapping[str, float] = self.read(self.baselines[0].name)["metrics"]
        return metrics

    def done(self, job: Job) -> bool:
        """Whether a job's result is on disk, from this process or an earlier one."""
        return (self.results / f"{job.name}.json").is_file()

    def read(self, name: str) -> Any:
        """The result of a job by its name."""
        return read_json(self.results / f"{name}.json")

    def suggest(self, trial_id: str) -> Any:
        """The next job for Ray, None to wait, FINISHED at the end."""
        job = None
        with self._stops_when_full():
            self.obey()
            job = self._next()
        if self.trouble:
            return None
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
        trial = self._next_trial()
        if trial is not None or any(job.kind == "trial" for job in self._running()):
            return trial
        if self._finals is None:
            under_way = {job.name for job in self._running()}
            self._finals = [j for j in self.final_jobs() if not self.done(j) and j.name not in under_way]
        return self._finals.pop(0) if self._finals else None

    def _next_trial(self) -> Job | None:
        if self._cohorts is not None:
            step = self._cohorts.next([job.number for job in self._running() if job.kind == "trial"])
            asked, until = (step.asked, step.until) if step is not None else (None, None)
        else:
            asked, until = self.study.ask(), None
        if asked is None:
            return None
        return trial_job(asked.number, asked.values, asked.origin, until, asked.warm)

    def obey(self, first: bool = False) -> None:
        """Do what was asked since the last look; at the `first`, only what concerns more than an earlier process."""
        if self._commands is None:
            return
        for place, command in self._commands.unread():
            log.info("command %d: %s", place, command)
            self._finals = None  # with more trials there may be other finalists
            self.study.obey(place, command)
            if command.kind == "stop" and command.trial is not None:
                self._stop(command.trial)
            elif command.kind == "interrupt" and not (first and command.at < self._commands.since):
                os.kill(os.getpid(), signal.SIGINT)

    def _stop(self, number: int) -> None:
        """A trial that runs is stopped at its next report, one that waits for its cohort at once."""
        self.to_stop.add(number)
        waits = number < self.study.asked() and not self.study.trial(number).state.is_finished()
        if waits and self._cohorts is not None and number not in [job.number for job in self._running()]:
            self.study.prune(number, STOPPED)
            self._pruned(number, STOPPED)

    def _pruned(self, number: int, why: str) -> None:
        if self.on_pruned is not None:
            self.on_pruned(number, why)

    def _running(self) -> list[Job]:
        return [job for trial_id, job in self.jobs.items() if trial_id not in self.ended]

    def interrupted(self) -> bool:
        """Whether the search ended with work left to do."""
        return not self._handed_out_all or any(how == "interrupted" for how in self.ended.values())

    def candidates(self) -> list[Candidate]:
        """The trials that came to a result."""
        found, baseline = [], self.baseline()
        for trial in self.study.trials():
            metrics = trial.user_attrs.get(METRICS)
            if metrics:
                values = self.study.values(trial)
                found.append(Candidate(trial.number, values, metrics, violations(self.search, metrics, baseline)))
        return found

    def own(self) -> Candidate:
        """The config's own values, whatever their trial came to."""
        return Candidate(OWN, self.study.values(self.study.trial(OWN)), {}, {})

    def chosen(self) -> list[Candidate]:
        """Who goes to the finals; nobody where no trial came to a result."""
        candidates = self.candidates()
        return choose(self.search, candidates, self.own()) if candidates else []

    def final_jobs(self) -> Sequence[Job]:
        """The finals: each finalist on each fresh seed."""
        chosen = self.chosen()
        seeds = range(self.search.finalists.seeds)
        return [final_job(c.number, c.values, replicate, self.seed) for replicate in seeds for c in chosen]

    def ended_before(self) -> list[tuple[Job, str, str]]:
        """The jobs that came to an end before this process, each with how it ended and why."""
        done = [(job, "complete", "") for job in self.baselines if self.done(job)]
        finals: list[Job] = []
        for trial in self.study.trials():
            if trial.state.is_finished():
                values = self.study.values(trial)
                job = trial_job(trial.number, values, trial.user_attrs.get(ORIGIN, SAMPLED))
                done.append((job, ENDS[trial.state], trial.user_attrs.get(WHY, "")))
                seeds = range(self.search.finalists.seeds)
                finals += [final_job(trial.number, values, replicate, self.seed) for replicate in seeds]
        return done + [(job, "complete", "") for job in finals if self.done(job)]

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An evaluation before the end goes to the study."""
        with self._stops_when_full():
            self._report(self.jobs[trial_id], result)

    def _report(self, job: Job, result: Mapping[str, Any]) -> None:
        if job.kind == "trial" and not result.get(FINISHED_KEY) and self.metric in result:
            self.study.report(job.number, int(result["step"]), metrics_of(result))

    def note_stop(self, trial_id: str, step: int, why: str = "stopped by the scheduler") -> None:
        """The scheduler has stopped a trial: Ray itself tells a searcher the same for a stop as for an end."""
        self._stopped[trial_id] = why
        log.info("%s: %s at step %d", self.jobs[trial_id].name, why, step)

    def note_death(self, trial_id: str, why: str) -> None:
        """The scheduler knows what a worker died of: Ray tells a searcher only that it did."""
        self.why[trial_id] = why

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A job ended: tell the study which way."""
        self.ended[trial_id] = "interrupted"  # where the study cannot be told
        with self._stops_when_full():
            self._end(trial_id, result, error)

    def _end(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> None:
        job = self.jobs[trial_id]
        how, why = self._how(trial_id, result, error)
        if result is not None and result.get(FULL_KEY):
            self._storage_is_full(str(result[FULL_KEY]))
        if self._mirrors and how != "interrupted":
            missing = fetch(job_paths(job, self.spec))
            how, why = ("failed", missing) if missing and how == "complete" else (how, why)
        if job.kind == "trial" and result is not None and result.get(NOTE_KEY):
            self.study.note(job.number, str(result[NOTE_KEY]))
        self.why[trial_id] = why
        if job.kind == "trial" and how != "interrupted":
            how, self.why[trial_id] = self._tell(job, how, why, result)
        self.ended[trial_id] = how

    def _tell(self, job: Job, how: str, why: str, result: Mapping[str, Any] | None) -> tuple[str, str]:
        """Returns how it ended as the study has it, and why."""
        if how == "complete" and result is not None:
            metrics = metrics_of(result)
            useless = self.study.complete(job.number, metrics, violations(self.search, metrics, self.baseline()))
            return ("failed", useless) if useless else (how, why)
        elif how == "paused":
            self._report(job, result or {})
        elif how == "pruned":
            with self.study.together():  # Ray keeps the evaluation that led to a stop from `on_trial_result`
                self._report(job, result or {})
                self.study.prune(job.number, why)
        else:
            self.study.fail(job.number, why)
        return how, why

    def _how(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> tuple[str, str]:
        if result is not None and result.get(ERROR_KEY):
            return "failed", str(result[ERROR_KEY])
        if result is not None and result.get(FINISHED_KEY):
            return "complete", ""
        if result is not None and result.get(PAUSED_KEY):
            return "paused", f"at step {result['step']}, for its cohort"
        if trial_id in self._stopped:
            return "pruned", self._stopped[trial_id]
        if not error:
            return "interrupted", ""
        return "failed", self.why.get(trial_id, "the worker died")

    @contextmanager
    def _stops_when_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            self._storage_is_full(str(error))

    def _storage_is_full(self, why: str) -> None:
        """Every further job would fail by the same: the search stops as by Ctrl-C, once, and can go on later."""
        if not self.trouble:
            self.trouble = f"the storage takes no more: {why}"
            os.kill(os.getpid(), signal.SIGINT)

    def on_trial_error(self, trial_id: str) -> None:
        """Part of Ray's interface; errors arrive through `on_trial_complete`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles searchers beside its state, which nothing here reads back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: resume is replay from the study and the results."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class ArmSearcher(JobSearcher):
    """The order of an ablation: the baseline on the final half, then every arm on every seed. Nothing is searched."""

    def __init__(self, arms: Sequence[Arm], study: Study, search: Search, *rest: Any, **more: Any) -> None:
        self.arms = arms
        super().__init__(study, search, *rest, **more)
        self.baselines = self.baselines[-1:]
        self._baselines = [job for job in self.baselines if not self.done(job)]

    def _next_trial(self) -> Job | None:
        return None

    def final_jobs(self) -> Sequence[Job]:
        """Each arm on each seed, the seeds of one arm apart: what is done first compares all arms."""
        seeds = range(self.search.finalists.seeds)
        arms = list(enumerate(self.arms))
        return [arm_job(number, arm.label, arm.values, seed, self.seed) for seed in seeds for number, arm in arms]

    def ended_before(self) -> list[tuple[Job, str, str]]:
        """See `JobSearcher`."""
        return [(job, "complete", "") for job in (*self.baselines, *self.final_jobs()) if self.done(job)]
