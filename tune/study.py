"""The Optuna study of a search: which values to try next, and the record of what each trial came to.

States are told the truth: COMPLETE at its end, PRUNED when stopped early, FAIL with its reason.
One process owns the study. Knows nothing of Ray, MLflow or models.
"""

import logging
import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from phasegpt.config_ranges import active
from phasegpt.config_search import Search
from tune.commands import Command
from tune.space import Values, as_params, budget, draw, first_points
from tune.study_store import Where, open_study, together
from tune.tpe import PatientTPE

log = logging.getLogger("phasegpt")
ORIGIN, WHY, CURVE, METRICS, NOTES = "origin", "why", "curve", "metrics", "notes"
SAMPLED, BESIDE, BY_COMMAND, WARM, LAST = "sampler", "beside", "command", "warm", "last"
POINTS_PER_LITERATURE = 8
MOST = 1e9  # a violation without bound is told as this


def seeded_sampler(name: str) -> Callable[[int], BaseSampler]:
    """The sampler of one study by its name in `search.sampler`, as it begins with a seed."""
    if name == "tpe":
        return PatientTPE().seeded
    if name == "nsga2":
        return lambda seed: NSGAIISampler(seed=seed, population_size=10)
    return lambda seed: RandomSampler(seed=seed)  # a grid queues its points; drawn are those that extend adds


@dataclass(frozen=True)
class Asked:
    """A trial to run: its number in the study, its values, and where those come from.

    `warm` is the trial whose weights it starts from.
    """

    number: int
    values: Values
    origin: str
    warm: int | None = None


