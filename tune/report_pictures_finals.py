"""Pictures of what was judged on the final half: finalists, or the arms of an ablation, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.ablation import where_compared
from tune.console import number
from tune.finalists import OWN
from tune.insight_pictures import labelled
from tune.jobs import trial_name
from tune.palette import light
from tune.report_data import Material
from tune.report_svg import Picture

MARKERS = {"winner": "D", "own": "s", "mark": "o"}
HOW = "A dot is the mean, the line its 95 % interval over new prompts and new runs, a small ring the mean of one seed."


@dataclass(frozen=True)
class Stem:
    """A row of a forest plot: a mean, its interval, and the means of single seeds."""

    label: str
    mean: float
    interval: Sequence[float] | None
    seeds: Sequence[float]
    role: str

    def words(self) -> str:
        """For those who cannot see it."""
        span = f" [{number(self.interval[0])}, {number(self.interval[1])}]" if self.interval else ""
        return f"{self.label} {number(self.mean)}{span}"


def forest(material: Material) -> Picture | None:
    """The finalists with their intervals and the untuned model as a line; None before there are any."""
    stems = [_finalist(material, found) for found in material.finalists]
    if not stems:
        return None
    name = material.objective
    untuned = _untuned(material)
    figure = Figure(figsize=(6, 1.1 + 0.42 * len(stems)), layout="constrained")
    axes = figure.subplots()
    draw_stems(axes, stems, untuned)
    axes.set_xlabel(f"{labelled(name, material.better)}, final half of the prompts")
    return Picture(
        "forest",
        figure,
        f"{name} of the finalists on prompts that the search never saw. {HOW} The dashed line is the untuned model. "
        "Whether two differ is for the table's gains, which compare prompt by prompt: intervals here may overlap and "
        "the gain be sure all the same.",
        _said(f"{name} of the finalists", stems, untuned),
    )


def _finalist(material: Material, found: Mapping[str, Any]) -> Stem:
    runs = material.finals.get(found["trial"], ())
    seeds = [run.metrics[material.objective] for run in runs if material.objective in run.metrics]
    own = found["trial"] == trial_name(OWN)
    role = "winner" if found["trial"] == material.winner else "own" if own else "mark"
    label = found["trial"] + (" (winner)" if role == "winner" else "") + (" (config's own)" if own else "")
    return Stem(label, found["mean"], found["interval"], seeds, role)


def _untuned(material: Material) -> float | None:
    return material.baselines["final"].metrics.get(material.objective) if "final" in material.baselines else None


def _said(what: str, stems: Sequence[Stem], untuned: float | None) -> str:
    words = "; ".join(stem.words() for stem in stems)
    return f"{what}: {words}" + ("" if untuned is None else f"; untuned model {number(untuned)}")


def draw_stems(axes: Axes, stems: Sequence[Stem], untuned: float | None) -> None:
    """A row for each stem, and the untuned model as a line where it is one for all."""
    for place, stem in enumerate(stems):
        colour = light(stem.role)
        if stem.interval:
            axes.plot(stem.interval, [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(stem.seeds, [place] * len(stem.seeds), "o", markersize=4, color=colour, fillstyle="none")
        axes.plot([stem.mean], [place], MARKERS[stem.role], markersize=7, color=colour)
    if untuned is not None:
        axes.axvline(untuned, color=light("soft"), linestyle="--", linewidth=1)
        axes.text(untuned, -0.55, " untuned", color=light("soft"), fontsize=9, va="bottom")
    axes.set_ylim(len(stems) - 0.5, -0.6)
    axes.set_yticks(range(len(stems)), [plain(stem.label) for stem in stems])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def plain(label: str) -> str:
    """Without a dollar sign matplotlib would take for a formula."""
    return label.replace("$", r"\$")


def ablation(material: Material) -> Picture | None:
    """The arms at equal steps, and below them at equal KL where that was spent; None of a search."""
    summary = material.summary or {}
    return ablation_picture(summary, "ablation", material.better) if "equal_steps" in summary else None


def ablation_picture(summary: Mapping[str, Any], name: str, better: str) -> Picture:
    """The arms of an ablation's summary, called `name`; `better` is min or max."""
    panels = [(where_compared(summary["step"]), summary["equal_steps"])]
    panels += [(f"at equal KL ({number(summary['kl'])} nats a token)", summary["equal_kl"])] if summary["kl"] else []
    height = sum(0.75 + 0.4 * len(arms) for _, arms in panels) + 0.4
    figure = Figure(figsize=(6, height), layout="constrained")
    ratios = [len(arms) + 1 for _, arms in panels]
    every: list[str] = []
    for axes, (title, arms) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0], panels, strict=True
    ):
        stems = [_arm(arm) for arm in arms]
        draw_stems(axes, stems, summary["baseline"])
        axes.set_title(title, loc="left")
        every.append(_said(title, stems, summary["baseline"]))
    axes.set_xlabel(labelled(summary["metric"], better))
    return Picture(
        name,
        figure,
        f"{summary['metric']} of each arm, mean and 95 % interval over new prompts and new runs. The dashed line is "
        "the untuned model. At equal steps arms differ in how far they went as well as in how well; at equal KL each "
        "is read where it had spent the same divergence from the reference.",
        "; ".join(every),
    )


def _arm(arm: Mapping[str, Any]) -> Stem:
    return Stem(arm["arm"], arm["mean"], arm["interval"], (), "mark")
