"""The report that has several searches side by side, put together: its tables, pictures and files."""

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from phasegpt.config_io import write_resolved
from phasegpt.files import write_text
from tune.comparison import Entry, first_of
from tune.comparison_pictures import chosen, courses, winners, winning_value
from tune.console import duration, number, short_name
from tune.report_cost import day
from tune.report_finalists import GOOD, cell, span, told
from tune.report_origin import COMMANDS, ITEMS
from tune.report_page import Column, Row, joined, page, paragraph, rendered, table
from tune.report_sections import PAGE, Part
from tune.report_svg import report_style, save_png
from tune.report_verdict import METHODS, VERDICT, seat, state
from tune.scaling_view import differ, scaling_picture, scaling_table, size_of
from tune.shapes import shape_of


def write_comparison(entries: Sequence[Entry], folder: Path, *, scaling: bool = False) -> Path:
    """Write the page, its pictures as PNGs and each search's config to `folder`; returns the page's path.

    `scaling` asks for the view over sizes also where the models are of one size.
    """
    with report_style():
        parts = list(_parts(entries, scaling=scaling or differ(entries)))
        save_png([part.picture for part in parts if part.picture], folder)
        sections = [part.section() for part in parts]
    for entry in entries:
        write_resolved(entry.material.request.config, folder / config_file(entry))
    labels = ", ".join(entry.label for entry in entries)
    foot = f"Made by python -m tune.report --compare on {day(time.time())} from the files of {labels}."
    write_text(folder / PAGE, page(" against ".join(e.label for e in entries), _lead(entries), sections, foot))
    return folder / PAGE


def config_file(entry: Entry) -> str:
    """The name of a search's config beside the page."""
    return f"{entry.label.replace('/', '-')}.yaml"


def _lead(entries: Sequence[Entry]) -> str:
    tracks = ", ".join(dict.fromkeys(entry.material.request.track for entry in entries))
    models = ", ".join(dict.fromkeys(entry.material.request.config.model.base_model for entry in entries))
    objectives = ", ".join(dict.fromkeys(entry.material.objective for entry in entries))
    return f"{len(entries)} searches side by side · tracks: {tracks} · models: {models} · first objective: {objectives}"


def _parts(entries: Sequence[Entry], *, scaling: bool) -> Iterator[Part]:
    yield Part("verdict", "Verdict", body=_verdict(entries))
    yield Part("winners", "The winners", winners(entries), joined(_evidence(entries), _won(entries), _seats(entries)))
    yield Part("courses", "The way there", courses(entries), without="No trial has come to a result yet.")
    yield Part("chosen", "The values chosen", chosen(entries), _values(entries))
    yield Part("budget", "What each cost", body=_budget(entries))
    if scaling:
        sizes = [size_of(entry) for entry in entries]
        yield Part("scaling", "Over the size of the model", scaling_picture(sizes), scaling_table(sizes))
    yield Part("origin", "How to reproduce", body=_origin(entries))
    yield Part("limits", "Limits", body=_limits())


def _verdict(entries: Sequence[Entry]) -> Markup:
    """Who is told from the first search's winner, and who cannot be compared."""
    first = first_of(entries)
    if first is None:
        lines = [f"{entry.label}: {state(entry.material)}" for entry in entries]
        return rendered(VERDICT, tone="", strong="No search has a winner yet", lines=lines)
    lines, better = [], []
    for entry in entries:
        found = entry.found
        if found is None:
            lines.append(f"{entry.label} has no winner ({state(entry.material)}).")
        elif found.gain:
            lines.append(f"{entry.label} against {first.label}: {found.gain.word}, {found.gain}.")
            better += [entry.label] if found.gain.word == "better" else []
        elif found.hindrance:
            lines.append(f"{entry.label} is not compared with {first.label}: {found.hindrance}.")
        lines += [f"{entry.label}: {found.remark}."] if found and found.gain and found.remark else []
    strong = _strong(entries, first, better)
    return rendered(VERDICT, tone=GOOD if better else "", strong=strong, lines=lines)


def _strong(entries: Sequence[Entry], first: Entry, better: Sequence[str]) -> str:
    gains = [entry.found.gain for entry in entries if entry.found and entry.found.gain]
    if not gains:
        return f"Nothing can be compared with {first.label}"
    if better:
        return f"Better than {first.label}: {', '.join(better)}"
    if all(gain.word == "worse" for gain in gains):
        return f"{first.label} is better than all that it is compared with"
    return f"Nothing is told to be better than {first.label}"


def _evidence(entries: Sequence[Entry]) -> Markup:
    first = first_of(entries)
    against = f"gain over {first.label}" if first else "gain over the first"
    titles = ("mean", "95 % interval", "gain over its untuned model", against, "P(best)")
    columns = [Column("search", left=True), *map(Column, titles), Column("that is", left=True, text=True)]
    rows = [Row([entry.label, *_figures(entry)]) for entry in entries]
    return table(columns, rows, "The first objective on the final half of the prompts; gains are paired by prompt")


