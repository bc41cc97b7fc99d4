"""The numbers of a data file: rows in each stratum, lengths, and how much shortcuts tell; as text and as JSON."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from phasegpt.data_checks import Material, Rules
from phasegpt.data_report import notes_on, scan_any
from phasegpt.pairs import STRATA
from phasegpt.shortcuts import Auc, length_auc, marker_aucs, words


def data_statistics(source: Path | str, rules: Rules | None = None) -> dict[str, Any]:
    """The numbers of a file without errors.

    Lengths are mean, least and most; an AUC is the chance that a chosen answer scores above a rejected one, None where
    there is nothing to compare. Raises PairsError with every problem.
    """
    scan, material = scan_any(source, rules or Rules())
    rows = scan.sound(source)
    return {
        "rows": scan.total,
        "prompts": len({row.prompt for row in rows}),
        "strata": {key: _counts(material, key) for key in STRATA},
        "words": _words(material),
        "tokens": _tokens(material),
        "length_auc": _value(length_auc(material.answers)),
        "marker_auc": {name: _value(found) for name, found in marker_aucs(material.sampled_answers).items()},
        "notes": list(notes_on(material)),
    }


def _counts(material: Material, key: str) -> dict[str, int]:
    return dict(Counter(str(value) for row in material.rows if (value := getattr(row, key)) is not None))


def _words(material: Material) -> dict[str, dict[str, float]]:
    by_field = {"prompt": [words(row.prompt) for row in material.rows]}
    for answer in material.answers:
        by_field.setdefault(answer.name, []).append(words(answer.text))
    return {name: _spread(lengths) for name, lengths in by_field.items() if lengths}


def _tokens(material: Material) -> dict[str, dict[str, float]]:
    """Of the sample, template included; `longest` is a prompt with its longest answer."""
    by_field: dict[str, list[int]] = {}
    longest: dict[int, int] = {}
    prompts = {row.line: material.counter.prompt(row.prompt) for row in material.sample}
    for answer in material.sampled_answers:
        count = material.counter.completion(answer.prompt, answer.text)
        by_field.setdefault(answer.name, []).append(count)
        longest[answer.line] = max(longest.get(answer.line, 0), prompts[answer.line] + count)
    by_field |= {"prompt": list(prompts.values()), "longest": list(longest.values())}
    return {name: _spread(lengths) for name, lengths in by_field.items() if lengths}


def _spread(lengths: Sequence[int]) -> dict[str, float]:
    return {"mean": round(fmean(lengths), 1), "least": min(lengths), "most": max(lengths)}


def _value(found: Auc | None) -> float | None:
    return None if found is None else round(found.value, 4)


def as_text(numbers: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [f"rows     {numbers['rows']}, of {numbers['prompts']} prompts"]
    lines += [f"{key:12} {_listed(counts)}" for key, counts in numbers["strata"].items() if counts]
    for unit in ("words", "tokens"):
        for name, spread in numbers[unit].items():
            lines.append(f"{unit:8} {name:11} {spread['mean']:7.1f} mean, {spread['least']} to {spread['most']}")
    if numbers["length_auc"] is not None:
        lines.append(f"length alone tells chosen from rejected with an AUC of {numbers['length_auc']:.2f}")
        lines.append(f"marker words alone: {_listed({k: f'{v:.2f}' for k, v in numbers['marker_auc'].items()})}")
    return "\n".join([*lines, *(f"note: {note}" for note in numbers["notes"])])


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
