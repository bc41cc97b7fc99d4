"""The trials of a search as plain records, which is all that the numbers of an insight are computed from.

`read_records` is the one place that knows where a trial keeps what. Knows nothing of what the numbers are for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from phasegpt.files import read_json
from tune.jobs import trial_name
from tune.space import Values
from tune.status import STATES
from tune.study import BESIDE, METRICS, NOTES, ORIGIN, SAMPLED, WARM, WHY, Study


@dataclass(frozen=True)
class Record:
    """One trial. `metrics` are those of its end, empty before it; `curve` is {step: metrics} of what came earlier.

    `steps` are the optimiser steps it took, `ended` when (seconds since 1970; None while it runs). `altered` is true of
    a clone that differs from others in more than the searched values: in other keys, or in the weights it began with.
    """

    number: int
    values: Values
    state: str = "complete"
    metrics: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    steps: int = 0
    ended: float | None = None
    origin: str = SAMPLED
    altered: bool = False
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether it keeps every constraint."""
        return all(violation <= 0 for violation in self.violations.values())


def finished(records: Sequence[Record], *objectives: str) -> list[Record]:
    """Those that ran to their end and have each of `objectives`."""
    return [r for r in records if r.state == "complete" and all(name in r.metrics for name in objectives)]


def comparable(records: Sequence[Record], *objectives: str) -> list[Record]:
    """Those of the finished that differ in the searched values alone."""
    return [record for record in finished(records, *objectives) if not record.altered]


def read_records(study: Study, results: Path) -> list[Record]:
    """Every trial that was asked for, by number; `results` is the folder where each leaves `<name>.json`."""
    return [_record(study, trial, results / f"{trial_name(trial.number)}.json") for trial in study.trials()]


def _record(study: Study, trial: FrozenTrial, result: Path) -> Record:
    attributes, curve = trial.user_attrs, study.curve(trial.number)
    return Record(
        number=trial.number,
        values=study.values(trial),
        state=STATES.get(trial.state, "running"),
        metrics=attributes.get(METRICS, {}),
        violations=trial.constraints,
        curve=curve,
        steps=_steps(curve, result),
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        origin=attributes.get(ORIGIN, SAMPLED),
        altered=BESIDE in attributes or WARM in attributes,
        why=attributes.get(WHY, ""),
        notes=tuple(attributes.get(NOTES, ())),
    )


def _steps(curve: Mapping[int, Any], result: Path) -> int:
    """A run tells its end in its result alone; of one that was stopped the last of its curve counts."""
    written = int(read_json(result).get("steps", 0)) if result.is_file() else 0
    return max(written, *curve, 0)
