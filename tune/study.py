"""The Optuna study of a search: which values to try next, and the record of what each trial came to.

States are told the truth (DESIGN decision 2): COMPLETE at its end, PRUNED when stopped early, FAIL with its reason.
One process owns the study. Knows nothing of Ray, MLflow or models.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from phasegpt.config_search import Search
from tune.space import Values, as_optuna, budget, from_optuna, grid_points, literature_points, to_optuna

log = logging.getLogger("phasegpt")
ORIGIN, WHY, CURVE, METRICS, STARTUP = "origin", "why", "curve", "metrics", 5
POINTS_PER_LITERATURE = 8

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP),
    "random": lambda seed: RandomSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # every point of a grid is queued, so nothing is sampled
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=10),
}


@dataclass(frozen=True)
class Asked:
    """A trial to run: its number in the study, its values, and where those come from."""

    number: int
    values: Values
    origin: str


class Study:
    """Ask and tell on an Optuna study that survives its process.

    The first trial is the config as written, then published settings, then the sampler; the sampler is seeded anew by
    trial number, so that a resumed search asks the same questions. Trials that were running when the last process
    died are asked again under their numbers, before anything new.
    """

    def __init__(self, name: str, journal: Path, search: Search, own: Values, seed: int) -> None:
        self.search, self.seed, self._own = search, seed, own
        self.objectives = list(search.objectives)
        self._distributions = {key: to_optuna(d, own[key]) for key, d in search.parameters.items()}
        self.budget = budget(search, own)
        self._study = _open(
            name, journal, ["maximize" if d == "max" else "minimize" for d in search.objectives.values()]
        )
        self._running: dict[int, optuna.Trial] = {}
        if not self._study.get_trials(deepcopy=False):
            self._queue_first_points(own)
        self._again = [t.number for t in self.trials() if t.state == TrialState.RUNNING]

    def trials(self) -> list[FrozenTrial]:
        """Every trial that was asked for, by number."""
        return [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def values(self, trial: FrozenTrial | optuna.Trial) -> Values:
        """The values of a trial by key, as a config holds them."""
        parameters = self.search.parameters
        return {key: from_optuna(value, parameters[key], self._own[key]) for key, value in trial.params.items()}

    def ask(self) -> Asked | None:
        """The next trial to run, or None when the budget is spent."""
        if self._again:
            return self._take_up(self._again.pop(0))
        if len(self.trials()) >= self.budget:
            return None
        self._seed_sampler(len(self.trials()))
        return self._with_values(self._study.ask())

    def _take_up(self, number: int) -> Asked:
        self._seed_sampler(self.budget + number)  # a seed of its own, for values that were never drawn
        return self._with_values(optuna.Trial(self._study, self._frozen(number)._trial_id))

    def _seed_sampler(self, number: int) -> None:
        self._study.sampler = SAMPLERS[self.search.sampler](self.seed * 100_003 + number)

    def _with_values(self, trial: optuna.Trial) -> Asked:
        """Draw what the trial has no value of yet: all of a new one, perhaps some of one whose process died."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a config's own value may lie outside the searched range
            for key, distribution in self._distributions.items():
                trial._suggest(key, distribution)
        self._running[trial.number] = trial
        return Asked(trial.number, self.values(trial), str(trial.user_attrs.get(ORIGIN, "sampler")))

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Note an evaluation before the end. Intermediate values in a study of several objectives would crash TPE."""
        trial = self._running[number]
        curve = dict(trial.user_attrs.get(CURVE, {}))
        trial.set_user_attr(CURVE, {**curve, str(step): _finite(metrics)})
        value = metrics.get(self.objectives[0], math.nan)
        if len(self.objectives) == 1 and math.isfinite(value):
            trial.report(value, step)

    def reported_steps(self, number: int) -> set[int]:
        """The steps of the evaluations that `report` was told of."""
        return {int(step) for step in self._frozen(number).user_attrs.get(CURVE, {})}

    def complete(self, number: int, metrics: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """Tell a trial that ran to its end. A missing or non-finite objective makes it FAIL."""
        values = [metrics.get(name, math.nan) for name in self.objectives]
        bad = [n for n, value in zip(self.objectives, values, strict=True) if not math.isfinite(value)]
        if bad:
            self.fail(number, f"no finite value of {', '.join(bad)}")
            return
        trial = self._running.pop(number)
        trial.set_user_attr(METRICS, _finite(metrics))
        for name, violation in violations.items():
            trial.set_constraint(name, min(violation, 1e9))
        self._study.tell(trial, values)

    def prune(self, number: int, why: str) -> None:
        """Tell a trial that was stopped early."""
        self._end(number, why, TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """Tell a trial that came to no result, with the reason."""
        self._end(number, why, TrialState.FAIL)

    def _end(self, number: int, why: str, state: TrialState) -> None:
        trial = self._running.pop(number)
        trial.set_user_attr(WHY, why)
        self._study.tell(trial, state=state)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(t for t in self._study.get_trials(deepcopy=False) if t.number == number)

    def _queue_first_points(self, own: Values) -> None:
        points = [("config", own)]
        if self.search.sampler == "grid":
            points += [("grid", point) for point in grid_points(self.search.parameters, own)[1:]]
        else:
            points += literature_points(self.search.parameters, own, self.budget // POINTS_PER_LITERATURE)
        for origin, point in points:
            queued = {key: as_optuna(value) for key, value in point.items()}
            self._study.enqueue_trial(queued, user_attrs={ORIGIN: origin})


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _open(name: str, journal: Path, directions: Sequence[str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    cut_torn_tail(journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)


def cut_torn_tail(journal: Path) -> None:
    """Cut a last line without its newline: one append behind it would make the whole journal unreadable."""
    if not journal.is_file():
        return
    with journal.open("rb+") as handle:
        content = handle.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log.warning("%s: cut %d bytes of a line that was never finished", journal, len(content) - whole)
            handle.truncate(whole)
            handle.flush()
            os.fsync(handle.fileno())
