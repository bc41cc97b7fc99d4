"""A report put together: its sections in their order, its pictures, and the files it is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from phasegpt.config_io import write_resolved
from phasegpt.files import write_text
from tune.insight_summary import Insight, figures
from tune.report_answers import answers_section
from tune.report_cost import cost_section, day, jobs_table
from tune.report_data import Material
from tune.report_finalists import finalists
from tune.report_origin import CONFIG, data_section, limits_section, origin_section, trials_table
from tune.report_page import Section, joined, page, paragraph, picture_html
from tune.report_pictures_curves import curves
from tune.report_pictures_finals import ablation, forest
from tune.report_pictures_jobs import schedule
from tune.report_pictures_parallel import parallel
from tune.report_pictures_trials import outcome
from tune.report_svg import Picture, report_style, save_png
from tune.report_verdict import lead, title, verdict
from tune.request import SearchPlaces

PAGE = "report.html"


@dataclass(frozen=True)
class Part:
    """A section before it is HTML: `picture` first, then `body`, or `without` where it has neither."""

    id: str
    title: str
    picture: Picture | None = None
    body: Markup | None = None
    without: str = ""

    def section(self) -> Section:
        """As HTML."""
        pieces = [picture_html(self.picture)] if self.picture else []
        pieces += [self.body] if self.body is not None else []
        return Section(self.id, self.title, joined(*pieces) if pieces else paragraph(self.without, "soft"))


def report_folder(places: SearchPlaces) -> Path:
    """Where a search's report goes: NAME-report beside its summary."""
    return places.summary.with_name(f"{places.name}-report")


def write_report(material: Material, folder: Path) -> Path:
    """Write the page, its pictures as PNGs and the config to `folder`; returns the page's path, written last."""
    with report_style():
        parts = list(_parts(material))
        save_png([part.picture for part in parts if part.picture], folder)
        sections = [part.section() for part in parts]
    write_resolved(material.request.config, folder / CONFIG)
    foot = f"Made by python -m tune.report on {day(material.made)} from the files of {material.request.name}."
    write_text(folder / PAGE, page(title(material), lead(material), sections, foot))
    return folder / PAGE


def _parts(material: Material) -> Iterator[Part]:
    yield Part("verdict", "Verdict", body=verdict(material))
    yield from _of_arms(material) if material.request.arms else _of_trials(material)
    yield Part("schedule", "Jobs over time", schedule(material), jobs_table(material), "No job has begun.")
    yield Part("cost", "Cost", body=cost_section(material))
    yield Part("answers", "Answers side by side", body=answers_section(material))
    if not material.request.arms:
        yield Part("trials", "Every trial", body=trials_table(material))
    yield Part("data", "Data and its checks", body=data_section(material))
    yield Part("origin", "How to reproduce", body=origin_section(material))
    yield Part("limits", "Limits", body=limits_section(material))


def _of_arms(material: Material) -> Iterator[Part]:
    yield Part("ablation", "Arms side by side", ablation(material), without="No two arms have come to a result yet.")
    yield Part("curves", "Learning curves", curves(material), without="No run was evaluated yet.")


def _of_trials(material: Material) -> Iterator[Part]:
    yield Part("finalists", "Finalists", forest(material), finalists(material))
    several = len(material.search.objectives) > 1
    heading = "Pareto front" if several else f"{material.objective} by trial"
    yield Part("outcome", heading, outcome(material), without="No trial has ended yet.")
    yield Part("curves", "Learning curves", curves(material), without="No run was evaluated yet.")
    yield Part("parallel", "Values and results", parallel(material), without="Nothing was searched.")
    if material.insight is not None:
        yield from _of_insight(material, material.insight)


def _of_insight(material: Material, insight: Insight) -> Iterator[Part]:
    drawn = figures(material.request, insight)
    drawn["importance"].suptitle("")
    for name in ("map", "budget"):
        for axes in drawn[name].axes if name in drawn else ():
            axes.set_title("")  # the caption says it
    yield _importance(insight, drawn["importance"])
    yield _map(insight, drawn.get("map"))
    said = sentence(insight.budget.sentence())
    budget = Picture(
        "budget",
        drawn["budget"],
        f"The best {material.objective} so far over what was spent. {said} Where the line is flat for long, more of "
        "the same would hardly help.",
        said,
    )
    yield Part("budget", "What the budget bought", budget if insight.budget.points else None, without=said)


def _importance(insight: Insight, figure: Figure) -> Part:
    told = sentence("; ".join(f"{one.objective}: {one.verdict}" for one in insight.importance))
    shares = "; ".join(
        f"{one.objective}: " + ", ".join(f"{s.key} {s.share:.2f} [{s.low:.2f}, {s.high:.2f}]" for s in one.shares)
        for one in insight.importance
    )
    caption = (
        "How much of what tells good trials from all lies in each parameter (PED-ANOVA), with 95 % intervals over "
        f"resampled trials. Where intervals overlap nothing is told apart. {told}"
    )
    shown = any(one.shares for one in insight.importance)
    picture = Picture("importance", figure, caption, shares) if shown else None
    return Part("importance", "What mattered", picture, without=told)


def _map(insight: Insight, figure: Figure | None) -> Part:
    found, heading = insight.map, "Two parameters together"
    if found is None or figure is None:
        return Part("map", heading, without="No map: it takes two parameters that are searched in ranges.")
    if not found.points:
        return Part("map", heading, without=sentence(found.note))
    surface = "; behind them a smooth surface, pale where it is unsure" if found.surface else ""
    caption = (
        f"Each trial where its values lie, coloured by {found.objective}{surface}. A star is where the search would go "
        f"next. Other parameters differ between the trials and are noise here. {sentence(found.note)}"
    )
    says = f"{found.objective} over {found.x_key} and {found.y_key}: {found.note}"
    return Part("map", heading, Picture("map", figure, caption, says, paper=True))


def sentence(text: str) -> str:
    """With a capital and a full stop; names and symbols that begin it stay as they are."""
    first = text.split(" ", 1)[0]
    return (text[:1].upper() + text[1:] if first.isascii() and first.isalpha() and first.islower() else text) + "."
