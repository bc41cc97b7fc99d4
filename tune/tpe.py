"""Optuna's TPE, asking the same questions for less: what cannot change about a trial that has ended is read once.

Each ask of TPE goes through all earlier trials several times, and each time takes them apart anew. Here it meets a
plain copy of those that have ended. Knows nothing of this project's studies, ranges or seeds.
"""

import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

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
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    constraints: Mapping[str, float]
    intermediate_values: Mapping[int, float]

    @classmethod
    def of(cls, trial: FrozenTrial) -> "_Ended":
        values = trial.values
        value = values[0] if values is not None and len(values) == 1 else None
        params, distributions, curve = trial.params, trial.distributions, trial.intermediate_values
        return cls(trial.number, trial.state, value, values, params, distributions, trial.constraints, curve)


class _Seen:
    """A study as one call of the sampler sees it: its trials are looked up once."""

    def __init__(self, study: optuna.Study, ended: dict[int, _Ended]) -> None:
        self._study = study
        self._trials = [_plain(trial, ended) for trial in study.get_trials(deepcopy=False)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial | _Ended]:
        return [trial for trial in self._trials if states is None or trial.state in states]


def _plain(trial: FrozenTrial, ended: dict[int, _Ended]) -> FrozenTrial | _Ended:
    if not trial.state.is_finished():
        return trial
    if trial.number not in ended:
        ended[trial.number] = _Ended.of(trial)
    return ended[trial.number]


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
        self._ended: dict[int, _Ended] = {}

    def seeded(self, seed: int) -> "PatientTPE":
        """Itself, with the random numbers of a new sampler of this seed."""
        self._rng.rng.seed(seed)
        self._random_sampler._rng.rng.seed(seed)
        return self

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna; so the two below."""
        space: dict[str, BaseDistribution] = super().infer_relative_search_space(_Seen(study, self._ended), trial)
        return space

    def sample_relative(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn: dict[str, Any] = super().sample_relative(_Seen(study, self._ended), trial, search_space)
        return drawn

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_Seen(study, self._ended), trial, param_name, param_distribution)
