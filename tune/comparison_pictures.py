"""Pictures of several searches side by side: their winners, the best so far on the way, and the values chosen."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phasegpt.config import unused, value_at
from tune.compared import Compared
from tune.comparison import Entry
from tune.console import number, short_name
from tune.insight_pictures import labelled
from tune.palette import light
from tune.report_pictures_curves import ARMS, DASHES
from tune.report_pictures_finals import HOW, Stem, draw_stems, plain
from tune.report_svg import Picture

LONG = 26
"""So many characters of a name a picture has room for."""
WIDE = 20
"""Values whose largest is so many times the smallest are drawn on a logarithmic axis."""


def winners(entries: Sequence[Entry]) -> Picture | None:
    """The winner of each with its interval, searches with one objective on one axis; None before there is a winner."""
    won = [entry for entry in entries if entry.found]
    if not won:
        return None
    panels = list(_by_objective(won))
    ratios = [len(those) + 1 for _, those in panels]
    figure = Figure(figsize=(6, 0.7 * len(panels) + 0.45 * sum(ratios)), layout="constrained")
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
    said = []
    for axes, (label, those) in zip(drawn, panels, strict=True):
        stems = [_stem(entry, entry.found) for entry in those if entry.found]
        draw_stems(axes, stems, None)
        for place, entry in enumerate(those):
            untuned = _untuned(entry)
            if untuned is not None:
                axes.plot([untuned], [place], "|", markersize=13, markeredgewidth=1.6, color=light("soft"))
        axes.set_xlabel(f"{label}, final half of the prompts")
        said += [f"{label}: {'; '.join(stem.words() for stem in stems)}"]
    caption = (
        f"The winner of each search on prompts that it never saw. {HOW} The upright line is the search's own untuned "
        "model. Whether two differ is for the table's gains, which compare prompt by prompt."
    )
    return Picture("winners", figure, caption, ". ".join(said))


def _by_objective(entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    labels = [labelled(entry.material.objective, entry.material.better) for entry in entries]
    for label in dict.fromkeys(labels):
        yield label, [entry for entry, own in zip(entries, labels, strict=True) if own == label]


def _stem(entry: Entry, found: Compared) -> Stem:
    runs = entry.material.finals.get(found.winner, ())
    seeds = [run.metrics[found.objective] for run in runs if found.objective in run.metrics]
    ends = (found.interval.low, found.interval.high) if found.interval else None
    return Stem(shortened(entry.label), found.mean, ends, seeds, "winner")


def _untuned(entry: Entry) -> float | None:
    baselines = entry.material.baselines
    return baselines["final"].metrics.get(entry.material.objective) if "final" in baselines else None


def shortened(label: str) -> str:
    """A name for a picture: of a long one its beginning and end."""
    return label if len(label) <= LONG else f"{label[: LONG - 11]}…{label[-10:]}"


# --- the way there ----------------------------------------------------------------------------------------------------


def courses(entries: Sequence[Entry]) -> Picture | None:
    """The best so far of each search over trials and over time, a pair of panels for each objective."""
    shown = [entry for entry in entries if any(point.best is not None for point in entry.course.points)]
    if not shown:
        return None
    panels = list(_by_objective(shown))
    figure = Figure(figsize=(6, 4.8 * len(panels) + 0.4), layout="constrained")
    drawn = figure.subplots(2 * len(panels), 1, squeeze=False)[:, 0]
    scale, unit = _unit(shown)
    for place, (label, those) in enumerate(panels):
        above, below = drawn[2 * place], drawn[2 * place + 1]
        for entry in those:
            best = [(point.spent, point.best) for point in entry.course.points]
            _course(above, entry, entries.index(entry), [(float(x), y) for x, y in best if y is not None])
            timed = [(x, y) for x, (_, y) in zip(entry.worked, best, strict=True)]
            points = [(x / scale, y) for x, y in timed if x is not None and y is not None]
            _course(below, entry, entries.index(entry), points)
        above.set_xlabel("trials that had ended")
        above.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.set_xlabel(f"{unit} that the search had worked")
        for axes in (above, below):
            axes.set_ylabel(label.replace(" (", "\n("))
            axes.grid()
    handles = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    caption = (
        "The best so far of the trials that keep every constraint, on the search half of the prompts: above over how "
        "many trials had ended, below over time. Single runs, so the best of many is in part the luckiest: how far a "
        "search came is for the finals. Time is comparable on one machine alone."
    )
    return Picture("courses", figure, caption, "; ".join(f"{e.label}: {e.course.sentence()}" for e in shown))


def _unit(entries: Sequence[Entry]) -> tuple[float, str]:
    longest = max((seconds for entry in entries for seconds in entry.worked if seconds is not None), default=0.0)
    return (3600.0, "hours") if longest > 7200 else (60.0, "minutes") if longest > 180 else (1.0, "seconds")


def _course(axes: Axes, entry: Entry, place: int, points: Sequence[tuple[float, float]]) -> None:
    if not points:
        return
    xs, ys = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    role, dashes = ARMS[place % len(ARMS)], DASHES[(place + place // len(ARMS)) % len(DASHES)]
    axes.plot(
        xs, ys, drawstyle="steps-post", color=light(role), linestyle=dashes, linewidth=1.8, marker="o", markersize=3,
        label=plain(shortened(entry.label)),
    )  # fmt: skip


# --- the values chosen ------------------------------------------------------------------------------------------------


def chosen(entries: Sequence[Entry]) -> Picture | None:
    """A row of dots for each search, a panel for each parameter that any of them searched."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry.material.search.parameters))
    if not keys:
        return None
    height = 0.62 + 0.27 * len(entries)
    figure = Figure(figsize=(6, height * len(keys) + 0.5), layout="constrained")
    said = []
    for axes, key in zip(figure.subplots(len(keys), 1, squeeze=False)[:, 0], keys, strict=True):
        _parameter(axes, entries, key)
        values = [(entry.label, winning_value(entry, key)) for entry in entries]
        said.append(f"{key}: " + ", ".join(f"{name} {number(v)}" for name, v in values if v is not None))
    caption = (
        "Values of each parameter: small dots are the trials of a search, the diamond its winner; a square is a value "
        "that the search had fixed. Winners that agree across searches are worth more than any one of them."
    )
    return Picture("chosen", figure, caption, "; ".join(said))


