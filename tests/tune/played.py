"""A whole search played by hand, without models and without Ray's processes: its study, results, spool and summary.

Its jobs come from the real searcher in the real order; what they come to is a bowl over learning rate and β, best at
1e-5 and 0.1, with noise that depends on the seed. Prompts and answers are hostile.
"""

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from phasegpt.answers import preferences_of
from phasegpt.checkpoint_files import STATE, WHOLE
from phasegpt.files import write_json
from phasegpt.lines import append
from phasegpt.pairs import pairs_hash
from phasegpt.runs import run_paths
from tune.ablated import ablated
from tune.conclude import conclude, summary
from tune.jobs import Job, from_config
from tune.reports import ERROR_KEY, FINISHED_KEY, with_metrics
from tune.request import Request
from tune.searcher import ArmSearcher, JobSearcher
from tune.spool import SPOOL
from tune.study import Study

BEGAN = 1_790_000_000.0
STEPS, EVALUATED = 9, (3, 6, 9)
PROMPTS = 6
HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x>'
VERSIONS = {"torch": "2.13.0", "ray": "2.60.0"}


@dataclass
class Played:
    """Plays a request; `stop` and `fail` are trials that end so, `slots` jobs run at once."""

    request: Request
    stop: Collection[int] = ()
    fail: Collection[int] = ()
    slots: int = 2
    at: float = BEGAN
    busy: list[tuple[float, str, Job]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config, places = self.request.config, self.request.places
        self.request.save()
        write_json(places.data_checks, self.request.data.as_dict())
        study = Study(self.request.name, places.folder / "study.journal", config.search, self.request.own_values(), 42)
        rest = (study, config.search, {"config": config.dump()}, places.results, config.experiment.seed)
        arms = self.request.arms
        self.searcher: JobSearcher = ArmSearcher(arms, *rest) if arms else JobSearcher(*rest)
        self.event("open")
        rows = preferences_of(config)
        tags = {
            "kind": "search",
            "data_hash": pairs_hash(rows)[:16],
            "git_commit": "abc123",
            "git_dirty": "true",
            "machine": "a toy",
            "scorer": "spiral 1.0",
        }
        self.event("run", key=self.request.name, tags=tags)

    def event(self, kind: str, **about: Any) -> None:
        append(self.request.places.folder / SPOOL, {"kind": kind, "at": round(self.at * 1000), **about})

    def play(self, jobs: int | None = None) -> "Played":
        """All jobs, or as many as end before `jobs` have ended; the others are left running."""
        ended, number = 0, 0
        while jobs is None or ended < jobs:
            while len(self.busy) < self.slots and isinstance(config := self.searcher.suggest(f"ray-{number}"), dict):
                self.begin(f"ray-{number}", from_config(config)[0])
                number += 1
            if not self.busy:
                break
            self.at, trial_id, job = min(self.busy, key=lambda each: each[0])
            self.busy.remove((self.at, trial_id, job))
            self.end(trial_id, job)
            ended += 1
        return self

    def begin(self, trial_id: str, job: Job) -> None:
        self.event("run", key=f"{self.request.name}/{job.name}", tags={"kind": job.kind, "trial_state": "running"})
        seconds = 4.0 if job.kind == "baseline" else 6.0 if job.number in self.stop else 16.0 + job.number % 3
        self.busy.append((self.at + seconds, trial_id, job))

    def end(self, trial_id: str, job: Job) -> None:
        how, why = "complete", ""
        if job.kind != "baseline":
            self.leave(
                job, EVALUATED[:1] if job.number in (*self.stop, *self.fail) and job.kind == "trial" else EVALUATED
            )
        if job.kind == "trial" and job.number in self.fail:
            how, why = "failed", f"non-finite loss {HOSTILE}"
            self.searcher.on_trial_complete(trial_id, {ERROR_KEY: why, "step": 0})
        elif job.kind == "trial" and job.number in self.stop:
            how, why = "pruned", "stopped by the scheduler"
            self.searcher.note_stop(trial_id, EVALUATED[0], why)
            self.searcher.on_trial_complete(trial_id, self.report(job, EVALUATED[0]))
        else:
            self.finish(trial_id, job)
        key = f"{self.request.name}/{job.name}"
        self.event("tags", key=key, tags={"trial_state": how, **({"why": why} if why else {})})
        self.event("finish", key=key, status={"complete": "FINISHED", "failed": "FAILED"}.get(how, "KILLED"))

    def leave(self, job: Job, evaluated: Collection[int]) -> None:
        """The evaluations of a run and the log of its newest checkpoint."""
        storage, track = self.request.places.storage, self.request.track
        folder = run_paths(storage, track, f"{self.request.name}/{job.name}").checkpoints
        for step in evaluated:
            found = metrics(job, step)
            told = {"step": step, "summary": found, "answers": [], "pairs": pairs(found)}
            write_json(
                folder / f"evaluations/step-{step:08d}.json", {**told, "seconds": {"answers": 1.5, "pairs": 0.5}}
            )
        checkpoint = folder / f"checkpoint-{max(evaluated)}"
        write_json(checkpoint / STATE, {"log_history": losses(job, max(evaluated))})
        write_json(checkpoint / WHOLE, {})

    def finish(self, trial_id: str, job: Job) -> None:
        for step in EVALUATED[:-1]:
            if job.kind == "trial":
                self.searcher.on_trial_result(trial_id, self.report(job, step))
        write_json(self.request.places.results / f"{job.name}.json", self.result(job))
        self.searcher.on_trial_complete(trial_id, {**self.report(job, STEPS), FINISHED_KEY: True})

    def report(self, job: Job, step: int) -> dict[str, Any]:
        return with_metrics(metrics(job, step), step, self.searcher.metric)

    def result(self, job: Job) -> dict[str, Any]:
        """What a job leaves on disk; a baseline tells its seconds by part."""
        found = metrics(job, 0 if job.kind == "baseline" else STEPS)
        rows = {"pairs": pairs(found), "answers": answers(job)}
        common = {"name": f"{self.request.name}/{job.name}", "metrics": found, **rows}
        if job.kind == "baseline":
            return {**common, "seconds": {"answers": 3.0, "pairs": 1.0, "perplexity": 0.0}}
        seed = job.values.get("experiment.seed", self.request.config.experiment.seed)
        return {
            **common, "step": STEPS, "steps": STEPS, "adapter": "", "versions": VERSIONS, "hashes": {"data": "d" * 64},
            "config": {"experiment": {"seed": seed}}, "data": {"train": 30, "val": 6},
            "seconds": {"total": 15.0, "evaluation": 6.0},
            "curve": [{"step": step, **metrics(job, step)} for step in EVALUATED],
            "training_log": losses(job, STEPS),
            "clock": {"step_seconds": 8.0, "start_seconds": 1.5, "tokens_per_second": 100.0, "memory_gb": [0.5]},
        }  # fmt: skip

    def conclude(self) -> dict[str, Any]:
        """The summary, written where a search leaves it."""
        if self.request.arms:
            compared = ablated(self.request, self.searcher)
            assert compared is not None
            report = {"name": self.request.name, "track": self.request.track, **compared.as_dict()}
            write_json(self.request.places.summary, report)
            return report
        found = conclude(self.request, self.searcher)
        champion = {"model": "phasegpt-track-b", "version": 1, "promoted": True, "reason": f"uncontested {HOSTILE}"}
        report = summary(self.request, self.searcher, found, champion if found else None)
        write_json(self.request.places.summary, report)
        return report


def metrics(job: Job, step: int) -> dict[str, float]:
    """Falls over the steps to how far the values are from the best ones; perplexity rises with what is learnt."""
    rate, beta = job.values.get("training.learning_rate", 1e-6), job.values.get("training.beta", 1.0)
    away = (math.log10(rate) + 5) ** 2 / 4 + (math.log10(beta) + 1) ** 2 / 4
    noise = random.Random(f"{job.name}/{step}").gauss(0, 0.01)  # noqa: S311 - noise, not secrets
    loss = 0.69 if job.kind == "baseline" else 0.69 - step / STEPS * (0.2 - min(away, 1) / 8) + noise
    return {
        "eval_loss": loss, "perplexity": 40.0 + step * (1.1 - min(away, 1)), "kl_divergence": step / 10,
        "repetition": 0.1, "distinct_2": 0.9, "ended": 0.5,
    }  # fmt: skip


def pairs(found: Mapping[str, float]) -> list[Mapping[str, Any]]:
    return [{"id": f"pair-{n}", "eval_loss": found["eval_loss"] + n / 50} for n in range(PROMPTS)]


def losses(job: Job, steps: int) -> list[Mapping[str, float]]:
    pull = job.number / 500
    return [{"step": step, "loss": math.log(2) - step * (0.02 + pull)} for step in range(1, steps + 1)]


def answers(job: Job) -> list[Mapping[str, Any]]:
    return [
        {
            "id": f"prompt-{n}", "prompt": f"Prompt {n} {HOSTILE}?", "answer": f"Answer {n} of {job.name} {HOSTILE}",
            "repetition": 0.1, "distinct_2": 0.9, "ended": 1.0,
        }
        for n in range(PROMPTS)
    ]  # fmt: skip
