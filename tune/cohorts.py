"""Synchronous halving: trials in cohorts that are compared at rungs; the best of each go on from their checkpoints.

A rung is a short job: one trial of the study is several jobs, one after another. Which job comes next, and who has
lost, follows from the study's record alone, so a resumed search decides alike. With one or two slots this stops more
than asynchronous halving does, which has too few to compare with. Knows nothing of Ray.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from phasegpt.config_search import Search
from tune.finalists import Candidate, rank, violations
from tune.stopping import cohort_size, kept, members
from tune.study import Asked, Study

OnPruned = Callable[[int, str], None]


@dataclass(frozen=True)
class Step:
    """A trial to run, as far as its evaluation at step `until`, or to its end."""

    asked: Asked
    until: int | None


class Cohorts:
    """What to run next. `rungs` are the steps of comparison, the last the end; `on_pruned` hears of those who lost.

    `baseline` gives the baseline's metrics, which relative constraints need.
    """

    def __init__(
        self,
        study: Study,
        search: Search,
        rungs: Sequence[int],
        baseline: Callable[[], Mapping[str, float]],
        on_pruned: OnPruned,
    ) -> None:
        self.study, self.search, self.rungs, self.baseline, self.on_pruned = study, search, rungs, baseline, on_pruned
        self.size = cohort_size(len(rungs))
        self._finished = 0

    def next(self, running: Collection[int]) -> Step | None:
        """The next job while the trials `running` run; None where all wait for those, or nothing is left."""
        for number in range(self._finished, -(-self.study.budget // self.size)):
            cohort = members(number, self.size, self.study.budget)
            step = self._of_cohort(cohort, running)
            if step is not None:
                return step
            whole = len(cohort) == self.size  # the last one grows with the budget
            if whole and number == self._finished and all(self._ended(trial) for trial in cohort):
                self._finished += 1
        return None

    def _of_cohort(self, cohort: Sequence[int], running: Collection[int]) -> Step | None:
        alive: Sequence[int] = cohort
        for rung, step in enumerate(self.rungs):
            for number in alive:
                if number not in running and not self._reached(number, step):
                    return self._run(number, None if step == self.rungs[-1] else step)
            if step == self.rungs[-1] or any(number in running for number in alive):
                return None
            alive = self._going_on(alive, len(cohort), rung, step)
        return None

    def _run(self, number: int, until: int | None) -> Step | None:
        asked = self.study.new() if number >= self.study.asked() else self.study.again(number)
        return None if asked is None else Step(asked, until)

    def _ended(self, number: int) -> bool:
        return number < self.study.asked() and self.study.trial(number).state.is_finished()

    def _reached(self, number: int, step: int) -> bool:
        """Whether a trial needs no job to come to `step`: it was evaluated there or later, or has ended before."""
        return self._ended(number) or (number < self.study.asked() and max(self.study.curve(number), default=0) >= step)

    def _going_on(self, alive: Sequence[int], size: int, rung: int, step: int) -> list[int]:
        """The best at `step`; the others are told to have lost."""
        best = [candidate.number for candidate in rank(self.search, self._scored(alive, step))]
        chosen = best[: kept(size, rung)]
        for number in alive:
            if number not in chosen and not self._ended(number):
                why = f"{best.index(number) + 1}. of {len(best)} in its cohort at step {step}"
                self.study.prune(number, why)
                self.on_pruned(number, why)
        return chosen

    def _scored(self, alive: Sequence[int], step: int) -> list[Candidate]:
        found, baseline = [], self.baseline()
        for number in alive:
            curve = self.study.curve(number)  # a trial with an eval_interval of its own comes by a little later
            metrics = curve[min(at for at in curve if at >= step)] if max(curve, default=0) >= step else {}
            if all(name in metrics for name in self.study.objectives):
                found.append(Candidate(number, {}, metrics, violations(self.search, metrics, baseline)))
        return found
