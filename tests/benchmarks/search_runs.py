"""What a search took, by whom, as plain seconds; and how many times as long one side took as another.

Pure functions of what `search.py` has measured. Trials run one after another on every side.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 2000
OURS, STOPPED, PROCESSES, PATTERN = "ours", "ours_stopping", "trl_processes", "ray_pattern"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a trial: its step, when it ended (seconds from the trial's beginning), its loss on pairs."""

    step: int
    at: float
    loss: float


@dataclass(frozen=True)
class Trial:
    """A trial from the end of the one before to its own: `seconds`, of which in steps and in evaluations."""

    seconds: float
    training: float
    evaluation: float
    evaluations: tuple[Evaluation, ...]

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Trial":
        """The inverse of `asdict`."""
        return cls(**{**found, "evaluations": tuple(Evaluation(**each) for each in found["evaluations"])})

    @property
    def service(self) -> float:
        """Seconds outside steps and evaluations."""
        return self.seconds - self.training - self.evaluation


@dataclass(frozen=True)
class Run:
    """A side's search: seconds `before` its first trial and `after` its last, of both `evaluation` in evaluations.

    `parts` tells more of what these hold, and of what is in none of them.
    """

    trials: tuple[Trial, ...]
    before: float = 0.0
    after: float = 0.0
    evaluation: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Run":
        """The inverse of `asdict`."""
        return cls(**{**found, "trials": tuple(map(Trial.read, found["trials"]))})


Taken = Callable[[Run, Sequence[int]], float]
"""Seconds of a run, had it had those of its trials (by number, some of them several times)."""


def evaluated(run: Run, trials: Sequence[int]) -> float:
    """The whole search."""
    return run.before + run.after + sum(run.trials[number].seconds for number in trials)


def training_only(run: Run, trials: Sequence[int]) -> float:
    """The same without what went into evaluations."""
    spent = run.evaluation + sum(run.trials[number].evaluation for number in trials)
    return evaluated(run, trials) - spent


def seconds(run: Run, taken: Taken) -> float:
    """Seconds of a run as it was."""
    return taken(run, range(len(run.trials)))


def ratio(others: Sequence[Run], ours: Sequence[Run], taken: Taken, seed: int = 0) -> tuple[float, float, float]:
    """How many times as long the others took, the median of rounds; and the 95 % range under a bootstrap of trials.

    Trials of one number have the same values on both sides, and are drawn together. Before and after are not drawn.
    """
    count, rng = len(ours[0].trials), np.random.default_rng(seed)

    def of(trials: Sequence[int]) -> float:
        pairs = zip(others, ours, strict=True)
        return statistics.median(taken(other, trials) / taken(own, trials) for other, own in pairs)

    drawn = [of(rng.integers(count, size=count).tolist()) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return of(range(count)), float(low), float(high)


def warm_service(runs: Sequence[Run]) -> list[float]:
    """Seconds outside steps and evaluations of every trial but the first of each run."""
    return [trial.service for run in runs for trial in run.trials[1:]]


def timeline(run: Run) -> list[tuple[float, int, Evaluation]]:
    """(seconds since the search began, number of the trial, evaluation), in that order."""
    begins = itertools.accumulate((trial.seconds for trial in run.trials), initial=run.before)
    found = [
        (begin + evaluation.at, number, evaluation)
        for number, (trial, begin) in enumerate(zip(run.trials, begins, strict=False))
        for evaluation in trial.evaluations
    ]
    return sorted(found, key=lambda each: each[:2])


def all_evaluated(run: Run) -> float:
    """Seconds until every trial has one evaluation."""
    first: dict[int, float] = {}
    for at, number, _ in timeline(run):
        first.setdefault(number, at)
    return max(first.values())


def leads_for_good(run: Run, steps: int) -> tuple[float, int]:
    """Seconds until the trial leads that leads at the end, and its number.

    The least loss after all `steps` leads: losses of different steps are not compared, and a trial that was stopped
    never leads.
    """
    whole = [(at, number, evaluation.loss) for at, number, evaluation in timeline(run) if evaluation.step == steps]
    at, winner, _ = min(whole, key=lambda each: (each[2], each[0]))
    return at, winner
