"""Where a report's numbers come from and how far they carry: trials, data, how to run it again, limits."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from phasegpt.answers import preferences_of
from phasegpt.config import Config, config_hash
from phasegpt.files import read_json
from phasegpt.metrics.declared import GUARDS
from phasegpt.pairs import PairsError, pairs_hash
from tune.commands import Commands
from tune.console import number, short_name
from tune.report_cost import day
from tune.report_data import Material
from tune.report_finalists import cell, mark
from tune.report_jobs import job_seconds
from tune.report_page import Column, Row, folded, joined, paragraph, rendered, table
from tune.space_text import parameter_lines

CONFIG = "config.yaml"
ITEMS = "<ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>"
COMMANDS = "<pre>{% for line in lines %}{{ line }}\n{% endfor %}</pre>"


def trials_table(material: Material) -> Markup:
    """Every trial: its state and why, its values and what it came to."""
    if not material.trials:
        return paragraph("No trial was begun.", "soft")
    search, seconds = material.search, job_seconds(material.pieces)
    keys = list(search.parameters)
    there = {name for trial in material.trials for name in trial.record.metrics}
    names = [n for n in dict.fromkeys((*search.objectives, *search.constraints, *GUARDS)) if n in there]
    columns = [
        Column("trial", left=True), Column("state", left=True), *(Column(short_name(key)) for key in keys),
        *map(Column, names), Column("steps"), Column("seconds"), Column("origin", left=True),
        Column("why and what else", left=True, text=True),
    ]  # fmt: skip
    rows = [
        Row(
            [
                trial.name, trial.record.state, *(cell(trial.record.values.get(key)) for key in keys),
                *(cell(trial.record.metrics.get(name)) for name in names), str(trial.record.steps),
                f"{seconds[trial.name]:.1f}" if trial.name in seconds else "–", trial.record.origin,
                "; ".join((*filter(None, [trial.record.why]), *trial.record.notes)) or "–",
            ],
            mark(material, trial.name),
        )
        for trial in material.trials
    ]  # fmt: skip
    said = "One run each, on the search half of the prompts; a column sorts by its title"
    return table(columns, rows, said, sorts=True)


def data_section(material: Material) -> Markup:
    """Rows, strata and what the checks found, in words."""
    request, config = material.request, material.request.config
    kept = request.places.data_checks
    strata = _strata(config, material.tags.get("data_hash", ""))
    if not kept.is_file() and not request.data.rows:  # only looked at, and from before it was kept
        return joined(paragraph("What the checks of the data found is not known."), *strata)
    checks = read_json(kept) if kept.is_file() else request.data.as_dict()
    sizes = next((run.sizes for run in material.runs() if run.sizes), {})
    said = f"{checks['rows']} rows of {config.training.preference_dataset}"
    said += (
        f": {sizes['train']} to train on, {sizes['val']} to judge by, in a run"
        if {"train", "val"} <= sizes.keys()
        else ""
    )
    parts = [paragraph(f"{said}. {len(checks['errors'])} errors, {len(checks['warnings'])} warnings.")]
    return joined(*parts, *strata, *_warnings(checks))


def _strata(config: Config, data_hash: str) -> list[Markup]:
    """How many rows of the file of today each stratum has, and whether that is the file of `data_hash`."""
    try:
        rows = preferences_of(config)
    except PairsError:
        return [paragraph("The file cannot be read any more, so its strata are not counted.", "bad")]
    changed = "The file has changed since: what the strata count is the file of today."
    parts = [paragraph(changed, "bad")] if data_hash not in ("", pairs_hash(rows)[:16]) else []
    counts = {key: Counter(str(getattr(row, key)) for row in rows) for key in config.data.stratify_by}
    strata = [Row([key, value, str(count)]) for key, found in counts.items() for value, count in sorted(found.items())]
    return [*parts, table([Column("stratum", left=True), Column("value", left=True), Column("rows")], strata)]


def _warnings(checks: Mapping[str, Any]) -> list[Markup]:
    by_code = Counter(found["code"] for found in checks["warnings"])
    first = {found["code"]: found for found in reversed(checks["warnings"])}
    rows = [Row([code, str(count), _where(first[code])]) for code, count in by_code.items()]
    columns = [Column("warning", left=True), Column("cases"), Column("the first", left=True, text=True)]
    every = [table(columns, rows)] if rows else [paragraph("The checks warn of nothing.")]
    if len(checks["warnings"]) > len(by_code):
        every.append(folded("Every warning", rendered(ITEMS, lines=[_where(found) for found in checks["warnings"]])))
    return [*every, *([rendered(ITEMS, lines=checks["notes"])] if checks["notes"] else [])]


def _where(found: Mapping[str, Any]) -> str:
    return found["message"] if found["line"] is None else f"line {found['line']}: {found['message']}"


def origin_section(material: Material) -> Markup:
    """Commands that run the search again, and what its numbers depend on."""
    request, tags = material.request, material.tags
    again = [
        "python",
        "-m",
        "tune.search",
        "--track",
        request.track,
        "--config",
        CONFIG,
        "--name",
        f"{request.name}-again",
    ]
    again += [word for option in _ablate(material) for word in ("--ablate", option)]
    commit, dirty = tags.get("git_commit", "unknown"), tags.get("git_dirty") == "true"
    lines = [f"git checkout {commit}"] if commit != "unknown" else []
    lines += [shlex.join(again), f"python -m tune.report {request.name} --track {request.track}"]
    versions = next((run.versions for run in material.runs() if run.versions), {})
    facts = {
        "commit": commit + (", with changes that are not in it" if dirty else ""),
        "seed": str(request.config.experiment.seed),
        "profile": f"{request.profile or 'none'}, already laid on {CONFIG}",
        "config hash": tags.get("config_hash", config_hash(request.config)[:16]),
        "data hash": tags.get("data_hash", "–"),
        "scorer": tags.get("scorer", "–"),
        "machine": tags.get("machine", "not noted"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "–",
        "made": day(material.made),
    }
    rows = [Row([name, value]) for name, value in facts.items()]
    asked = [str(command) for command in Commands(request.places.folder).all()]
    return joined(
        paragraph(
            f"{CONFIG} beside this page has every value, its ranges included. The same seeds ask the same questions; a "
            "machine of another kind may round otherwise."
        ),
        rendered(COMMANDS, lines=lines),
        *([paragraph(f"Asked for while it ran: {'; '.join(asked)}.")] if asked else []),
        table([Column("what", left=True), Column("value", left=True, text=True)], rows),
        folded("What was searched", rendered(ITEMS, lines=_searched(material))),
    )


def _ablate(material: Material) -> list[str]:
    """The `--ablate` options behind the arms; the arm of unpaired KTO comes by itself."""
    values: dict[str, list[str]] = {}
    for arm in material.request.arms:
        if len(arm.values) == 1:
            [(key, value)] = arm.values.items()
            values.setdefault(key, []).append(
                json.dumps(value) if value is None or isinstance(value, bool) else str(value)
            )
    return [f"{key}={','.join(found)}" for key, found in values.items()]


def _searched(material: Material) -> Sequence[str]:
    search = material.search
    lines = [f"{name}: {'higher' if way == 'max' else 'lower'} is better" for name, way in search.objectives.items()]
    lines += [f"{name} {constraint}" for name, constraint in search.constraints.items()]
    lines += list(parameter_lines(search, material.request.own_values()))
    return [*lines, f"sampler {search.sampler}, scheduler {search.scheduler}, pick {search.pick}"]


def limits_section(material: Material) -> Markup:
    """How far the numbers carry."""
    search = material.search
    prompts = {half: len(run.answers) for half, run in material.baselines.items()}
    final = prompts.get("final", 0)
    counted = f"{final} prompts of the final half" if final else "held-out pairs"
    lines = [
        f"Finalists are judged on {counted}, each by {search.finalists.seeds} runs (seeds).",
        "A 95 % interval is for the mean over new prompts of the same kind and new runs of the same recipe; made this "
        "way, it holds that mean in about 95 of 100 searches. With few prompts or two seeds it is wide, as it must be.",
        "Gains are paired by prompt, and their intervals hold for all challengers together, since the winner is picked "
        "afterwards. Without an interval a difference says little.",
        "Trials are single runs on the search half. The best of them is in part the luckiest, and its score there is "
        "too good: only the finals confirm.",
        f"The first objective ({material.objective}) decides, constraints must hold; nothing else was judged. Scores "
        "of answers are proxies: read the answers.",
    ]
    if not final and material.summary is not None:
        lines.append(
            f"No answers were scored; {number(len(material.finalists))} finalists are compared by pairs alone."
        )
    return rendered(ITEMS, lines=lines)
