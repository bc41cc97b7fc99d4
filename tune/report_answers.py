"""What the models wrote, side by side: the untuned one, the config's own values, the winner; or the arms.

A score is a number; whether an answer deserves it is for who reads it. Which prompts are shown first is drawn by the
search's seed, so that nobody picked them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from phasegpt.metrics.declared import GUARDS
from tune.console import number
from tune.finalists import OWN
from tune.jobs import arm_name, trial_name
from tune.report_data import Material, Run
from tune.report_page import folded, joined, paragraph, rendered

SHOWN = 3

ANSWERS = """
{%- for prompt in prompts %}
<h3>{{ prompt.text }}</h3>
<div class="answers">
{%- for answer in prompt.answers %}
<div class="answer"><h4>{{ answer.title }}</h4><p>{{ answer.text }}</p><p class="soft">{{ answer.scores }}</p></div>
{%- endfor %}
</div>
{%- endfor %}"""


@dataclass(frozen=True)
class Side:
    """A model that answers: its name for people, and its run."""

    title: str
    run: Run


def sides(material: Material) -> tuple[str, list[Side]]:
    """Which half of the prompts is shown and who answers: finals where there are any, else what the trials wrote."""
    own = trial_name(OWN)
    if material.request.arms:
        arms = [(arm_name(i), arm.label) for i, arm in enumerate(material.request.arms)]
        half, found = "final", [_final(material, name, label) for name, label in arms]
    elif material.finalists:
        names = {
            own: "config's own values",
            **({material.winner: "winner"} if material.winner not in (None, own) else {}),
        }
        half, found = "final", [_final(material, name, f"{said}, {name}") for name, said in names.items()]
    else:
        best = material.insight.budget.best_trial if material.insight else None
        names = {own: "config's own values", **({trial_name(best): "best so far"} if best not in (None, OWN) else {})}
        runs = {trial.name: trial.run for trial in material.trials}
        half, found = "search", [Side(f"{said}, {n}", runs[n]) for n, said in names.items() if n in runs]
    base = [Side("untuned model", material.baselines[half])] if half in material.baselines else []
    return half, [side for side in (*base, *filter(None, found)) if side.run.answers]


def _final(material: Material, name: str, said: str) -> Side | None:
    runs = material.finals.get(name, ())
    return Side(f"{said}, seed {runs[0].seed}", runs[0]) if runs else None


def answers_section(material: Material) -> Markup:
    """A few prompts with every side's answer, all others folded away."""
    half, found = sides(material)
    if not found:
        return paragraph("No answers have been written.", "soft")
    ids = [row["id"] for row in found[0].run.answers]
    seed = material.request.config.experiment.seed
    chosen = set(random.Random(seed).sample(ids, min(SHOWN, len(ids))))  # noqa: S311 - prompts, not secrets
    prompts = [_prompt(material, found, name) for name in ids]
    first = [prompt for prompt, name in zip(prompts, ids, strict=True) if name in chosen]
    rest = [prompt for prompt, name in zip(prompts, ids, strict=True) if name not in chosen]
    said = (
        f"{len(first)} of {len(ids)} prompts of the {half} half, drawn by the search's seed ({seed}); greedy answers."
    )
    more = [folded(f"The other {len(rest)} prompts", rendered(ANSWERS, prompts=rest))] if rest else []
    return joined(paragraph(said, "soft"), rendered(ANSWERS, prompts=first), *more)


def _prompt(material: Material, found: Sequence[Side], name: str) -> Mapping[str, Any]:
    rows = [(side.title, row) for side in found for row in side.run.answers if row["id"] == name]
    scores = dict.fromkeys((*material.search.objectives, *material.request.config.evaluation.metrics, *GUARDS))
    answers = [
        {
            "title": title,
            "text": row["answer"] or "(nothing)",
            "scores": ", ".join(f"{key} {number(row[key])}" for key in scores if key in row),
        }
        for title, row in rows
    ]
    return {"text": rows[0][1]["prompt"], "answers": answers}
