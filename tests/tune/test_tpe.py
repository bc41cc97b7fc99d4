"""TPE as searches use it asks what Optuna's own asks, trial by trial."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from tune.tpe import STARTUP, PatientTPE

Seeded = Callable[[int], BaseSampler]
AT_ONCE = 3


def own(seed: int) -> BaseSampler:
    """Optuna's own sampler, made anew for each trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP)


def drawn(trial: optuna.Trial) -> dict[str, Any]:
    """A point of a space in which two parameters depend on others."""
    plain = trial.suggest_categorical("plain", [True, False])
    trial.suggest_float("beta", 0.01, 1.0, log=True)
    if not plain:
        trial.suggest_float("lambda", 1e-3, 1.0, log=True)
    if trial.suggest_int("rank", 1, 4) > 2:
        trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
    return dict(trial.params)


def asked(seeded: Seeded, directions: list[str], trials: int) -> list[dict[str, Any]]:
    """What a study asks whose trials run AT_ONCE at a time, end out of order, and end in every way."""
    study, luck = optuna.create_study(directions=directions), random.Random(0)  # noqa: S311 - a toy's luck
    running: list[optuna.Trial] = []
    found = []
    for number in range(trials):
        study.sampler = seeded(number)
        trial = study.ask()
        found.append(drawn(trial))
        running.append(trial)
        if len(running) == AT_ONCE:
            end(study, running.pop(luck.randrange(AT_ONCE)), luck)
    return found


def end(study: optuna.Study, trial: optuna.Trial, luck: random.Random) -> None:
    """COMPLETE, perhaps against a constraint, PRUNED after some steps where Optuna allows those, or FAIL."""
    values = [luck.random() + trial.params["beta"] for _ in study.directions]
    state = luck.choices([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], [6, 2, 1])[0]
    if state == TrialState.COMPLETE:
        trial.set_constraint("kl", luck.random() - 0.7)
    elif state == TrialState.PRUNED and len(values) == 1:
        trial.report(values[0], luck.randrange(1, 4))
    study.tell(trial, values if state == TrialState.COMPLETE else None, state)


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["maximize", "minimize"]])
def test_it_asks_what_optunas_own_asks(directions: list[str]) -> None:
    expected = asked(own, directions, 60)
    assert asked(PatientTPE().seeded, directions, 60) == expected
    assert len({tuple(sorted(point)) for point in expected}) == 4, "each combination of conditions came up"


def test_it_has_no_memory_of_its_own() -> None:
    """One that takes over in the middle, as after a crash, goes on with the same questions."""
    samplers = {number: PatientTPE() for number in range(60)}
    assert asked(lambda number: samplers[number].seeded(number), ["minimize"], 60) == asked(own, ["minimize"], 60)
