"""What people read of a run in MLflow: its name in tables and legends, and the description on its page, in Markdown.

Texts alone: keys, by which runs are found, are made elsewhere.
"""

import shlex
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from phasegpt.metrics.declared import GUARDS
from tune.console import number, short_name
from tune.jobs import Job
from tune.request import Request
from tune.views import view_name

NOTE = "mlflow.note.content"
"""The tag that MLflow's UI shows as a run's description."""
SEED = "experiment.seed"
NAME_LENGTH, VALUE_LENGTH = 100, 24
ORIGINS = {"config": "the config's own values", "sampler": "drawn by the sampler"}


def as_block(text: str) -> str:
    """A text for the terminal as it is."""
    return f"```\n{text}\n```"


def run_name(job: Job) -> str:
    """A job's name with its values, so that legends tell trials apart; a final has its seed in its name."""
    return shorten(" ".join([job.name, *_settings(job.values, "=")]), NAME_LENGTH, placeholder=" …")


def _settings(values: Mapping[str, Any], equals: str) -> list[str]:
    said = {short_name(key): number(value) for key, value in values.items() if key != SEED}
    return [f"{name}{equals}{_cut(value)}" for name, value in said.items()]


def _cut(value: str) -> str:
    """A value that is too long without its end; of a single word, such as a path, the end tells most."""
    if " " in value or len(value) <= VALUE_LENGTH:
        return shorten(value, VALUE_LENGTH, placeholder="…")
    return f"…{value[1 - VALUE_LENGTH :]}"


def job_note(job: Job, state: str, why: str = "") -> str:
    """A job's description: what it is and with which values, and how it ended."""
    kinds = {
        "baseline": f"What gains are measured from: {job.origin}",
        "trial": f"Trial {job.number}, {ORIGINS.get(job.origin, job.origin)}",
        "final": f"{job.origin[:1].upper()}{job.origin[1:]} on seed {job.values.get(SEED)}",
    }
    values = ", ".join(_settings(job.values, " = "))
    said = [f"{kinds[job.kind]}{f': {values}' if values else ''}", f"judged on the {job.half} half of the prompts"]
    return "; ".join([*said, f"{state}{f' ({why})' if why else ''}"]) + "."


def search_note(request: Request, state: str) -> str:
    """A search's description: what it looks for, its `state` (a sentence, or what it found), and what to type."""
    search = request.config.search
    wanted = " and ".join(f"{name} ({way})" for name, way in search.objectives.items())
    over = ", ".join(map(short_name, search.parameters)) or f"{len(request.arms)} arms, side by side"
    what = f"Track {request.track}, {request.config.training.method}: {wanted} over {over}."
    ways = [] if request.arms else [f"- Its trials side by side: Training runs, Views, `{view_name(request.name)}`"]
    ways += [f"- {said}: `python -m {shlex.join(words)}`" for said, words in _commands(request).items()]
    return "\n\n".join([what, state, "\n".join(ways)])


def _commands(request: Request) -> dict[str, list[str]]:
    track = ["--track", request.track]
    commands = {"Go on, where it was cut": ["tune.search", *track, "--resume", request.name]}
    if request.arms:
        return commands
    again = ["tune.search", *track, "--profile", "none", "--config", "config.yaml"]
    return commands | {
        "Which parameters mattered": ["tune.insight", request.name],
        "The champion": ["tune.registry", "show", *track],
        "The same again, with config/config.yaml of the artifacts": again,
    }


def found_text(report: Mapping[str, Any]) -> str:
    """What a search came to by its summary: winner, verdict, finalists, seat."""
    winner, champion = report["winner"], report["champion"]
    if winner is None:
        return f"**No winner**: {report['verdict']}."
    values = ", ".join(_settings(winner["params"], " = "))
    lines = [f"**Winner: {winner['trial']}** with {values}. {report['verdict']}", _table(report)]
    if champion:
        seat = "is now champion" if champion["promoted"] else "was not promoted"
        lines.append(f"**{champion['model']}** version {champion['version']} {seat}: {champion['reason']}")
    return "\n\n".join(lines)


def _table(report: Mapping[str, Any]) -> str:
    """The finalists beside the untuned model, on the final half."""
    rows = {"untuned model": report["baseline_final"]["metrics"]} if report["baseline_final"] else {}
    rows |= {finalist["trial"]: finalist["metrics"] for finalist in report["finalists"]}
    wanted = dict.fromkeys((*report["objectives"], *GUARDS))
    names = [name for name in wanted if any(name in metrics for metrics in rows.values())]
    lines = [("final half", *names), ("---", *("---:" for _ in names))]
    lines += [_row(who, metrics, names) for who, metrics in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(who: str, metrics: Mapping[str, float], names: Sequence[str]) -> tuple[str, ...]:
    return (who, *(number(metrics[name]) if name in metrics else "-" for name in names))
