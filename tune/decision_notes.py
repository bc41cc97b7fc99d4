"""What a decision leaves in the tags of both sides: who, when, and the numbers. Writes nothing itself."""

import getpass
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import fields

from phasegpt.statistics import Gain, Wins
from tune.gate import LONGEST_TAG, Decision
from tune.seat import Notes


def notes_of(decision: Decision, against: str, overtaken: Sequence[str]) -> Notes:
    """The tags of the candidate, and of the champion (version `against`, "": nobody) where the two were compared.

    `overtaken` are the versions that took the seat while this was being decided.
    """
    at = now()
    ours = {**_decided(decision, against), "decided_at": at, "decided_by": who(), "overtaken_by": ", ".join(overtaken)}
    told = f"version {decision.version} {decision.reason}"[:LONGEST_TAG]
    if decision.promote:
        theirs = {"unseated_by": decision.version, "unseated_at": at, "unseated_reason": told}
    else:
        theirs = {"defended_against": decision.version, "defended_at": at, "defended_reason": told}
    met = bool(against) and (decision.promote or decision.interval is not None)
    return {decision.version: ours, **({against: theirs} if met else {})}


def _decided(decision: Decision, against: str) -> dict[str, str]:
    """The decision; numbers that it has none of are empty, so that none of an earlier decision stays."""
    return {
        "promoted": json.dumps(decision.promote),
        "reason": decision.reason[:LONGEST_TAG],
        "uncontested": json.dumps(decision.uncontested),
        "forced": json.dumps(decision.forced),
        "decided_against": against,
        **_numbers("interval", [f.name for f in fields(Gain) if f.name != "wins"], decision.interval),
        **_numbers("wins", [f.name for f in fields(Wins)], decision.interval and decision.interval.wins),
    }


def _numbers(group: str, names: Sequence[str], of: Gain | Wins | None) -> dict[str, str]:
    values = {name: getattr(of, name, None) for name in names}
    return {f"{group}.{name}": "" if value is None else f"{value:.6g}" for name, value in values.items()}


def now() -> str:
    """The time in UTC, as tags write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def who() -> str:
    """user@host, as far as this machine knows its user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{platform.node()}"