def _figures(entry: Entry) -> list[str]:
    """What the winner of a search came to, as the cells of a row."""
    found = entry.found
    if found is None:
        return [*["–"] * 5, f"no winner ({state(entry.material)})"]
    word = found.gain.word if found.gain else f"not compared: {found.hindrance}" if found.hindrance else "the first"
    return [
        cell(found.mean),
        span((found.interval.low, found.interval.high)) if found.interval else "–",
        told(found.over_untuned),
        told(found.gain),
        cell(found.p_best),
        f"{word} ({found.remark})" if found.gain and found.remark else word,
    ]


def _won(entries: Sequence[Entry]) -> Markup:
    titles = ("search", "track", "method", "model")
    columns = [*(Column(title, left=True) for title in titles), Column("parameters"), Column("winner", left=True),
               Column("in its own search", left=True, text=True)]  # fmt: skip
    rows = []
    for entry in entries:
        request, shape = entry.material.request, shape_of(entry.material.request.config)
        method = request.config.training.method
        rows.append(Row([
            entry.label, request.track, METHODS.get(method, method), request.config.model.base_model,
            f"{shape.size:,}" if shape else "–", entry.found.winner if entry.found else "–",
            entry.found.verdict if entry.found else state(entry.material),
        ]))  # fmt: skip
    return table(columns, rows, "What won in each")


def _seats(entries: Sequence[Entry]) -> Markup:
    """What became of each champion's seat."""
    said = [(entry.label, seat(entry.material.summary)) for entry in entries if entry.material.summary]
    lines = [f"{label}: {text}" for label, text in said if text]
    return rendered(ITEMS, lines=lines) if lines else paragraph("No search has asked for a champion's seat.", "soft")


def _values(entries: Sequence[Entry]) -> Markup:
    """The winner's value of each parameter that any search has looked for."""
    keys = dict.fromkeys(key for entry in entries for key in entry.material.search.parameters)
    columns = [Column("parameter", left=True), *(Column(entry.label) for entry in entries)]
    return table(columns, [Row([short_name(key), *(_value(entry, key) for entry in entries)]) for key in keys])


def _value(entry: Entry, key: str) -> str:
    value = winning_value(entry, key)
    if value is None:
        return "–"
    return number(value) + ("" if key in entry.material.search.parameters else " (fixed)")


def _budget(entries: Sequence[Entry]) -> Markup:
    titles = ("trials", "stopped", "finals", "steps", "from first job to last", "work of all jobs", "tokens", "memory")
    rows = []
    for entry in entries:
        found, material = entry.cost, entry.material
        rows.append(Row([
            entry.label, str(len(material.trials)), str(found.stopped), str(sum(map(len, material.finals.values()))),
            f"{found.steps:,}", duration(found.wall) if material.pieces else "–",
            duration(found.busy) if material.pieces else "–", f"{found.tokens:,.0f}" if found.tokens else "–",
            f"{found.memory:.2f} GB" if found.memory else "–", material.tags.get("machine", "–"),
        ]))  # fmt: skip
    columns = [Column("search", left=True), *map(Column, titles), Column("machine", left=True)]
    return table(columns, rows, "Times are comparable on one machine alone; memory is the most of one worker")


def _origin(entries: Sequence[Entry]) -> Markup:
    commands = []
    for entry in entries:
        request = entry.material.request
        again = ["python", "-m", "tune.search", "--track", request.track, "--config", config_file(entry)]
        commands.append(shlex.join([*again, "--name", f"{request.name}-again"]))
    names = [f"{entry.material.request.track}/{entry.material.request.name}" for entry in entries]
    commands.append(shlex.join(["python", "-m", "tune.report", "--compare", *names]))
    titles = ("search", "commit", "scorer", "data", "profile")
    rows = [
        Row([e.label, *(e.material.tags.get(key, "–") for key in ("git_commit", "scorer", "data_hash")),
             e.material.request.profile or "none"])
        for e in entries
    ]  # fmt: skip
    said = "The configs beside this page have every value. The report of each search alone has the rest."
    return joined(
        paragraph(said), rendered(COMMANDS, lines=commands), table([Column(title, left=True) for title in titles], rows)
    )


def _limits() -> Markup:
    return rendered(ITEMS, lines=[
        "A 95 % interval is for the mean over new prompts of the same kind and new runs of the winner's recipe. Gains "
        "over the first search hold for all searches together, since the best is picked afterwards; P(best) is on the "
        "prompts that all who are compared have answered.",
        "Each winner is the best of its search's finalists on the very scores that stand here, so a search with more "
        "finalists had more chances: its figure is a little too good.",
        "Searches may differ in budget, method, data and model at once. A gain says that one is better, not why: for "
        "that, change one thing (--ablate).",
        "Only the first objective is compared. Scores of answers are proxies: read the answers in the reports of each.",
    ])  # fmt: skip
