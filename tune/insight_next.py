"""What a search would try next, and why there.

`next_points` asks a study for points, so it is given a copy; `explained` says of a point where it comes from and how it
lies among the trials that ended, and is a pure function of records.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from phasegpt.config_search import Search
from tune.console import number, short_name
from tune.finalists import rank
from tune.insight_records import Record, finished
from tune.insight_space import Parameters, differences, distance
from tune.jobs import trial_name
from tune.space import Values
from tune.study import SAMPLED, Asked, Study
from tune.tpe import STARTUP

BEST = 0.25
SHOWN = 3


@dataclass(frozen=True)
class NextPoint:
    """A trial that the search has not asked yet. `beyond` is true of one that its budget does not reach.

    `nearest` is the closest trial that ended and `best` the closest of the best quarter, each with its distance: 0 for
    the same point, 1 for the opposite corner of the space. None where no trial has ended.
    """

    number: int
    values: Values
    origin: str
    beyond: bool
    nearest: tuple[int, float] | None
    best: tuple[int, float] | None
    why: str


def next_points(study: Study, records: Sequence[Record], count: int = SHOWN) -> list[NextPoint]:
    """The next `count` points that are new, in the order in which the search will ask them if no trial ends before.

    Asks `study`, which must be a copy. Trials that were running are taken as running on.
    """
    budget = study.budget
    study.extend(max(0, study.asked() + count - budget))
    asked = [study.new() for _ in range(count)]
    gap = spacing(study.search.parameters, placed(records))
    points = [explained(point, study.search, records, gap) for point in asked if point is not None]
    return [replace(point, beyond=point.number >= budget) for point in points]


def placed(records: Sequence[Record]) -> list[Record]:
    """The trials that a sampler learns from: those that ran to their end or were stopped."""
    return [record for record in records if record.state in ("complete", "pruned")]


def explained(asked: Asked, search: Search, records: Sequence[Record], gap: float) -> NextPoint:
    """A point that was asked, with the reason in one sentence; `gap` is the usual distance between neighbours."""
    ended = placed(records)
    ranked = rank(search, finished(records, *search.objectives))
    top = ranked[: max(1, round(BEST * len(ranked)))]
    nearest, best = (_nearest(search.parameters, asked.values, group) for group in (ended, top))
    why = _queued(asked) or _drawn(search, ended) or _sampled(asked, search, ended, nearest, best, gap)
    return NextPoint(asked.number, asked.values, asked.origin, False, nearest, best, why)


def _nearest(parameters: Parameters, values: Values, records: Sequence[Record]) -> tuple[int, float] | None:
    places = [(record.number, distance(parameters, values, record.values)) for record in records]
    return min(places, key=lambda place: place[1], default=None)


def _queued(asked: Asked) -> str | None:
    """Why a point stands in the queue; None of one that a sampler made."""
    if asked.origin == SAMPLED:
        return None
    if asked.origin == "config":
        return "queued: the config's own values come first"
    if asked.origin == "grid":
        return "queued: the next point of the grid"
    if asked.origin.startswith("clone"):
        return f"queued by command: a {asked.origin}"
    return f"queued before the sampler begins: a published setting, {asked.origin}"


def _drawn(search: Search, ended: Sequence[Record]) -> str | None:
    """Why a point is drawn without regard to what trials came to; None where it is not."""
    if search.sampler == "grid":
        return "drawn at random: every point of the grid has been asked"
    if search.sampler == "random":
        return "drawn at random, as the sampler does always"
    if search.sampler == "tpe" and len(ended) < STARTUP:
        return f"drawn at random: TPE begins when {STARTUP} trials have ended, and {len(ended)} have"
    return None


def _sampled(
    asked: Asked,
    search: Search,
    ended: Sequence[Record],
    nearest: tuple[int, float] | None,
    best: tuple[int, float] | None,
    gap: float,
) -> str:
    """Near the best, or where nothing was tried: nearer or farther than the usual `gap` between neighbours."""
    name = {"tpe": "TPE", "nsga2": "NSGA-II"}[search.sampler]
    if nearest is None:
        return f"{name}: no trial has ended"
    if best is not None and best[1] <= gap:
        near = next(record for record in ended if record.number == best[0])
        return f"{name} stays near the best: {_told(best)}{_farthest(asked, search.parameters, near)}"
    told = "" if best is None else f"; the nearest of the best quarter is {_told(best)}"
    if nearest[1] > gap:
        return f"{name} explores: nothing tried within {number(nearest[1])} (usual gap {number(gap)}){told}"
    return f"{name} goes where others were: {_told(nearest)}{told}"


def _told(place: tuple[int, float]) -> str:
    return f"{trial_name(place[0])}, {number(place[1])} away"


def _farthest(asked: Asked, parameters: Parameters, record: Record) -> str:
    """The parameter in which two points differ most, with both values."""
    apart = differences(parameters, asked.values, record.values)
    key = max(apart, key=lambda name: apart[name])
    if apart[key] == 0:
        return ", the same values"
    here, there = (number(values.get(key, "-")) for values in (asked.values, record.values))
    return f", mostly in {short_name(key)} ({there} there, {here} here)"


def spacing(parameters: Parameters, records: Sequence[Record]) -> float:
    """The median distance of a trial from the one nearest to it; 0 for fewer than two trials."""
    others = [[other for other in records if other is not record] for record in records]
    near = (_nearest(parameters, one.values, rest) for one, rest in zip(records, others, strict=True))
    return median([place[1] for place in near if place is not None] or [0.0])
