"""The picture of learning: the first objective and the training loss over steps, of every trial or arm."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.insight_pictures import labelled
from tune.jobs import arm_name
from tune.palette import light
from tune.report_data import Material
from tune.report_pictures_trials import LABELS, kind
from tune.report_svg import Picture

ARMS = ("rest", "mark", "winner", "own", "bad", "final")
"""The colours of an ablation's arms, the control first; more arms begin again, told apart by their dashes."""
DASHES = ("-", "--", ":")
ENDS = {"pruned": "v", "failed": "x"}


@dataclass(frozen=True)
class Course:
    """The way of one run: its evaluations and its losses over steps, and how it ended."""

    label: str
    role: str
    points: Sequence[tuple[int, float]]
    losses: Sequence[tuple[int, float]]
    how: str = "complete"
    strong: bool = False
    dashes: str = "-"


def curves(material: Material) -> Picture | None:
    """Two panels over the same steps; None where no run has come to a step or an evaluation."""
    courses = [course for course in _courses(material) if course.points or course.losses]
    if not courses:
        return None
    figure = Figure(figsize=(6, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for course in courses:
        _draw(above, course, course.points, dots=True)
        _draw(below, course, course.losses)
    above.set_ylabel(labelled(material.objective, material.better).replace(" (", "\n("))
    below.set_ylabel("training loss")
    below.set_xlabel("optimiser step")
    for axes in (above, below):
        axes.grid()
    shown: dict[str, Artist] = {}
    for axes in (above, below):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3)
    runs = "arm on each of its seeds" if material.request.arms else "trial"
    half = "final" if material.request.arms else "search"
    return Picture(
        "curves",
        figure,
        f"Each {runs} on its way from the untuned model: above {material.objective} on the {half} half of the prompts "
        "at every evaluation, below the loss that training lowers. A loss that still falls while the objective has "
        "turned is training for its own sake. A line that was stopped ends in a triangle; losses of different λ are on "
        "different scales.",
        f"{len(courses)} runs over up to {max(step for c in courses for step, _ in (*c.points, *c.losses))} steps",
    )


def _courses(material: Material) -> list[Course]:
    if material.request.arms:
        return _arms(material)
    metric, found = material.objective, []
    for trial in material.trials:
        what = kind(material, trial)
        strong = what in ("winner", "own")
        role = what if strong else "rest"
        label = LABELS[what] if strong or what in ENDS else "another trial"
        points = [*([] if trial.record.altered else _start(material)), *trial.points(metric)]
        found.append(Course(label, role, points, trial.run.losses, trial.record.state, strong))
    return sorted(found, key=lambda course: course.strong)


def _start(material: Material) -> list[tuple[int, float]]:
    """Where every run begins: at the untuned model, unless another checkpoint is what gains are measured from."""
    half = "final" if material.request.arms else "search"
    measured = material.baselines[half].metrics if half in material.baselines else {}
    if material.request.config.evaluation.baseline_checkpoint is not None or material.objective not in measured:
        return []
    return [(0, measured[material.objective])]


def _arms(material: Material) -> list[Course]:
    found = []
    for number, arm in enumerate(material.request.arms):
        role, dashes = ARMS[number % len(ARMS)], DASHES[number // len(ARMS) % len(DASHES)]
        for run in material.finals.get(arm_name(number), ()):
            points = _start(material) + [
                (s, m[material.objective]) for s, m in run.curve.items() if material.objective in m
            ]
            found.append(Course(arm.label.replace("$", r"\$"), role, points, run.losses, strong=True, dashes=dashes))
    return found


def _draw(axes: Axes, course: Course, points: Sequence[tuple[int, float]], *, dots: bool = False) -> None:
    if not points:
        return
    label = course.label if course.label not in axes.get_legend_handles_labels()[1] else None
    colour, alpha = light(course.role), 1.0 if course.strong else 0.6
    steps, values = zip(*points, strict=True)
    axes.plot(
        steps, values, color=colour, alpha=alpha, linestyle=course.dashes, marker="o" if dots else None, markersize=3,
        linewidth=2 if course.strong else 1, zorder=4 if course.strong else 2, label=label,
    )  # fmt: skip
    if course.how in ENDS:
        axes.plot(steps[-1:], values[-1:], ENDS[course.how], color=colour, markersize=6, zorder=3)
