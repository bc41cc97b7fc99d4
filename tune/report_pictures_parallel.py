"""The picture of values and results: parallel coordinates, a line for each trial."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegpt.config_ranges import LISTED, Distribution
from tune.console import number, short_name
from tune.insight_space import position
from tune.palette import light
from tune.report_data import Material
from tune.report_pictures_trials import LABELS, STYLE, as_drawn, kind
from tune.report_svg import Picture

BESIDE = -0.12
"""Where a value that stands beside a range is drawn: below it."""


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
    return BESIDE if at is None else min(max(at, -0.06), 1.06)


def _ticks(distribution: Distribution) -> list[tuple[float, str]]:
    if distribution.kind in LISTED:
        choices = distribution.plain()
        return [(at / max(1, len(choices) - 1), number(choice)) for at, choice in enumerate(choices)]
    low, high = (float(end) for end in distribution.values[:2])  # type: ignore[arg-type]
    return [
        (0.0, number(low)),
        (1.0, number(high)),
        *((BESIDE, number(single)) for single in distribution.singles()[:1]),
    ]


def _scale(material: Material, name: str) -> tuple[Callable[[float | None], float | None], list[tuple[float, str]]]:
    """Where a result lies between the worst (0) and the best (1) that is drawn, and the labels of both."""
    way, tell = material.search.objectives[name], as_drawn(material, name)
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
