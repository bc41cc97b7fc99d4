"""The picture of when the jobs of a search ran, on as many places as ran at once."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tune.console import number
from tune.palette import light
from tune.report_data import Material
from tune.report_jobs import RUNNING, Piece, span
from tune.report_svg import Picture

ROLES = {"baseline": "rest", "trial": "mark", "final": "final"}
ORDER = (
    "Trials begin once the baseline is there, finals once the last trial has ended.",
    "Arms begin once the baseline is there, all of them on one seed before the next.",
)
ROOM = 0.03
"""The share of the whole time from which on a bar has room for its number."""


def schedule(material: Material) -> Picture | None:
    """A bar for each stretch of a job's work over the minutes of the search; None where nothing has begun."""
    found = material.pieces
    if not found:
        return None
    start = min(piece.begin for piece in found)
    whole = max(max(piece.end for piece in found) - start, 1e-3)
    unit, seconds = ("minutes", 60.0) if whole >= 120 else ("seconds", 1.0)
    places = 1 + max(piece.place for piece in found)
    figure = Figure(figsize=(6, 1.3 + 0.45 * places), layout="constrained")
    axes = figure.subplots()
    for piece in found:
        _bar(axes, piece, start, whole, seconds)
    axes.set_yticks(range(places), [f"place {place + 1}" for place in range(places)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(places - 0.5, -0.5)
    axes.set_xlim(0, whole / seconds * 1.01)
    axes.set_xlabel(f"{unit} since the first job began")
    kinds = dict.fromkeys(piece.kind for piece in found)
    arms = bool(material.request.arms)
    names = {"final": "arm"} if arms else {}
    handles = [Patch(color=light(ROLES.get(kind, "rest")), label=names.get(kind, kind)) for kind in kinds]
    handles += [Patch(facecolor="none", edgecolor=light("soft"), hatch="////", label="stopped early, failed or cut")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    jobs = len({piece.job for piece in found})
    busy = sum(piece.seconds for piece in found) / (max(span(found), 1e-3) * places)
    return Picture(
        "schedule",
        figure,
        f"Which job ran when: {jobs} jobs on at most {places} at once, whose places were busy for {busy:.0%} of the "
        f"time. The number is that of the {'arm' if arms else 'trial'}. {ORDER[arms]} What each waited for stands in "
        "the table below.",
        f"{jobs} jobs over {number(whole / seconds)} {unit} on {places} places, busy for {busy:.0%} of the time",
    )


def _bar(axes: Axes, piece: Piece, start: float, whole: float, seconds: float) -> None:
    colour = light(ROLES.get(piece.kind, "rest"))
    whole_run = piece.how in ("complete", RUNNING, "paused")
    axes.barh(
        piece.place, piece.seconds / seconds, left=(piece.begin - start) / seconds, height=0.72, color=colour,
        alpha=1.0 if whole_run else 0.55, hatch=None if whole_run else "////", edgecolor=light("ground"), linewidth=0.8,
    )  # fmt: skip
    label = piece.job.split("-")[1].lstrip("0") or "0" if piece.kind != "baseline" else ""
    if piece.seconds >= ROOM * whole and label:
        middle = (piece.begin - start + piece.seconds / 2) / seconds
        axes.text(middle, piece.place, label, color=light("ground"), ha="center", va="center", fontsize=9)
