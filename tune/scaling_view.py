"""Score, perplexity, speed and memory against the size of the model: what searches on several sizes say together.

A size counts for a power law where a search on it was tuned and judged, and where its untuned model knew its language:
figures of random weights say nothing about models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegpt.metrics.declared import DECLARED
from phasegpt.spread import student_reach
from phasegpt.statistics import mean_by_prompt
from tune.comparison import Entry
from tune.comparison_pictures import shortened
from tune.console import number
from tune.finalists import score_interval
from tune.palette import light
from tune.report_cost import memory_of
from tune.report_data import Run
from tune.report_finalists import span
from tune.report_page import Column, Row, joined, paragraph, table
from tune.report_pictures_finals import plain
from tune.report_svg import Picture
from tune.scaling import NoLawError, Point, PowerLaw, log_error, power_law
from tune.shapes import shape_of

KNOWS = 0.1
"""An untuned model whose perplexity is this part of its vocabulary's size or more does little better than guess."""
CLOCKED = {"tokens_per_second": ("training speed", "tokens a second"), "memory_gb": ("most memory of a worker", "GB")}


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval, where it has one, and what it was measured by: others of that are comparable."""

    value: float
    interval: tuple[float, float] | None = None
    by: str = ""


@dataclass(frozen=True)
class Size:
    """A search as a point of a scaling view; `untrained` says why it counts for no law, empty where it does."""

    label: str
    base_model: str
    parameters: int | None
    untrained: str
    measures: Mapping[str, Measure]


def size_of(entry: Entry) -> Size:
    """What the winner of a search came to, as far as it was measured; memory is the most of any of its finals."""
    request = entry.material.request
    shape = shape_of(request.config)
    runs = entry.material.finals.get(entry.found.winner, ()) if entry.found else ()
    machine = entry.material.tags.get("machine", "")
    found = {name: read(runs, machine) for name, read in MEASURES.items()}
    return Size(
        label=entry.label,
        base_model=request.config.model.base_model,
        parameters=shape.size if shape else None,
        untrained=_untrained(entry, shape.vocabulary if shape else None, judged=bool(runs)),
        measures={name: measure for name, measure in found.items() if measure is not None},
    )


def _untrained(entry: Entry, vocabulary: int | None, *, judged: bool) -> str:
    perplexities = [b.metrics["perplexity"] for b in entry.material.baselines.values() if "perplexity" in b.metrics]
    if not judged:
        return "no winner was judged"
    if not perplexities:
        return "its untuned model's perplexity was not measured, so nobody knows whether its weights are random"
    if vocabulary is not None and perplexities[0] >= KNOWS * vocabulary:
        return f"its untuned model has a perplexity of {number(perplexities[0])}: random weights, or as good as random"
    return ""


def _score(runs: Sequence[Run], _: str) -> Measure | None:
    values = [run.metrics["spiral_score"] for run in runs if "spiral_score" in run.metrics]
    if not values:
        return None
    scores = [{row["id"]: row["spiral_score"] for row in run.answers if "spiral_score" in row} for run in runs]
    found = score_interval(scores, "spiral_score") if len(mean_by_prompt(scores)) > 1 else None
    scorer = runs[0].hashes.get("scorer", "")
    return Measure(found.mean, (found.low, found.high), scorer) if found else Measure(float(np.mean(values)), by=scorer)


def _perplexity(runs: Sequence[Run], _: str) -> Measure | None:
    return _over_seeds([run.metrics["perplexity"] for run in runs if "perplexity" in run.metrics])


def _speed(runs: Sequence[Run], machine: str) -> Measure | None:
    return _over_seeds([run.clock["tokens_per_second"] for run in runs if "tokens_per_second" in run.clock], machine)


def _memory(runs: Sequence[Run], machine: str) -> Measure | None:
    most = max((gb for run in runs for gb in memory_of(run)), default=None)
    return None if most is None else Measure(most, by=machine)


def _over_seeds(values: Sequence[float], by: str = "") -> Measure | None:
    """The mean over runs with Student's interval where there are two or more."""
    if not values:
        return None
    mean = float(np.mean(values))
    reach = student_reach(np.asarray(values, dtype=np.float64), 0.95) if len(values) > 1 else None
    return Measure(mean, None if reach is None else (mean - reach, mean + reach), by)


MEASURES: Mapping[str, Callable[[Sequence[Run], str], Measure | None]] = {
    "spiral_score": _score,
    "perplexity": _perplexity,
    "tokens_per_second": _speed,
    "memory_gb": _memory,
}


