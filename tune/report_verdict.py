"""The first thing that a report says: what was asked, who won and how sure that is, and what became of the seat."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tune.ablation import where_compared
from tune.console import number, short_name
from tune.report_data import Material
from tune.report_finalists import BAD, GOOD, arms_table, gain_of, shown_keys, signed, signed_span, span
from tune.report_page import joined, rendered, tiles

METHODS = {
    "dpo": "DPO",
    "kto": "DPO + λ·KL",
    "kto_unpaired": "KTO on unpaired labels",
    "lora": "supervised fine-tuning",
}
SO_WHAT = {
    "better": "The whole interval of the gain lies above zero: these values are better than the config's own.",
    "worse": "The whole interval of the gain lies below zero: the config's own values are better.",
    "not distinguishable": "The interval of the gain has zero in it: what was measured cannot tell these values from "
    "the config's own. More seeds and more prompts would narrow it.",
}

VERDICT = """<div class="verdict {{ tone }}"><p><strong>{{ strong }}</strong></p>
{%- for line in lines %}<p>{{ line }}</p>{% endfor %}</div>"""


def title(material: Material) -> str:
    """What was asked, in one line."""
    objectives = " against ".join(material.search.objectives)
    if material.request.arms:
        return f"{material.request.name}: {objectives} of {len(material.request.arms)} arms side by side"
    keys = [short_name(key) for key in material.search.parameters]
    return f"{material.request.name}: the best {objectives} over {_listed(keys)}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def lead(material: Material) -> str:
    """The same in more words: track, method, model, size, day and state."""
    request, search = material.request, material.search
    method = METHODS.get(request.config.training.method, request.config.training.method)
    size = (
        f"{len(request.arms)} arms on {search.finalists.seeds} seeds each"
        if request.arms
        else f"{search.trials} trials by {search.sampler}, {search.finalists.count} finalists on "
        f"{search.finalists.seeds} fresh seeds each"
    )
    day = time.strftime("%-d %B %Y", time.localtime(material.begun or material.made))
    profile = f", profile {request.profile}" if request.profile else ""
    model = f"{method} on {request.config.model.base_model}{profile}"
    return f"Track {request.track} · {model} · {size} · {day}, {state(material)}"


def state(material: Material) -> str:
    """Where the search stands, in a word."""
    if material.running:
        return "running"
    return "not begun" if material.begun is None else "ended" if material.summary else "stopped before its end"


def verdict(material: Material) -> Markup:
    """The sentence, the figures that carry it, and the champion's seat."""
    summary = material.summary
    if summary is None:
        return _unfinished(material)
    if material.request.arms:
        return _of_arms(summary)
    if summary["winner"] is None:
        places = material.request.places
        return rendered(
            VERDICT, tone=BAD, strong="No trial came to a result", lines=[f"The log tells why: {places.log}"]
        )
    best, (said, _, rest) = material.finalists[0], summary["verdict"].partition(": ")
    gain = gain_of(best["over_defaults"])
    params = summary["winner"]["params"]
    values = ", ".join(f"{short_name(key)} = {number(params[key])}" for key in shown_keys(material) if key in params)
    lines = [f"{summary['winner']['trial']}: {values}", rest, SO_WHAT[gain.word] if gain else "", seat(summary)]
    lines += ["The search runs again: this is what it came to before."] if material.running else []
    tone = "" if gain is None else {"better": GOOD, "worse": BAD}.get(gain.word, "")
    return joined(
        rendered(VERDICT, tone=tone, strong=said[:1].upper() + said[1:], lines=[line for line in lines if line]),
        tiles(_tiles(material, best)),
    )


def _unfinished(material: Material) -> Markup:
    """What can be said before the last word."""
    request = material.request
    ended = sum(trial.record.state != "running" for trial in material.trials)
    finals = sum(map(len, material.finals.values()))
    lines = [f"{ended} of {len(material.trials)} trials that were begun have ended, {finals} finals are done."]
    if material.insight is not None:
        lines.append(f"So far: {material.insight.budget.sentence()}.")
    if not material.running:
        lines.append(f"It goes on with: python -m tune.search --track {request.track} --resume {request.name}")
    lines.append("Nothing is confirmed before the finals: the best of several trials is in part the luckiest.")
    return rendered(VERDICT, tone="", strong=f"No verdict yet ({state(material)})", lines=lines)


def _tiles(material: Material, best: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Mean, gains and chances of the winner."""
    own, untuned = gain_of(best["over_defaults"]), gain_of(best["over_baseline"])
    ends = best["interval"]
    shown = [
        (f"{material.objective} of the winner", number(best["mean"]), f"95 % interval {span(ends)}" if ends else ""),
        ("over the config's own values", signed(own.mean), f"{signed_span(own)}: {own.word}") if own else None,
        ("over the untuned model", signed(untuned.mean), f"{signed_span(untuned)}: {untuned.word}")
        if untuned
        else None,
        ("P(best of the finalists)", f"{best['p_best']:.2f}", "over new prompts and new runs")
        if best.get("p_best") is not None
        else None,
    ]
    return [tile for tile in shown if tile is not None]


def seat(summary: Mapping[str, Any]) -> str:
    """What became of the champion's seat; empty where nobody asked."""
    champion = summary["champion"]
    if not champion:
        return ""
    version = "" if champion.get("version") is None else f" version {champion['version']}"
    seat = "is now champion" if champion.get("promoted") else "was not promoted"
    return f"Champion's seat: {champion.get('model')}{version} {seat}: {champion.get('reason')}"


def _of_arms(summary: Mapping[str, Any]) -> Markup:
    """The arms at equal steps and at equal KL, and which of them are told from the first."""
    steps = summary["equal_steps"]
    told = [(arm["arm"], gain.word) for arm in steps if (gain := gain_of(arm["over_first"]))]
    by_word = {word: [name for name, said in told if said == word] for word in SO_WHAT}
    lines = [f"{word}: {', '.join(names)}" for word, names in by_word.items() if names]
    where = where_compared(summary["step"])
    against = f" against {steps[0]['arm']}" if told else ""
    strong = f"{len(steps)} arms{against}, {where}"
    left_out = summary.get("left_out", ())
    lines += [f"left out, without a result on every seed: {', '.join(left_out)}"] if left_out else []
    parts = [
        rendered(VERDICT, tone="", strong=strong, lines=lines or ["No interval: fewer than two prompts or pairs."])
    ]
    parts.append(arms_table(steps, f"{summary['metric']} {where}"))
    if summary["kl"] is not None:
        parts.append(
            arms_table(summary["equal_kl"], f"{summary['metric']} at equal KL ({number(summary['kl'])} nats a token)")
        )
    return joined(*parts)
