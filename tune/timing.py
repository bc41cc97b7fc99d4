"""How long a search takes: the costs of its parts put together, from the last search like it where there is one.

Costs are counted (`duration.py`); a past search says how far off the count was on this machine, part by part, and what
nobody counts: starting, saving, registering.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tune.duration import Costs
from tune.past import Past
from tune.room import Room

START_SECONDS = 25.0  # of Ray, imports and the model, where no search has told
FIT_SECONDS = 2.0  # of starting and saving a warm fit
AFTER_SECONDS = 5.0  # for the winner and the registry
COMMAND_SECONDS = 4.0  # of the command itself before its first and after its last record

Basis = Literal["last search", "stored rate", "instant rate"]


@dataclass(frozen=True)
class Timing:
    """Seconds: of a whole fit and its parts, of all else, and of the whole search, at least and at most.

    They differ where a scheduler may stop trials. `basis` is where they come from, `source` says it for people.
    """

    basis: Basis
    source: str
    step: float
    evaluation: float
    fit: float
    once: float
    fewest: float
    most: float


@dataclass(frozen=True)
class Load:
    """What a search has to do. `trials` holds the steps of each trial where none is stopped, `fewest` where many are.

    `stages` are the steps of each stage of a run; an earlier one runs with every fit, or `earlier_runs` times in all.
    """

    stages: tuple[int, ...]
    interval: int
    trials: tuple[int, ...]
    fewest: tuple[int, ...]
    finals: int
    earlier_runs: int | None


@dataclass(frozen=True)
class _Pace:
    """Seconds of each part of this search."""

    costs: Costs
    rest: float
    before: float
    after: float

    @property
    def evaluation(self) -> float:
        return sum(self.costs.evaluation.values())

    def stage(self, number: int, steps: int, interval: int) -> float:
        return steps * self.costs.steps[number] + math.ceil(steps / interval) * self.evaluation


def timing_of(load: Load, costs: Costs, room: Room, basis: Basis, source: str) -> Timing:
    """The time by counted costs alone."""
    evaluation = sum(costs.evaluation.values())
    pace = _Pace(costs, FIT_SECONDS, START_SECONDS + costs.shared + 2 * evaluation, AFTER_SECONDS)
    return _timing(load, pace, room, basis, source)


def timing_after(
    past: Past, load: Load, costs: Costs, past_costs: Costs, room: Room, *, shared_is_here: bool
) -> Timing:
    """The time by a past search, whose own parts cost `past_costs` by the count that gives this one's `costs`."""
    slower = past.step / past_costs.steps[-1]
    corrected = Costs(
        steps=tuple(seconds * slower for seconds in costs.steps),
        evaluation={name: _scaled(past, costs, past_costs, name) for name in costs.evaluation},
        shared=0.0 if shared_is_here else _shared(past, costs, past_costs, slower),
    )
    evaluation = sum(corrected.evaluation.values())
    before = past.before - past.baselines + 2 * evaluation + corrected.shared
    source = f"from the search {past.name} of {past.day}"
    return _timing(load, _Pace(corrected, past.rest, before, past.after), room, "last search", source)


def _scaled(past: Past, costs: Costs, past_costs: Costs, name: str) -> float:
    """A part of an evaluation in proportion to its count; as counted where the past search had none of it."""
    if not past_costs.evaluation[name]:
        return costs.evaluation[name]
    return past.evaluation.get(name, 0.0) * costs.evaluation[name] / past_costs.evaluation[name]


def _shared(past: Past, costs: Costs, past_costs: Costs, slower: float) -> float:
    return past.shared * costs.shared / past_costs.shared if past.shared else costs.shared * slower


def _timing(load: Load, pace: _Pace, room: Room, basis: Basis, source: str) -> Timing:
    last = len(load.stages) - 1
    earlier = sum(pace.stage(number, load.stages[number], load.interval) for number in range(last))
    with_each = earlier if load.earlier_runs is None else 0.0
    fit = pace.stage(last, load.stages[last], load.interval) + pace.rest + with_each
    once = pace.before + pace.after + COMMAND_SECONDS + earlier * (load.earlier_runs or 0)
    finals = makespan([fit] * load.finals, room.count)

    def whole(trials: Sequence[int]) -> float:
        each = [pace.stage(last, steps, load.interval) + pace.rest + with_each for steps in trials]
        return once + makespan(each, room.count) + finals

    return Timing(
        basis, source, pace.costs.steps[last], pace.evaluation, fit, once, whole(load.fewest), whole(load.trials)
    )


def makespan(seconds: Sequence[float], slots: int) -> float:
    """When the last of jobs ends that are taken up in order by `slots` workers.

    Worked by hand: 4, 1, 1, 1 by two workers are 4; 2, 2, 2 are 4.
    """
    busy = [0.0] * slots
    for each in seconds:
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)
