"""All that a search says of its parameters, read by `look` from the search's files, which stay as they are."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.commands import Commands
from tune.console import number, short_name
from tune.control import running
from tune.insight_budget import BudgetCurve, budget_curve
from tune.insight_importance import Importance, importance
from tune.insight_map import Map, default_keys, parameter_map
from tune.insight_next import NextPoint, next_points
from tune.insight_records import Record, read_records
from tune.insight_space import ranges
from tune.jobs import trial_name
from tune.request import Request, RequestError, SearchPlaces
from tune.status import copied_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Insight:
    """What a search says. `importance` has an entry for each objective, `map` and `budget` are of the first.

    `map` is None where fewer than two parameters are searched in ranges. `resumes` are the trials that were running
    when the search stopped, and go on before any of `next`.
    """

    name: str
    track: str
    running: bool
    states: dict[str, int]
    importance: tuple[Importance, ...]
    map: Map | None
    next: tuple[NextPoint, ...]
    resumes: tuple[int, ...]
    budget: BudgetCurve

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        return {**found, "budget": {**found["budget"], "verdict": self.budget.sentence()}}

    def as_text(self) -> str:
        """For people."""
        states = ", ".join(f"{count} {state}" for state, count in self.states.items()) or "none yet"
        lines = [f"{self.name}: track {self.track}, {'running' if self.running else 'not running'}; trials: {states}"]
        lines += [line for one in self.importance for line in _importance_lines(one)]
        lines += ["Two of them together", f"  {_map_line(self.map)}"]
        lines += ["What would come next"]
        lines += [f"  first {', '.join(map(trial_name, self.resumes))} from where it stopped"] if self.resumes else []
        lines += [line for point in self.next for line in _next_lines(point)]
        lines += ["What the budget bought", f"  {self.budget.objective}: {self.budget.sentence()}"]
        return "\n".join(lines)


def _importance_lines(one: Importance) -> list[str]:
    width = max((len(short_name(s.key)) for s in one.shares), default=0)
    rows = [
        f"  {short_name(s.key):{width}}  {s.share:.2f} [{s.low:.2f}, {s.high:.2f}]"
        + ("" if s.trials == one.trials else f"  rests on {s.trials} of {one.trials} trials")
        for s in one.shares
    ]
    title = f"What mattered for {one.objective} (share, 95 % interval over {one.trials} finished trials)"
    return [title, *rows, f"  {one.verdict}"]


def _map_line(found: Map | None) -> str:
    if found is None:
        return "no map: it takes two parameters that are searched in ranges"
    return f"{found.objective} over {short_name(found.x_key)} and {short_name(found.y_key)}: {found.note}"


def _next_lines(point: NextPoint) -> list[str]:
    values = " ".join(f"{short_name(key)}={number(value)}" for key, value in point.values.items())
    beyond = " (beyond the budget: what `extend` would begin with)" if point.beyond else ""
    return [f"  {trial_name(point.number)} {values}{beyond}", f"    {point.why}"]


def picture_folder(places: SearchPlaces) -> Path:
    """Where pictures of a search go: NAME-insight beside its summary."""
    return places.summary.with_name(f"{places.name}-insight")


def look(request: Request, folder: Path | None, keys: Sequence[str] | None = None) -> tuple[Insight, list[Path]]:
    """The insight into a search as its files have it now, and the pictures of it in `folder`, if there is one.

    `keys` are the two parameters of the map. Raises RequestError where they are not searched in ranges.
    """
    insight, _ = seen(request, keys)
    return insight, [] if folder is None else save_pictures(request, insight, folder)


def seen(request: Request, keys: Sequence[str] | None = None) -> tuple[Insight, Sequence[Record]]:
    """The insight into a search as its files have it now, and the trials that it is of; `keys` as in `look`."""
    held = running(request.places.folder)
    with tempfile.TemporaryDirectory() as scratch:
        study = copied_study(request, Path(scratch), Commands(request.places.folder).all())
        records = read_records(study, request.places.results)
        points = next_points(study, records)
    return _insight(request, records, points, held, keys), records


def _insight(
    request: Request, records: Sequence[Record], points: Sequence[NextPoint], held: bool, keys: Sequence[str] | None
) -> Insight:
    search, seed, own = request.config.search, request.config.experiment.seed, request.own_values()
    first, better = next(iter(search.objectives.items()))
    shares = [importance(records, search.parameters, own, name, way, seed) for name, way in search.objectives.items()]
    axes = _asked_keys(request, keys) or default_keys(search.parameters, [share.key for share in shares[0].shares])
    return Insight(
        name=request.name,
        track=request.track,
        running=held,
        states=dict(Counter(record.state for record in records)),
        importance=tuple(shares),
        map=axes and parameter_map(records, search.parameters, axes, first, better, seed),
        next=tuple(points),
        resumes=() if held else tuple(record.number for record in records if record.state == "running"),
        budget=budget_curve(records, first, better, by_steps=search.scheduler != "none"),
    )


def _asked_keys(request: Request, keys: Sequence[str] | None) -> tuple[str, str] | None:
    """The keys of --map, checked; None where none were given."""
    if keys is None:
        return None
    known = ranges(request.config.search.parameters)
    for key in keys:
        if key not in known:
            there = ", ".join(known) or "none"
            raise RequestError(f"--map {key}: expected a parameter that is searched in a range; there are: {there}")
    x, y = keys
    if x == y:
        raise RequestError(f"--map {x} {y}: expected two different parameters")
    return x, y


def save_pictures(request: Request, insight: Insight, folder: Path) -> list[Path]:
    """Write the insight's figures as PNGs in `folder` and return their paths."""
    from tune.insight_pictures import save

    return save(figures(request, insight), folder)


def figures(request: Request, insight: Insight) -> dict[str, "Figure"]:
    """The insight drawn: importance, map (where there is one) and budget."""
    from tune.insight_pictures import budget_figure, importance_figure, map_figure

    found = {"importance": importance_figure(insight.importance, request.name)}
    if insight.map is not None:
        found["map"] = map_figure(insight.map, request.config.search.parameters, insight.next, request.name)
    return {**found, "budget": budget_figure(insight.budget, request.name)}