class Study:
    """Ask and tell on an Optuna study that survives its process.

    The first trial is the config as written, then published settings, then the sampler; the sampler is seeded anew for
    every trial and every draw, so that a resumed search asks the same questions. Trials that were running when the last
    process died are asked again under their numbers, before anything new.
    """

    def __init__(self, name: str, where: Where, search: Search, own: Values, seed: int) -> None:
        self.search, self.seed, self._own = search, seed, own
        self.objectives = list(search.objectives)
        self.budget = budget(search, own)
        self._study = open_study(
            name, where, ["maximize" if d == "max" else "minimize" for d in search.objectives.values()]
        )
        self._seeded_sampler = seeded_sampler(search.sampler)
        self._running: dict[int, optuna.Trial] = {}
        self._queue_first_points()
        self._again = [t.number for t in self.trials() if t.state == TrialState.RUNNING]
        self._asked_for = len(self.trials())

    def trials(self) -> list[FrozenTrial]:
        """Every trial that was asked for, by number."""
        return [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def trial(self, number: int) -> FrozenTrial:
        """The trial of a number."""
        storage = self._study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))

    def values(self, trial: FrozenTrial | optuna.Trial) -> Values:
        """The values of a trial by key, as a config holds them, and what a command laid beside the searched ones.

        Of a trial that died while it was asked, none.
        """
        params = trial.params
        try:
            values = draw(self.search.parameters, self._own, lambda name, _: params[name])
        except KeyError:
            return {}
        return {**values, **trial.user_attrs.get(BESIDE, {})}

    def ask(self) -> Asked | None:
        """The next trial to run, or None when the budget is spent."""
        return self.again(self._again[0]) if self._again else self.new()

    def asked(self) -> int:
        """How many trials were asked for."""
        return self._asked_for

    def new(self) -> Asked | None:
        """A trial that was never asked for, or None when the budget is spent."""
        number = self.asked()
        if number >= self.budget:
            return None
        self._asked_for += 1
        with together(self._study):
            return self._with_values(self._study.ask())

    def again(self, number: int) -> Asked:
        """A trial that was asked before and has not ended."""
        if number in self._running:
            return self._asked(self._running[number])
        self._again.remove(number)
        with together(self._study):
            return self._with_values(optuna.Trial(self._study, self.trial(number)._trial_id))

    def _seed_sampler(self, number: int, name: str) -> None:
        """Each draw of each trial has its own random numbers: they do not depend on which of them came before.

        What a sampler draws for all parameters together goes under the name "".
        """
        seed = zlib.crc32(f"{self.seed}/{number}/{name}".encode())
        self._study.sampler = self._seeded_sampler(seed)

    def _with_values(self, trial: optuna.Trial) -> Asked:
        """Draw what the trial has no value of yet: all of a new one, perhaps some of one whose process died."""

        def drawn(name: str, distribution: BaseDistribution) -> Any:
            self._seed_sampler(trial.number, name)
            return trial._suggest(name, distribution)

        self._seed_sampler(trial.number, "")
        _ = trial.relative_params  # drawn when first asked for
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a config's own value may lie outside the searched range
            draw(self.search.parameters, self._own, drawn)
        self._running[trial.number] = trial
        return self._asked(trial)

    def _asked(self, trial: optuna.Trial) -> Asked:
        attributes = trial.user_attrs
        return Asked(trial.number, self.values(trial), attributes.get(ORIGIN, SAMPLED), attributes.get(WARM))

    def obey(self, place: int, command: Command) -> None:
        """What command number `place` of a search means for its trials; other commands concern what runs."""
        if command.kind == "extend":
            self.extend(command.trials)
        elif command.kind == "finish":
            self.finish(place)
        elif command.kind == "clone" and command.trial is not None:
            self.clone(place, command.trial, dict(command.values), command.warm)

    def extend(self, trials: int) -> None:
        """So many trials more; said again in every process that opens the study."""
        self.budget += trials

    def finish(self, command: int) -> None:
        """No trial after those asked for when this was first said by `command`, which the study remembers."""
        last = self._study.user_attrs.get(LAST, {})
        if str(command) not in last:
            last = {**last, str(command): self.asked()}
            self._study.set_user_attr(LAST, last)
        self.budget = last[str(command)]

    def clone(self, command: int, parent: int, values: Values, warm: bool) -> None:
        """One trial more with the values of trial `parent` and `values` on them, the next but for those that wait.

        Asked for once, however often `command` is read.
        """
        self.budget += 1
        if any(trial.user_attrs.get(BY_COMMAND) == command for trial in self._study.get_trials(deepcopy=False)):
            return
        whole = {**self._own, **self.values(self.trial(parent)), **values}
        point = active(self.search.parameters, whole)
        beside = {key: value for key, value in whole.items() if key not in self.search.parameters}
        attributes = {ORIGIN: f"clone of trial {parent}", BY_COMMAND: command}
        attributes |= {BESIDE: beside} if beside else {}
        attributes |= {WARM: parent} if warm else {}
        self._study.enqueue_trial(as_params(self.search.parameters, point), user_attrs=attributes)

    def ended_clones(self) -> frozenset[int]:
        """The places of the commands whose clones have ended."""
        ended = (t.user_attrs.get(BY_COMMAND) for t in self.trials() if t.state.is_finished())
        return frozenset(place for place in ended if place is not None)

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Note an evaluation before the end; one that is told again, as after a crash, is noted once.

        Intermediate values in a study of several objectives would crash TPE.
        """
        trial = self._running[number]
        curve = dict(trial.user_attrs.get(CURVE, {}))
        if curve.get(str(step)) == _finite(metrics):
            return
        value = metrics.get(self.objectives[0], math.nan)
        with together(self._study):
            trial.set_user_attr(CURVE, {**curve, str(step): _finite(metrics)})
            if len(self.objectives) == 1 and math.isfinite(value):
                trial.report(value, step)

    def curve(self, number: int) -> dict[int, dict[str, float]]:
        """{step: metrics} of the evaluations that `report` was told of, by step."""
        told = self.trial(number).user_attrs.get(CURVE, {})
        return {step: told[str(step)] for step in sorted(map(int, told))}

    def values_at(self, step: int, but: int) -> list[float]:
        """The first objective at exactly this step, of every trial `but` one that came there."""
        curves = [t.user_attrs.get(CURVE, {}).get(str(step), {}) for t in self.trials() if t.number != but]
        return [curve[self.objectives[0]] for curve in curves if self.objectives[0] in curve]

    def note(self, number: int, text: str) -> None:
        """Keep a remark on how a trial went, such as that it ran out of memory once."""
        trial = self._running[number]
        trial.set_user_attr(NOTES, [*trial.user_attrs.get(NOTES, ()), text])

    def complete(self, number: int, metrics: Mapping[str, float], violations: Mapping[str, float]) -> str:
        """Tell a trial that ran to its end. A missing or non-finite objective makes it FAIL; returns why, else ""."""
        values = [metrics.get(name, math.nan) for name in self.objectives]
        bad = [n for n, value in zip(self.objectives, values, strict=True) if not math.isfinite(value)]
        if bad:
            why = f"no finite value of {', '.join(bad)}"
            self.fail(number, why)
            return why
        trial = self._running.pop(number)
        with together(self._study):
            trial.set_user_attr(METRICS, _finite(metrics))
            for name, violation in violations.items():
                trial.set_constraint(name, min(violation, MOST))
            self._study.tell(trial, values)
        return ""

    def together(self) -> AbstractContextManager[None]:
        """What is told while the block lasts is kept as one, or not at all; a database takes each by itself."""
        return together(self._study)

    def prune(self, number: int, why: str) -> None:
        """Tell a trial that was stopped early."""
        self._end(number, why, TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """Tell a trial that came to no result, with the reason."""
        self._end(number, why, TrialState.FAIL)

    def _end(self, number: int, why: str, state: TrialState) -> None:
        if number in self._again:
            self.again(number)
        trial = self._running.pop(number)
        with together(self._study):
            trial.set_user_attr(WHY, why)
            self._study.tell(trial, state=state)

    def _queue_first_points(self) -> None:
        """Queue what the search begins with, or what of it is not there yet: a process may die between two of them."""
        points = first_points(self.search, self._own, self.budget // POINTS_PER_LITERATURE)
        every = self._study.get_trials(deepcopy=False)
        queued = sum(ORIGIN in trial.user_attrs and BY_COMMAND not in trial.user_attrs for trial in every)
        for origin, point in points[queued:]:
            params = as_params(self.search.parameters, point)
            self._study.enqueue_trial(params, user_attrs={ORIGIN: origin})


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