def winning_value(entry: Entry, key: str) -> Any:
    """What the winner of a search had for `key`: chosen, or as its config fixes it; None where nothing reads it."""
    if key in entry.material.search.parameters:
        return entry.found.values.get(key) if entry.found else None
    config = entry.material.request.config
    return None if unused(config, key) else value_at(config, key)


def _parameter(axes: Axes, entries: Sequence[Entry], key: str) -> None:
    tried = [[t.record.values[key] for t in e.material.trials if key in t.record.values] for e in entries]
    winning = [winning_value(entry, key) for entry in entries]
    every = [value for values in (*tried, winning) for value in values if value is not None]
    placed = _places(axes, every)
    for row, (entry, values, value) in enumerate(zip(entries, tried, winning, strict=True)):
        dots = [placed[_name(v)] for v in values if v is not None]
        axes.plot(dots, [row] * len(dots), "o", markersize=3.5, color=light("rest"), alpha=0.6)
        if value is not None:
            searched = key in entry.material.search.parameters
            marker, role = ("D", "winner") if searched else ("s", "soft")
            axes.plot([placed[_name(value)]], [row], marker, markersize=7, color=light(role), zorder=4)
    axes.set_yticks(range(len(entries)), [plain(shortened(entry.label)) for entry in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title(short_name(key), loc="left")
    axes.grid(axis="x")


def _places(axes: Axes, values: Sequence[Any]) -> Mapping[str, float]:
    """{value as text: where it is drawn}; the axis is made to fit: a scale for numbers, names for anything else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        above = [value for value in values if value > 0]
        if above and min(values) >= 0 and max(above) > WIDE * min(above):
            if min(values) > 0:
                axes.set_xscale("log")
            else:
                axes.set_xscale("symlog", linthresh=10 ** math.floor(math.log10(min(above))), linscale=0.5)
        return {_name(value): float(value) for value in values}
    names = list(dict.fromkeys(map(_name, values)))
    axes.set_xticks(range(len(names)), [plain(shortened(name)) for name in names])
    axes.set_xlim(-0.5, len(names) - 0.5)
    return {name: float(place) for place, name in enumerate(names)}


def _name(value: Any) -> str:
    return str(value)