def law_of(sizes: Sequence[Size], name: str) -> PowerLaw:
    """The power law of a measure over the sizes that count. Raises NoLawError with the reason where there is none."""
    points, by = [], set()
    for size in sizes:
        if size.parameters is not None and not size.untrained and name in size.measures:
            found = size.measures[name]
            points.append(Point(size.parameters, found.value, log_error(*(found.interval or (None, None)))))
            by.add(found.by)
    if len(by) > 1:
        raise NoLawError(f"no power law over what was measured differently ({'; '.join(sorted(map(str, by)))})")
    return power_law(points)


def differ(entries: Sequence[Entry]) -> bool:
    """Whether the searches are on models of different sizes."""
    return len({size.parameters for size in map(size_of, entries) if size.parameters is not None}) > 1


# --- as it is told ----------------------------------------------------------------------------------------------------


def scaling_table(sizes: Sequence[Size]) -> Markup:
    """Every search with its size and measures, and below it the law of each measure, or why there is none."""
    columns = [Column("search", left=True), Column("model", left=True), Column("parameters"),
               *(Column(told(name)) for name in MEASURES),
               Column("counts for a law", left=True, text=True)]  # fmt: skip
    ordered = sorted(sizes, key=lambda size: (size.parameters is None, size.parameters or 0))
    rows = [
        Row([
            size.label, size.base_model, "–" if size.parameters is None else f"{size.parameters:,}",
            *(_cell(size.measures.get(name)) for name in MEASURES),
            f"no: {size.untrained}" if size.untrained else "yes" if size.parameters else "no: size not known",
        ])
        for size in ordered
    ]  # fmt: skip
    said = "The winner of each search; in brackets a 95 % interval: of the score over prompts and runs, else over runs"
    return joined(table(columns, rows, said), *(paragraph(law_sentence(sizes, name)) for name in MEASURES))


def told(name: str) -> str:
    """A measure with its unit."""
    if name in CLOCKED:
        return "{} ({})".format(*CLOCKED[name])
    return f"{name} ({DECLARED[name].unit})" if DECLARED[name].unit != "-" else name


def law_sentence(sizes: Sequence[Size], name: str) -> str:
    """The law of a measure, or why there is none."""
    said = CLOCKED[name][0] if name in CLOCKED else name
    try:
        return f"{law_of(sizes, name).sentence(said)}."
    except NoLawError as reason:
        return f"{said}: {reason}."


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    return number(measure.value) + (f" {span(measure.interval)}" if measure.interval else "")


def scaling_picture(sizes: Sequence[Size]) -> Picture | None:
    """A panel for each measure over the number of parameters; None where no size or no measure is known."""
    placed = [size for size in sizes if size.parameters is not None and size.measures]
    shown = [name for name in MEASURES if any(name in size.measures for size in placed)]
    if not shown:
        return None
    figure = Figure(figsize=(6, 2.3 * len(shown) + 0.5), layout="constrained")
    drawn = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(drawn, shown, strict=True):
        _panel(axes, placed, name)
    drawn[-1].set_xlabel("parameters of the base model")
    names = "; ".join(f"{size.label} {size.parameters:,}" for size in placed)
    caption = (
        "The winner of each search over the size of its model (logarithmic). A filled dot counts for a power law, a "
        "ring does not; lines are 95 % intervals. The dashed line is the law, drawn only where it was measured. "
        "Perplexities are per token, so models with other tokenizers are not on one scale; speed and memory depend on "
        "the machine, batch and lengths as well."
    )
    return Picture("scaling", figure, caption, f"{', '.join(map(told, shown))} of {names}")


def _panel(axes: Axes, sizes: Sequence[Size], name: str) -> None:
    axes.set_xscale("log")
    for size in sizes:
        if (found := size.measures.get(name)) is None or size.parameters is None:
            continue
        if found.interval:
            axes.plot([size.parameters] * 2, found.interval, color=light("mark"), linewidth=1.8)
        fill = "none" if size.untrained else "full"
        axes.plot([size.parameters], [found.value], "o", markersize=6.5, color=light("mark"), fillstyle=fill)
        axes.annotate(plain(shortened(size.label)), (size.parameters, found.value), xytext=(7, 4),
                      textcoords="offset points", fontsize=9)  # fmt: skip
    try:
        law = law_of(sizes, name)
        xs = np.geomspace(law.smallest, law.largest, 50)
        axes.plot(xs, [law.at(x) for x in xs], "--", color=light("soft"), linewidth=1.2, zorder=1)
    except NoLawError:
        pass  # the text below says why
    axes.margins(x=0.25, y=0.2)
    axes.set_ylabel(told(name).replace(" (", "\n("))
    axes.grid()
