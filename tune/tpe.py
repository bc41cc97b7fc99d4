"""Optuna's TPE, asking the same questions for less: what cannot change about a trial that has ended is read once.

Each ask of TPE goes through all earlier trials several times, and each time takes them apart anew. Here it meets a
plain copy of those that have ended. Knows nothing of this project's studies, ranges or seeds.
"""

import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

STARTUP = 5
"""So many trials are drawn at random first."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What TPE reads of a trial that has ended, under the names by which it reads it."""

    number: int
    state: TrialState
    value: float | None
    values: list[float] | None
    distributions: Mapping[str, BaseDistribution]
    constraints: Mapping[str, float]
    intermediate_values: Mapping[int, float]
    internal: Mapping[str, float]
    """Its parameters as TPE reckons with them."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> "_Ended":
        values, distributions = trial.values, trial.distributions
        return cls(
            number=trial.number,
            state=trial.state,
            value=values[0] if values is not None and len(values) == 1 else None,
            values=values,
            distributions=distributions,
            constraints={name: by for name, by in trial.constraints.items() if by > 0},  # of others nothing is counted
            intermediate_values=trial.intermediate_values,
            internal={name: distributions[name].to_internal_repr(value) for name, value in trial.params.items()},
        )

    @property
    def params(self) -> Mapping[str, float]:
        """For who asks only which there are."""
        return self.internal


class _Ends:
    """The plain copies of a study's trials that have ended, each made once."""

    def __init__(self) -> None:
        self._first: list[_Ended] = []
        """Of all trials before the first that runs."""
        self._later: dict[int, _Ended] = {}

    def among(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial | _Ended]:
        """All trials of a study, by number, with copies of those that have ended."""
        for trial in trials[len(self._first) :]:
            if not trial.state.is_finished():
                break
            self._first.append(self._later.pop(trial.number) if trial.number in self._later else _Ended.of(trial))
        return [*self._first, *map(self._copy, trials[len(self._first) :])]

    def _copy(self, trial: FrozenTrial) -> FrozenTrial | _Ended:
        if not trial.state.is_finished():
            return trial
        if trial.number not in self._later:
            self._later[trial.number] = _Ended.of(trial)
        return self._later[trial.number]


class _Seen:
    """A study as one call of the sampler sees it: its trials are looked up once."""

    def __init__(self, study: optuna.Study, ends: _Ends) -> None:
        self._study = study
        self._trials = ends.among(study.get_trials(deepcopy=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial | _Ended]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class _Groups:
    """The parameters that occur together, which the sampler draws together.

    A trial with the parameters of an earlier one cannot split them further.
    """

    def calculate(self, study: optuna.Study, use_cache: bool = False) -> _SearchSpaceGroup:
        """See Optuna's `_GroupDecomposedSearchSpace`."""
        groups, met = _SearchSpaceGroup(), set[tuple[str, ...]]()
        for trial in study._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)):
            names = tuple(trial.distributions)
            if names not in met:
                met.add(names)
                groups.add_distributions(dict(trial.distributions))
        return groups


class PatientTPE(TPESampler):  # type: ignore[misc]
    """Multivariate TPE in groups, of one study: parameters with a condition are drawn together where they count."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP)
        self._group_decomposed_search_space = _Groups()
        self._ends = _Ends()

    def seeded(self, seed: int) -> "PatientTPE":
        """Itself, with the random numbers of a new sampler of this seed."""
        self._rng.rng.seed(seed)
        self._random_sampler._rng.rng.seed(seed)
        return self

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna; so the two below."""
        space: dict[str, BaseDistribution] = super().infer_relative_search_space(_Seen(study, self._ends), trial)
        return space

    def sample_relative(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn: dict[str, Any] = super().sample_relative(_Seen(study, self._ends), trial, search_space)
        return drawn

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_Seen(study, self._ends), trial, param_name, param_distribution)

    def _get_internal_repr(
        self, trials: Sequence[FrozenTrial | _Ended], search_space: dict[str, BaseDistribution], study: Any
    ) -> dict[str, np.ndarray]:
        """The values of the parameters in the trials that have all of them."""
        names = tuple(search_space)
        rows = [
            _row(trial.internal, names) if isinstance(trial, _Ended) else self._running_row(trial, search_space, study)
            for trial in trials
        ]
        there = [row for row in rows if row is not None]
        return {name: np.asarray([row[place] for row in there]) for place, name in enumerate(names)}

    def _running_row(
        self, trial: FrozenTrial, search_space: dict[str, BaseDistribution], study: Any
    ) -> list[float] | None:
        found = super()._get_internal_repr([trial], search_space, study)
        return _row({name: values[0] for name, values in found.items() if len(values)}, tuple(search_space))


def _row(values: Mapping[str, float], names: Sequence[str]) -> list[float] | None:
    try:
        return [values[name] for name in names]
    except KeyError:
        return None
