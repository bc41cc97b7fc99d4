"""What `evaluate` and `compare` say: plain tables for the terminal, and JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phasegpt.compare import Comparison, Difference
from phasegpt.config import config_hash
from phasegpt.judged import Judged
from phasegpt.metrics.text import scorer
from phasegpt.statistics import mean_interval

if TYPE_CHECKING:
    from phasegpt.terms import Terms


def as_json(value: Mapping[str, Any]) -> str:
    """One JSON object; NaN and infinities are refused."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def evaluation_dict(judged: Judged, terms: "Terms") -> dict[str, Any]:
    """What `evaluate --json` prints."""
    return {
        "checkpoint": judged.address,
        "base_model": judged.base_model,
        "half": terms.half,
        "scorer": scorer(),
        "config_hash": config_hash(terms.config),
        "metrics": {name: _metric(judged, name) for name in judged.summary},
        "answers": list(judged.answers),
        "pairs": list(judged.pairs),
        "notes": list(terms.notes),
    }


def _metric(judged: Judged, name: str) -> dict[str, Any]:
    """A metric's mean and direction, and its interval over prompts or pairs; None where it has fewer than two."""
    values = list(judged.scores(name).values())
    interval = mean_interval(values) if len(values) > 1 else None
    return {
        "mean": judged.summary[name],
        "better": judged.direction(name),
        "interval": None if interval is None else [interval.low, interval.high],
        "n": max(1, len(values)),
    }


def evaluation_text(judged: Judged, terms: "Terms") -> str:
    """What `evaluate` prints."""
    rows = [("metric", "mean", "95 % interval", "n", "better")]
    for name in judged.summary:
        found = _metric(judged, name)
        span = _span(*found["interval"]) if found["interval"] else "-"
        rows.append((name, _number(found["mean"]), span, str(found["n"]), _way(found["better"])))
    head = f"{judged.address} on {judged.base_model}, {len(judged.answers)} prompts of the {terms.half} half"
    return _lines([head, *_columns(rows), *terms.notes])


def comparison_text(comparison: Comparison, *, blind: bool) -> str:
    """What `compare` prints; `blind` leaves the scores to the page's key."""
    a, b = comparison.a, comparison.b
    sides = [f"A: {a.address} on {a.base_model}", f"B: {b.address} on {b.base_model}"]
    if blind:
        return _lines([*sides, *comparison.notes, "The page is written; the scores wait under the key at its end."])
    titles = ("metric", "A", "B", "B − A", "95 % interval", "win rate of B", "n", "better", "verdict")
    rows = [titles, *map(_row, comparison.differences)]
    head = f"{len(comparison.prompts)} prompts of the {comparison.half} half"
    return _lines([*sides, head, *_columns(rows), *comparison.notes])


def stored_notes(sides: Sequence[Judged]) -> list[str]:
    """A sentence for each model of which something was not run again."""
    said = [(side.address, ", ".join(side.stored)) for side in sides if side.stored]
    return [f"{address}: {stored} read from the result of its run, not run again" for address, stored in said]


def _row(difference: Difference) -> tuple[str, ...]:
    interval, wins = difference.interval, difference.wins
    return (
        difference.metric,
        _number(difference.a),
        _number(difference.b),
        f"{difference.mean:+.4g}",
        _span(interval.low, interval.high) if interval else "-",
        f"{wins.rate:.2f} {_span(wins.low, wins.high)}" if wins else "-",
        str(interval.n) if interval else "1",
        _way(difference.better),
        difference.verdict,
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first and the last column begin together, the numbers between end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return [row[0].ljust(widths[0]), *cells[1:-1], row[-1]]


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _span(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _way(better: str | None) -> str:
    return {"max": "higher", "min": "lower"}.get(better or "", "-")
