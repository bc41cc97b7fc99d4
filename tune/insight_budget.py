"""What the budget bought: the best so far after each trial that ended, and what the last quarter of it gained.

Pure functions of records. The best is the best of those that ran to their end and keep every constraint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tune.console import number
from tune.finalists import OWN
from tune.insight_records import Record
from tune.jobs import trial_name

LAST = 0.25
"""The part of the budget that is looked at by itself."""


@dataclass(frozen=True)
class Spent:
    """The end of a trial: what was spent by then, what the trial came to, and the best so far.

    `value` is None of a trial that was stopped or failed, `best` until a trial came to a result that counts.
    """

    trial: int
    spent: int
    value: float | None
    feasible: bool
    best: float | None


@dataclass(frozen=True)
class BudgetCurve:
    """The best `objective` so far over `unit`s spent. `own` is what the config's own values came to.

    `best_trial` came to the best, which took `found_after`; `gained` is how much better the best is after the last
    quarter, which took `last`, than before it: None where there was none before. Positive is better.
    """

    objective: str
    better: str
    unit: str
    total: int
    points: tuple[Spent, ...]
    own: float | None
    best_trial: int | None
    found_after: int | None
    last: int
    gained: float | None

    def sentence(self) -> str:
        """The same in words."""
        if self.best_trial is None:
            return f"no trial has come to a result that counts after {self.total} {self.unit}"
        best = self.points[-1].best
        said = (
            f"best {number(best)} by {trial_name(self.best_trial)}, found after {self.found_after} of {self.total} "
            f"{self.unit}"
        )
        if self.own is not None:
            said += f" (the config's own values: {number(self.own)})"
        quarter = f"the last quarter ({self.last} of {self.total})"
        if self.gained is None:
            return f"{said}; before {quarter} there was none"
        return f"{said}; {quarter} gained {number(self.gained) if self.gained else 'nothing'}"


def budget_curve(records: Sequence[Record], objective: str, better: str, by_steps: bool) -> BudgetCurve:
    """The curve over trials in the order of their ends.

    A trial spends one fit, or with `by_steps` its optimiser steps, which early stopping makes differ.
    """
    points: list[Spent] = []
    total, best = 0, None
    for record in sorted((r for r in records if r.ended is not None), key=lambda r: (r.ended or 0.0, r.number)):
        value = record.metrics.get(objective) if record.state == "complete" else None
        total += record.steps if by_steps else 1
        best = _better(best, value if record.feasible else None, better)
        points.append(Spent(record.number, total, value, record.feasible, best))
    found = next((p for p in points if best is not None and p.best == best), None)
    earlier = [point for point in points if point.spent <= (1 - LAST) * total]
    before_last = earlier[-1].best if earlier else None
    own = next((point.value for point in points if point.trial == OWN), None)
    return BudgetCurve(
        objective=objective,
        better=better,
        unit="optimiser steps" if by_steps else "fits",
        total=total,
        points=tuple(points),
        own=own,
        best_trial=found.trial if found else None,
        found_after=found.spent if found else None,
        last=total - (earlier[-1].spent if earlier else 0),
        gained=None if best is None or before_last is None else abs(best - before_last),
    )


def _better(one: float | None, other: float | None, way: str) -> float | None:
    """The better of two; a None is no value."""
    known = [value for value in (one, other) if value is not None]
    return (max if way == "max" else min)(known) if known else None
