"""The evidence as tables: finalists with their gains, what they must keep, and the arms of an ablation.

Every number stands in the summary or in a job's result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from phasegpt.metrics.declared import GUARDS
from phasegpt.statistics import Gain
from tune.console import number, short_name
from tune.finalists import OWN, violations
from tune.jobs import trial_name
from tune.report_data import Material
from tune.report_page import Column, Row, joined, paragraph, rendered, table

GOOD, BAD = "good", "bad"


def gain_of(stored: Mapping[str, Any] | None) -> Gain | None:
    """A gain as a summary keeps it."""
    return Gain.from_dict(stored) if stored else None


def signed(value: float) -> str:
    """Three decimals with a sign, as gains are told on the terminal."""
    return f"{value:+.3f}"


def span(ends: Sequence[float]) -> str:
    """Both ends of an interval."""
    return f"[{number(ends[0])}, {number(ends[1])}]"


def signed_span(gain: Gain) -> str:
    """Both ends of a gain's interval."""
    return f"[{signed(gain.low)}, {signed(gain.high)}]"


def finalists(material: Material) -> Markup:
    """The finalists' evidence, and below it what they must keep."""
    if not material.finalists:
        return paragraph("No finals have come to a result yet.", "soft")
    return joined(_evidence(material), _kept(material))


def _evidence(material: Material) -> Markup:
    keys = shown_keys(material)
    seeds = list(dict.fromkeys(seed for found in material.finalists for seed in found["seeds"]))
    columns = [
        Column("finalist", left=True), *(Column(short_name(key)) for key in keys),
        *(Column(f"seed {seed}") for seed in seeds), Column("mean"), Column("95 % interval"),
        Column("gain over the config's own"), Column("win rate"), Column("gain over the untuned"), Column("P(best)"),
    ]  # fmt: skip
    rows = []
    for found in material.finalists:
        runs = {run.seed: run.metrics for run in material.finals.get(found["trial"], ())}
        own, untuned = gain_of(found["over_defaults"]), gain_of(found["over_baseline"])
        cells = [
            _name(found), *(cell(found["params"].get(key)) for key in keys),
            *(cell(runs.get(seed, {}).get(material.objective)) for seed in seeds), cell(found["mean"]),
            span(found["interval"]) if found["interval"] else "–", told(own),
            f"{own.wins.rate:.2f} [{own.wins.low:.2f}, {own.wins.high:.2f}]" if own and own.wins else "–",
            told(untuned), cell(found.get("p_best")),
        ]  # fmt: skip
        rows.append(Row(cells, mark(material, found["trial"])))
    said = f"{material.objective} on the final half of the prompts; gains are paired by prompt, hold for all together"
    return table(columns, rows, said)


def shown_keys(material: Material) -> list[str]:
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


def told(gain: Gain | None) -> str:
    """A gain as a table has it; a dash where there is none."""
    return "–" if gain is None else f"{signed(gain.mean)} {signed_span(gain)}"


def _name(found: Mapping[str, Any]) -> str:
    return f"{found['trial']}{' (config’s own)' if found['trial'] == trial_name(OWN) else ''}"


def mark(material: Material, name: str) -> str:
    """How a table sets a trial off."""
    return "winner" if name == material.winner else "own" if name == trial_name(OWN) else ""


def cell(value: Any) -> str:
    """A value as a table has it; a dash where there is none."""
    return "–" if value is None else number(value)


def arms_table(arms: Sequence[Mapping[str, Any]], said: str) -> Markup:
    """The arms of an ablation where they are compared."""
    numbers = ("seeds", "mean", "95 % interval", "KL", "gain over the first", "P(best)")
    columns = [Column("arm", left=True), *map(Column, numbers), Column("that is", left=True)]
    rows = []
    for arm in arms:
        gain = gain_of(arm["over_first"])
        rows.append(Row([
            arm["arm"], cell(arm["seeds"]), cell(arm["mean"]), span(arm["interval"]) if arm["interval"] else "–",
            cell(arm["kl_divergence"]), told(gain), cell(arm["p_best"]), gain.word if gain else "–",
        ]))  # fmt: skip
    return table(columns, rows, said)
