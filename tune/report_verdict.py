"""The first thing that a report says: what was asked, who won and how sure that is, and what became of the seat.

Words and tables alone; every number stands in the summary or in a job's result.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from phasegpt.metrics.declared import GUARDS
from phasegpt.statistics import Gain
from tune.console import number, short_name
from tune.finalists import OWN, violations
from tune.jobs import trial_name
from tune.report_data import Material
from tune.report_page import Column, Row, joined, paragraph, rendered, table, tiles

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
GOOD, BAD = "good", "bad"

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
        return _of_arms(material, summary)
    if summary["winner"] is None:
        places = material.request.places
        return rendered(
            VERDICT, tone=BAD, strong="No trial came to a result", lines=[f"The log tells why: {places.log}"]
        )
    best, (said, _, rest) = material.finalists[0], summary["verdict"].partition(": ")
    gain = _gain(best["over_defaults"])
    params = summary["winner"]["params"]
    values = ", ".join(f"{short_name(key)} = {number(params[key])}" for key in _keys(material) if key in params)
    lines = [f"{summary['winner']['trial']}: {values}", rest, SO_WHAT[gain.word] if gain else "", _seat(summary)]
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
    own, untuned = _gain(best["over_defaults"]), _gain(best["over_baseline"])
    span = best["interval"]
    shown = [
        (f"{material.objective} of the winner", number(best["mean"]), f"95 % interval {_span(span)}" if span else ""),
        ("over the config's own values", signed(own.mean), f"{_signed_span(own)}: {own.word}") if own else None,
        ("over the untuned model", signed(untuned.mean), f"{_signed_span(untuned)}: {untuned.word}")
        if untuned
        else None,
        ("P(best of the finalists)", f"{best['p_best']:.2f}", "over new prompts and new runs")
        if best.get("p_best") is not None
        else None,
    ]
    return [tile for tile in shown if tile is not None]


def _seat(summary: Mapping[str, Any]) -> str:
    champion = summary["champion"]
    if not champion:
        return ""
    version = "" if champion.get("version") is None else f" version {champion['version']}"
    seat = "is now champion" if champion.get("promoted") else "was not promoted"
    return f"Champion's seat: {champion.get('model')}{version} {seat}: {champion.get('reason')}"


def _gain(stored: Mapping[str, Any] | None) -> Gain | None:
    return Gain.from_dict(stored) if stored else None


def signed(value: float) -> str:
    """Three decimals with a sign, as gains are told on the terminal."""
    return f"{value:+.3f}"


def _span(span: Sequence[float]) -> str:
    return f"[{number(span[0])}, {number(span[1])}]"


def _signed_span(gain: Gain) -> str:
    return f"[{signed(gain.low)}, {signed(gain.high)}]"


def finalists(material: Material) -> Markup:
    """The finalists' evidence, and below it what they must keep."""
    if not material.finalists:
        return paragraph("No finals have come to a result yet.", "soft")
    return joined(_evidence(material), _kept(material))


def _evidence(material: Material) -> Markup:
    keys = _keys(material)
    seeds = list(dict.fromkeys(seed for found in material.finalists for seed in found["seeds"]))
    columns = [
        Column("finalist", left=True), *(Column(short_name(key)) for key in keys),
        *(Column(f"seed {seed}") for seed in seeds), Column("mean"), Column("95 % interval"),
        Column("gain over the config's own"), Column("win rate"), Column("gain over the untuned"), Column("P(best)"),
    ]  # fmt: skip
    rows = []
    for found in material.finalists:
        runs = {run.seed: run.metrics for run in material.finals.get(found["trial"], ())}
        own, untuned = _gain(found["over_defaults"]), _gain(found["over_baseline"])
        cells = [
            _name(found), *(cell(found["params"].get(key)) for key in keys),
            *(cell(runs.get(seed, {}).get(material.objective)) for seed in seeds), cell(found["mean"]),
            _span(found["interval"]) if found["interval"] else "–", _told(own),
            f"{own.wins.rate:.2f} [{own.wins.low:.2f}, {own.wins.high:.2f}]" if own and own.wins else "–",
            _told(untuned), cell(found.get("p_best")),
        ]  # fmt: skip
        rows.append(Row(cells, mark(material, found["trial"])))
    said = f"{material.objective} on the final half of the prompts; gains are paired by prompt, hold for all together"
    return table(columns, rows, said)


