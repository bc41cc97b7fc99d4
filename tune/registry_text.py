"""What the registry's commands say: every version in a line, one version in full; as plain values and in words.

Reads and moves nothing but what it is handed a client for.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune.card_numbers import metric_intervals
from tune.gate import CHAMPION, Champion, model_name
from tune.seat import out_of_step, read_seat
from tune.versions import aliases_of, find_version, read_version, versions_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

WIDTH = 120
Facts = dict[str, Any]
LINEAGE = (
    *("search", "trial", "run", "commit", "data_hash", "config_hash", "base_model", "base_identity"),
    *("adapter_sha256", "method", "scorer"),
)
EVENTS = (
    *("overtaken_by", "defended_against", "defended_at", "defended_reason", "unseated_by", "unseated_at"),
    *("unseated_reason", "rolled_back_to", "rolled_back_from", "rolled_back_by"),
)


def listed(client: "MlflowClient", tracks: Sequence[str]) -> list[Facts]:
    """{track, champion, previous, out_of_step, versions: [...]} of every track that has versions."""
    found = []
    for track in tracks:
        versions = versions_of(client, track)
        if versions:
            seat, wrong = read_seat(client, track), out_of_step(client, track)
            rows = [_row(version, aliases_of(client, track)) for version in versions]
            found.append(
                {
                    "model": model_name(track),
                    "track": track,
                    "champion": seat.champion,
                    "previous": seat.previous,
                    "out_of_step": wrong is not None,
                    "versions": rows,
                }
            )
    return found


def _row(version: "ModelVersion", aliases: Mapping[str, str]) -> Facts:
    tags = version.tags
    objective = tags.get("objective", "")
    return {
        "version": str(version.version),
        "aliases": [alias for alias, seated in aliases.items() if seated == str(version.version)],
        "objective": objective,
        "score": _number(tags, f"metrics.{objective}"),
        "search": tags.get("search", ""),
        **_decision(tags),
    }


def _decision(tags: Mapping[str, str]) -> Facts:
    return {
        "promoted": tags.get("promoted") == "true",
        "forced": tags.get("forced") == "true",
        "uncontested": tags.get("uncontested") == "true",
        "reason": tags.get("reason", ""),
        "against": tags.get("decided_against", ""),
        "at": tags.get("decided_at", ""),
        "by": tags.get("decided_by", ""),
        "interval": {key: _number(tags, f"interval.{key}") for key in ("mean", "low", "high", "n", "p_positive")},
    }


def _number(tags: Mapping[str, str], key: str) -> float | None:
    return float(tags[key]) if tags.get(key) else None


def list_text(found: Sequence[Facts]) -> str:
    """The tracks one below the other, within 120 columns."""
    if not found:
        return "no versions yet; a search registers its winner: python -m tune.search --track b"
    return "\n\n".join(_track_text(one) for one in found)


def _track_text(one: Facts) -> str:
    lines = [f"{one['model']}: {_seat_text(one)}"]
    rows = [("version", "seat", "score", "search", "decided", "decision"), *map(_cells, one["versions"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(_cut(f"  {line}".rstrip()))
    if one["out_of_step"]:
        lines.append(
            f"  the alias {CHAMPION} does not name version {one['champion']}, as the seat's record does; "
            f"this puts it right:\n  python -m tune.registry promote --track {one['track']} {one['champion']}"
        )
    return "\n".join(lines)


def _seat_text(one: Facts) -> str:
    if not one["champion"]:
        return "nobody in the seat"
    before = f", before it version {one['previous']}" if one["previous"] else ""
    return f"champion is version {one['champion']}{before}"


def _cells(row: Facts) -> tuple[str, ...]:
    score = "?" if row["score"] is None else f"{row['score']:.4g}"
    when = row["at"][:16].replace("T", " ")
    return (
        row["version"],
        ",".join(row["aliases"]) or "-",
        f"{row['objective']} {score}",
        row["search"] or "-",
        when or "-",
        _verdict(row),
    )


def _verdict(row: Facts) -> str:
    """The decision in few words, with the gain and its interval where two were compared."""
    gain, against = row["interval"], row["against"]
    span = "" if gain["mean"] is None else f": {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    if not row["reason"]:
        return "not decided"
    if row["forced"]:
        return f"forced over {against or 'nobody'}{span}"
    if row["uncontested"]:
        return "uncontested"
    if not span:
        return f"refused: {row['reason']}"
    return f"{'beat' if row['promoted'] else 'did not beat'} {against}{span}"


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def shown(client: "MlflowClient", track: str, version: str) -> Facts:
    """A version in full: address, aliases, lineage, decision, numbers, what has happened to it."""
    found, evidence = find_version(client, track, version), read_version(client, track, version)
    tags, aliases = dict(found.tags), aliases_of(client, track)
    return {
        "address": f"models:/{found.name}/{found.version}",
        "aliases": [alias for alias, seated in aliases.items() if seated == str(found.version)],
        "lineage": {**{key: tags[key] for key in LINEAGE if tags.get(key)}, "run": found.run_id, **_dirty(tags)},
        "decision": _decision(tags),
        "objective": evidence.objective,
        "metrics": _metrics(evidence),
        "gain_over_untuned": _gain(evidence.interval_vs_reference),
        "gain_over_own": _gain(evidence.interval_vs_own),
        "constraints_met": evidence.constraints_met,
        "constraints": list(evidence.constraints),
        "events": {key: tags[key] for key in EVENTS if tags.get(key)},
    }


def _dirty(tags: Mapping[str, str]) -> Facts:
    return {"git_dirty": True} if tags.get("git_dirty") == "true" else {}


def _metrics(evidence: Champion) -> dict[str, Facts]:
    between = metric_intervals(evidence)
    return {
        name: {
            "value": value,
            "interval": [between[name].low, between[name].high] if name in between else None,
            "untuned": evidence.untuned.get(name),
            "own": evidence.own.get(name),
        }
        for name, value in sorted(evidence.metrics.items())
    }


def _gain(gain: Any) -> Facts | None:
    return gain and {**gain.as_dict(), "text": str(gain)}


def show_text(one: Facts) -> str:
    """A version in full, in words."""
    sections = (
        ("Lineage", _facts(_lineage(one["lineage"]))),
        ("Decision", _decided(one["decision"])),
        ("Numbers on the final half (95 % intervals)", _numbers(one)),
        ("What came later", _facts(one["events"])),
    )
    head = f"{one['address']}  {', '.join(one['aliases']) or 'in no seat'}"
    return "\n\n".join([head, *(f"{title}\n{text}" for title, text in sections if text)])


def _lineage(facts: Facts) -> Facts:
    code = facts.get("commit", "") + (" and changes that were not committed" if facts.get("git_dirty") else "")
    order = {**facts, "commit": code}
    return {key: order[key] for key in LINEAGE if order.get(key)}


def _decided(decision: Facts) -> str:
    if not decision["reason"]:
        return "  not decided"
    who = f"by {decision['by']} " if decision["by"] else ""
    against = f"against version {decision['against']}" if decision["against"] else "against an empty seat"
    took = "promoted" if decision["promoted"] else "refused"
    return f"  {took} at {decision['at']} {who}{against}\n  {decision['reason']}"


def _numbers(one: Facts) -> str:
    rows = [("metric", "value", "interval", "untuned", "config's own")]
    for name, fact in one["metrics"].items():
        span = "-" if fact["interval"] is None else "[{:.4g}, {:.4g}]".format(*fact["interval"])
        first = "* " if name == one["objective"] else "  "
        rows.append((first + name, _plain(fact["value"]), span, _plain(fact["untuned"]), _plain(fact["own"])))
    rows[0] = ("  metric", *rows[0][1:])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, key in (("untuned model", "gain_over_untuned"), ("config's own values", "gain_over_own")):
        if one[key]:
            lines.append(f"  gain in {one['objective']} over the {name}: {one[key]['text']}")
    return "\n".join([*lines, f"  constraints: {'; '.join(one['constraints']) or 'none'}"])


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _facts(facts: Facts) -> str:
    width = max(map(len, facts), default=0)
    return "\n".join(f"  {key.replace('_', ' ').ljust(width)}  {value}" for key, value in facts.items())
