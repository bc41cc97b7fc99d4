"""The picture of what all trials came to: two objectives against each other, or one over the trials."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.console import number
from tune.finalists import OWN
from tune.insight_map import worst_told
from tune.insight_pictures import labelled
from tune.palette import light
from tune.pareto import fronts, upward
from tune.report_data import Material, Trial
from tune.report_svg import Picture

LABELS = {
    "winner": "winner",
    "own": "the config's own values",
    "mark": "ran to its end",
    "bad": "breaks a constraint",
    "pruned": "stopped early",
    "failed": "failed",
    "running": "running",
}
STYLE: Mapping[str, tuple[str, str, float]] = {
    "mark": ("o", "mark", 5.5),
    "bad": ("o", "bad", 5.5),
    "pruned": ("v", "rest", 5),
    "failed": ("x", "bad", 5),
    "running": ("+", "rest", 7),
    "own": ("s", "own", 7.5),
    "winner": ("D", "winner", 7.5),
}
"""{what a trial is: marker, colour, size}, what stands out drawn last."""
BROKEN = "bad"


def kind(material: Material, trial: Trial) -> str:
    """What a trial is in the pictures, the most telling first."""
    if trial.name == material.winner:
        return "winner"
    if trial.record.state != "complete":
        return trial.record.state
    if trial.record.number == OWN:
        return "own"
    return "mark" if trial.record.feasible else BROKEN


def outcome(material: Material) -> Picture | None:
    """The first two objectives against each other with the front, or one objective over the trials' numbers."""
    if not material.trials:
        return None
    return _front(material) if len(material.search.objectives) > 1 else _by_trial(material)


def _by_trial(material: Material) -> Picture:
    name = material.objective
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    told = as_drawn(material, name)
    points = [(t, float(t.record.number), told(last)) for t in material.trials if (last := _last(t, name)) is not None]
    _dots(axes, material, points)
    without = [trial for trial in material.trials if _last(trial, name) is None]
    low, high = axes.get_ylim()
    _dots(axes, material, [(trial, float(trial.record.number), low) for trial in without])
    axes.set_ylim(low, high)
    _untuned(axes, material, horizontal=name)
    axes.set_xlabel("trial")
    axes.set_ylabel(labelled(name, material.better))
    _finish(figure, axes)
    return Picture(
        "trials", figure, _caption(material, "Each trial in the order in which it was asked."), _says(material)
    )


def _front(material: Material) -> Picture:
    x, y, *more = material.search.objectives
    ways = material.search.objectives
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    tell = {name: as_drawn(material, name) for name in (x, y)}
    points = [
        (trial, tell[x](one), tell[y](other))
        for trial in material.trials
        if (one := _last(trial, x)) is not None and (other := _last(trial, y)) is not None
    ]
    first = front(material)
    line = sorted((tell[x](t.record.metrics[x]), tell[y](t.record.metrics[y])) for t in first)
    axes.plot([a for a, _ in line], [b for _, b in line], color=light("mark"), linewidth=1, linestyle=":", zorder=1)
    _dots(axes, material, points)
    _untuned(axes, material, horizontal=y, vertical=x)
    axes.set_xlabel(labelled(x, ways[x]))
    axes.set_ylabel(labelled(y, ways[y]))
    _finish(figure, axes)
    names = ", ".join(trial.name for trial in first)
    lead = f"{x} against {y}. Better is {_corner(ways[x], ways[y])}; no trial beats one on the dotted front in both."
    lead += f" The search has {', '.join(more)} as well, which are not drawn." if more else ""
    return Picture("front", figure, _caption(material, lead), f"{_says(material)}; on the front: {names or 'none'}")


def _corner(x: str, y: str) -> str:
    return f"{'up' if y == 'max' else 'down'} and to the {'right' if x == 'max' else 'left'}"


def front(material: Material) -> list[Trial]:
    """The trials that keep every constraint and that no other such trial beats in all objectives."""
    ways = material.search.objectives
    kept = [t for t in material.trials if t.record.feasible and set(ways) <= t.record.metrics.keys()]
    ranks = fronts([upward(ways, trial.record.metrics) for trial in kept])
    return [trial for trial, rank in zip(kept, ranks, strict=True) if rank == 0]


def _last(trial: Trial, name: str) -> float | None:
    """What it came to, or the last it was measured at."""
    points = trial.points(name)
    return trial.record.metrics.get(name, points[-1][1] if points else None)


def as_drawn(material: Material, name: str) -> Callable[[float], float]:
    """A value as it is drawn: one that is far worse than the others stands at their edge."""
    way = material.search.objectives[name]
    values = [value for trial in material.trials if (value := _last(trial, name)) is not None]
    limit = worst_told(values, way)
    return lambda value: max(value, limit) if way == "max" else min(value, limit)


def _dots(axes: Axes, material: Material, points: Sequence[tuple[Trial, float, float]]) -> None:
    for what, (marker, role, size) in STYLE.items():
        these = [(x, y) for trial, x, y in points if kind(material, trial) == what]
        if these:
            axes.plot(
                [x for x, _ in these], [y for _, y in these], marker, color=light(role), markersize=size,
                fillstyle="none" if what == BROKEN else "full", label=LABELS[what], clip_on=False,
                zorder=4 if what in ("own", "winner") else 3,
            )  # fmt: skip


def _untuned(axes: Axes, material: Material, horizontal: str, vertical: str | None = None) -> None:
    """The untuned model as a dashed line, or as two that cross where it is."""
    if "search" not in material.baselines:
        return
    metrics, colour = material.baselines["search"].metrics, light("soft")
    if horizontal in metrics:
        axes.axhline(metrics[horizontal], color=colour, linestyle="--", linewidth=1, label="untuned model")
    if vertical is not None and vertical in metrics:
        axes.axvline(metrics[vertical], color=colour, linestyle="--", linewidth=1)


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)


def _caption(material: Material, lead: str) -> str:
    said = f"{lead} Measured on the search half of the prompts, one run each: choosing is all it is for."
    if any(trial.record.state == "pruned" for trial in material.trials):
        said += " A trial that was stopped stands where it was measured last, at fewer steps than the others."
    far = [
        trial.name
        for trial in material.trials
        for name in material.search.objectives
        if (value := _last(trial, name)) is not None and as_drawn(material, name)(value) != value
    ]
    return said + (f" Drawn at the edge, being far worse: {', '.join(dict.fromkeys(far))}." if far else "")


def _says(material: Material) -> str:
    names = list(material.search.objectives)
    done = [trial for trial in material.trials if names[0] in trial.record.metrics]
    rows = [
        f"{t.name} " + " ".join(f"{n} {number(t.record.metrics[n])}" for n in names if n in t.record.metrics)
        for t in done
    ]
    return f"{len(material.trials)} trials, {len(done)} with a result: {'; '.join(rows[:20])}" + (
        "; …" if len(rows) > 20 else ""
    )