def _keys(material: Material) -> list[str]:
    """The keys of the finalists' values, the searched ones in their order first."""
    return list(dict.fromkeys((*material.search.parameters, *(k for f in material.finalists for k in f["params"]))))


def _kept(material: Material) -> Markup:
    """Objectives, constraints and guards of the finalists beside the untuned model's."""
    summary, search = material.summary or {}, material.search
    untuned = (summary.get("baseline_final") or {}).get("metrics", {})
    every = [found["metrics"] for found in material.finalists]
    names = [*search.objectives, *search.constraints, *GUARDS]
    shown = [name for name in dict.fromkeys(names) if any(name in metrics for metrics in every)]
    titles = [f"{name} {search.constraints[name]}" if name in search.constraints else name for name in shown]
    rows = [Row(["untuned model", *(cell(untuned.get(name)) for name in shown)])] if untuned else []
    for found in material.finalists:
        broken = {name for name, v in violations(search, found["metrics"], untuned).items() if v > 0}
        cells = [_judged(found["metrics"].get(n), n in search.constraints, n in broken) for n in shown]
        rows.append(Row([_name(found), *cells], mark(material, found["trial"])))
    said = "Means over the seeds. A constraint that is kept has a ✓; guards tell broken answers, whatever their score"
    return table([Column("", left=True), *map(Column, titles)], rows, said)


def _judged(value: Any, bound: bool, broken: bool) -> str | Markup:
    """A value, marked where a constraint speaks of it."""
    if not bound:
        return cell(value)
    return rendered('{{ v }} <span class="{{ tone }}">{{ sign }}</span>', v=cell(value), tone=BAD if broken else GOOD,
                    sign="✗ broken" if broken else "✓")  # fmt: skip


def _told(gain: Gain | None) -> str:
    return "–" if gain is None else f"{signed(gain.mean)} {_signed_span(gain)}"


def _name(found: Mapping[str, Any]) -> str:
    return f"{found['trial']}{' (config’s own)' if found['trial'] == trial_name(OWN) else ''}"


def mark(material: Material, name: str) -> str:
    """How a table sets a trial off."""
    return "winner" if name == material.winner else "own" if name == trial_name(OWN) else ""


def cell(value: Any) -> str:
    """A value as a table has it; a dash where there is none."""
    return "–" if value is None else number(value)


def _of_arms(material: Material, summary: Mapping[str, Any]) -> Markup:
    """The arms at equal steps and at equal KL, and which of them are told from the first."""
    steps = summary["equal_steps"]
    told = [(arm["arm"], Gain.from_dict(arm["over_first"]).word) for arm in steps if arm["over_first"]]
    by_word = {word: [name for name, said in told if said == word] for word in SO_WHAT}
    lines = [f"{word}: {', '.join(names)}" for word, names in by_word.items() if names]
    strong = f"{len(steps)} arms against {steps[0]['arm']}, at equal steps ({summary['step']})"
    parts = [
        rendered(VERDICT, tone="", strong=strong, lines=lines or ["No interval: fewer than two prompts or pairs."])
    ]
    parts.append(_arms(steps, f"{summary['metric']} at equal steps ({summary['step']})"))
    if summary["kl"] is not None:
        parts.append(
            _arms(summary["equal_kl"], f"{summary['metric']} at equal KL ({number(summary['kl'])} nats a token)")
        )
    return joined(*parts)


def _arms(arms: Sequence[Mapping[str, Any]], said: str) -> Markup:
    numbers = ("seeds", "mean", "95 % interval", "KL", "gain over the first", "P(best)")
    columns = [Column("arm", left=True), *map(Column, numbers), Column("that is", left=True)]
    rows = []
    for arm in arms:
        gain = _gain(arm["over_first"])
        rows.append(Row([
            arm["arm"], cell(arm["seeds"]), cell(arm["mean"]), _span(arm["interval"]) if arm["interval"] else "–",
            cell(arm["kl_divergence"]), _told(gain), cell(arm["p_best"]), gain.word if gain else "–",
        ]))  # fmt: skip
    return table(columns, rows, said)
