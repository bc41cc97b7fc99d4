"""Pictures of all trials: what each came to, its way there, and its values beside its results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegpt.config_ranges import LISTED, Distribution
from tune.console import number, short_name
from tune.finalists import OWN
from tune.insight_map import worst_told
from tune.insight_pictures import labelled
from tune.insight_space import position
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
    told = _drawn(material, name)
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
    tell = {name: _drawn(material, name) for name in (x, y)}
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


def _drawn(material: Material, name: str) -> Callable[[float], float]:
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
        if (value := _last(trial, name)) is not None and _drawn(material, name)(value) != value
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


def parallel(material: Material) -> Picture | None:
    """A line for each trial through its values and what it came to; None where nothing was searched."""
    parameters = material.search.parameters
    if not material.trials or not parameters:
        return None
    names, objectives = list(parameters), list(material.search.objectives)
    count = len(names) + len(objectives)
    figure = Figure(figsize=(max(6.0, 1.2 * count), 3.8), layout="constrained")
    axes = figure.subplots()
    scales = {name: _scale(material, name) for name in objectives}
    drawn = sorted(material.trials, key=lambda t: list(STYLE).index(kind(material, t)))
    for trial in drawn:
        places = [_place(parameters[key], trial.record.values.get(key)) for key in names]
        places += [scales[name][0](trial.record.metrics.get(name)) for name in objectives]
        _line(axes, kind(material, trial), places)
    for at, key in enumerate(names):
        _axis(axes, at, _ticks(parameters[key]))
    for at, name in enumerate(objectives, start=len(names)):
        _axis(axes, at, scales[name][1])
    titles = [short_name(key) + ("\n(log)" if parameters[key].kind == "loguniform" else "") for key in names]
    axes.set_xticks(range(count), [*titles, *(f"{name}\n(up is better)" for name in objectives)])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_ylim(-0.2, 1.08)
    figure.legend(loc="outside lower center", ncols=3)
    return Picture(
        "parallel",
        figure,
        "Every trial as a line through its values (left) and what it came to (right, better is up). Lines that come "
        "together on the right show which values they share on the left. A line that ends early came to no result; a "
        "value outside its range, or beside it, stands below or above the axis.",
        f"{len(material.trials)} trials over {', '.join(map(short_name, names))} and {', '.join(objectives)}",
    )


def _line(axes: Axes, what: str, places: Sequence[float | None]) -> None:
    marker, role, size = STYLE[what]
    strong = what in ("winner", "own")
    label = LABELS[what] if LABELS[what] not in axes.get_legend_handles_labels()[1] else None
    shown = [float("nan") if place is None else place for place in places]
    axes.plot(
        range(len(shown)), shown, marker=marker, markersize=size - 1.5 if strong else 3, color=light(role),
        linewidth=2.2 if strong else 0.9, alpha=1 if strong else 0.45, label=label,
        linestyle="--" if what in ("pruned", "failed") else "-", zorder=4 if strong else 2,
    )  # fmt: skip


def _place(distribution: Distribution, value: Any) -> float | None:
    """0 to 1 in its range; a choice at even steps; what stands beside a range below it."""
    if value is None and distribution.kind not in LISTED:
        return None
    if distribution.kind in LISTED:
        choices = distribution.plain()
        return choices.index(value) / max(1, len(choices) - 1) if value in choices else None
    at = position(distribution, value)
    return -0.12 if at is None else min(max(at, -0.06), 1.06)


def _ticks(distribution: Distribution) -> list[tuple[float, str]]:
    if distribution.kind in LISTED:
        choices = distribution.plain()
        return [(at / max(1, len(choices) - 1), number(choice)) for at, choice in enumerate(choices)]
    low, high = (float(end) for end in distribution.values[:2])  # type: ignore[arg-type]
    return [
        (0.0, number(low)),
        (1.0, number(high)),
        *((-0.12, number(single)) for single in distribution.singles()[:1]),
    ]


def _scale(material: Material, name: str) -> tuple[Callable[[float | None], float | None], list[tuple[float, str]]]:
    """Where a result lies between the worst (0) and the best (1) that is drawn, and the labels of both."""
    way, tell = material.search.objectives[name], _drawn(material, name)
    values = [tell(trial.record.metrics[name]) for trial in material.trials if name in trial.record.metrics]
    if not values:
        return (lambda _: None), []
    worst, best = (min(values), max(values)) if way == "max" else (max(values), min(values))
    reach = (best - worst) or 1.0

    def at(value: float | None) -> float | None:
        return None if value is None else (tell(value) - worst) / reach

    return at, [(0.0, number(worst)), *([(1.0, number(best))] if best != worst else [])]


def _axis(axes: Axes, at: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([at, at], [0, 1], color=light("soft"), linewidth=0.9, zorder=1)
    for place, label in ticks:
        axes.text(
            at + 0.05, place, label.replace("$", r"\$"), fontsize=9, va="center", zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": light("ground"), "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip
