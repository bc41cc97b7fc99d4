"""The numbers of an insight as PNGs: what mattered, two parameters together, what the budget bought.

Takes what `insight_importance`, `insight_map`, `insight_budget` and `insight_next` give, and computes nothing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from phasegpt.files import whole_file
from phasegpt.metrics.declared import DECLARED
from tune.console import number, short_name
from tune.insight_budget import BudgetCurve
from tune.insight_importance import Importance
from tune.insight_map import Map, Surface
from tune.insight_next import NextPoint
from tune.insight_space import Parameters, place
from tune.palette import light

BLUE, GREY, RED = light("mark"), light("rest"), light("bad")
DPI = 130
FINER = 8
WHITEST = 0.75
"""How much white lies over the map where the surface is least sure."""


def labelled(metric: str, better: str) -> str:
    """A metric with its unit and the way that is better."""
    unit = DECLARED[metric].unit if metric in DECLARED else "-"
    words = [*([] if unit == "-" else [unit]), "higher is better" if better == "max" else "lower is better"]
    return f"{metric} ({', '.join(words)})"


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as `<name>.png` in `folder` and return the paths."""
    for name, figure in figures.items():
        with whole_file(folder / f"{name}.png") as stage:
            figure.savefig(stage, dpi=DPI, format="png")
    return [folder / f"{name}.png" for name in figures]


def _wrapped(text: str, width: int) -> str:
    """Lines of at most `width`, broken after a semicolon where that will do."""
    lines = [""]
    for part in text.split("; "):
        joined = f"{lines[-1]}; {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= width or not lines[-1] else [*lines, part]
    return "\n".join(short for line in lines for short in textwrap.wrap(line, width) or [""])


# --- what mattered ---------------------------------------------------------------------------------------------------


def importance_figure(found: Sequence[Importance], search: str) -> Figure:
    """A panel for each objective: a bar for each parameter with its interval."""
    rows = max((len(one.shares) for one in found), default=0)
    figure = Figure(figsize=(5.2 * len(found) + 1.2, 1.9 + 0.42 * max(rows, 2)), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _importance_panel(axes, one)
    figure.suptitle(f"{search}: what mattered (PED-ANOVA, 95 % intervals)", fontsize=11)
    return figure


def _importance_panel(axes: Axes, one: Importance) -> None:
    axes.set_title(f"{one.objective}, {one.trials} finished trials\n{_wrapped(one.verdict, 62)}", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the importance of all parameters")
    places, lows, highs = range(len(one.shares)), [s.low for s in one.shares], [s.high for s in one.shares]
    labels = [short_name(s.key) + ("" if s.trials == one.trials else f"\n({s.trials} trials)") for s in one.shares]
    axes.barh(places, [s.share for s in one.shares], color=BLUE, alpha=0.55, height=0.6)
    axes.hlines(places, lows, highs, color="black", linewidth=1.4)
    for ends in (lows, highs):
        axes.plot(ends, places, "|", color="black", markersize=9)
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()


# --- two parameters together -----------------------------------------------------------------------------------------


def map_figure(found: Map, parameters: Parameters, coming: Sequence[NextPoint], search: str) -> Figure:
    """Trials by colour over two parameters, the surface behind them, and what the search would try next."""
    figure = Figure(figsize=(8.2, 6.2), layout="constrained")
    axes = figure.subplots()
    logarithmic = [parameters[key].kind == "loguniform" for key in (found.x_key, found.y_key)]
    axes.set_xscale("log" if logarithmic[0] else "linear")
    axes.set_yscale("log" if logarithmic[1] else "linear")
    axes.set_xlabel(found.x_key + " (logarithmic)" * logarithmic[0])
    axes.set_ylabel(found.y_key + " (logarithmic)" * logarithmic[1])
    values = [found.drawn(p.value) for p in found.points if p.value is not None]
    norm = Normalize(min(values, default=0.0), max(values, default=1.0))
    colours = "viridis" if found.better == "max" else "viridis_r"
    if found.surface is not None:
        _surface(axes, found.surface, norm, colours)
    _trials(axes, found, norm, colours)
    _coming(axes, found, parameters, coming)
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=labelled(found.objective, found.better))
    names = f"{search}: {found.objective} over {short_name(found.x_key)} and {short_name(found.y_key)}"
    axes.set_title(f"{names}\n{_wrapped(_map_notes(found), 100)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _surface(axes: Axes, surface: Surface, norm: Normalize, colours: str) -> None:
    """The mean as colours, the whiter the less sure it is, with contours."""
    x, y, mean, sd = (np.asarray(part) for part in (surface.x, surface.y, surface.mean, surface.sd))
    fine_mean, fine_sd = _finer(_finer(mean).T).T, _finer(_finer(sd).T).T
    white = WHITEST * fine_sd / max(float(sd.max()), np.finfo(float).tiny)
    shown = colormaps[colours](norm(fine_mean))[..., :3] * (1 - white[..., None]) + white[..., None]
    axes.pcolormesh(_finer(x), _finer(y), shown, shading="nearest", rasterized=True, zorder=0)
    levels = MaxNLocator(10).tick_values(float(norm.vmin or 0.0), float(norm.vmax or 0.0))
    crossed = [level for level in levels if mean.min() < level < mean.max()]
    if crossed:
        lines = axes.contour(x, y, mean, levels=crossed, colors="black", linewidths=0.6, alpha=0.6, zorder=2)
        axes.clabel(lines, fontsize=7, fmt="%.4g")


def _finer(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in between along the last axis, on straight lines."""
    index = np.arange(values.shape[-1])
    fine = np.linspace(0, index[-1], FINER * len(index))
    return np.apply_along_axis(lambda row: np.interp(fine, index, row), -1, values)


def _trials(axes: Axes, found: Map, norm: Normalize, colours: str) -> None:
    """A dot for each trial with a value, a ring around those that break a constraint, small marks for the others."""
    for state, marker in (("pruned", "v"), ("failed", "x"), ("running", "+")):
        these = [point for point in found.points if point.state == state]
        if these:
            axes.plot([p.x for p in these], [p.y for p in these], marker, color=GREY, label=state, zorder=3)
    measured = [(p.x, p.y, found.drawn(p.value), p.feasible) for p in found.points if p.value is not None]
    for kept, edge, label in ((True, "black", "ran to its end"), (False, RED, "breaks a constraint")):
        these_xyz = [(x, y, value) for x, y, value, feasible in measured if feasible is kept]
        if these_xyz:
            x, y, value = zip(*these_xyz, strict=True)
            width = 0.8 if kept else 2.0
            axes.scatter(
                x, y, c=value, cmap=colours, norm=norm, s=56, edgecolors=edge, linewidths=width,
                label=label, zorder=3, clip_on=False,
            )  # fmt: skip


def _coming(axes: Axes, found: Map, parameters: Parameters, coming: Sequence[NextPoint]) -> None:
    """A star with its number for each point that would come next and lies on the map."""
    keys = (found.x_key, found.y_key)
    there = [point for point in coming if place(parameters, keys, point.values) is not None]
    for order, point in enumerate(there):
        x, y = (float(point.values[key]) for key in keys)
        label = "would come next" if order == 0 else None
        axes.plot([x], [y], "*", color="white", markeredgecolor=RED, markersize=13, label=label, linestyle="", zorder=5)
        axes.annotate(
            str(point.number), (x, y), xytext=(7, 5), textcoords="offset points", color=RED, fontsize=9, zorder=6,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.6, "linewidth": 0},
        )  # fmt: skip


def _map_notes(found: Map) -> str:
    notes = [found.note, *(["pale: the surface is unsure"] if found.surface else [])]
    worse = sum(point.value is not None and found.drawn(point.value) != point.value for point in found.points)
    notes += [f"{worse} worse than {number(found.limit)} drawn as that"] if worse else []
    notes += [f"{found.beside} finished trials have no place in both ranges"] if found.beside else []
    return "; ".join(notes)


# --- what the budget bought ------------------------------------------------------------------------------------------


def budget_figure(found: BudgetCurve, search: str) -> Figure:
    """The best so far as a step line, each trial's own value as a dot, the config's own as a dashed line."""
    figure = Figure(figsize=(8.2, 4.6), layout="constrained")
    axes = figure.subplots()
    line = [(point.spent, point.best) for point in found.points if point.best is not None]
    line += [(found.total, line[-1][1])] if line else []
    axes.step([x for x, _ in line], [y for _, y in line], where="post", color=BLUE, linewidth=2, label="best so far")
    ended = [(point.spent, point.value, point.feasible) for point in found.points if point.value is not None]
    for kept, colour, fill, label in (
        (True, BLUE, "full", "a trial"),
        (False, RED, "none", "breaks a constraint: does not count"),
    ):
        these = [(x, y) for x, y, feasible in ended if feasible is kept]
        if these:
            x, y = zip(*these, strict=True)
            axes.plot(x, y, "o", color=colour, fillstyle=fill, alpha=0.6, markersize=5, label=label)
    if found.own is not None:
        axes.axhline(found.own, color=GREY, linestyle="--", linewidth=1.2, label="the config's own values")
    axes.axvspan(found.total - found.last, found.total, color=GREY, alpha=0.12, label="last quarter", linewidth=0)
    axes.set_xlim(0, max(found.total, 1) * 1.02)
    axes.set_xlabel(f"{found.unit} spent, in the order in which trials ended")
    axes.set_ylabel(labelled(found.objective, found.better))
    axes.set_title(f"{search}: what the budget bought\n{_wrapped(found.sentence(), 100)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure
