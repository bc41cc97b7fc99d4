"""Who went to the finals, who won and who is on the front, as tags of their runs.

Pure: from the summaries of a search to tags by run.
"""

from collections.abc import Mapping
from typing import Any

from tune.jobs import final_name, trial_number

Marks = dict[str, set[str]]
"""{job name: the marks it has}."""
UNMARKED = {"trial": {"finalist": "false", "winner": "false"}, "final": {"winner": "false"}}
"""What the runs of a kind of job say while nothing is decided; a front is there with several objectives alone."""


def marks(report: Mapping[str, Any]) -> Marks:
    """The marks that a summary gives to trials, and to the finals of the winner."""
    winner = report["winner"] and report["winner"]["trial"]
    finals = [final for each in report["finalists"] if each["trial"] == winner for final in _finals(each)]
    marked = {
        "finalist": [finalist["trial"] for finalist in report["finalists"]],
        "winner": [winner, *finals] if winner else [],
        "on_front": (report["front"] or {}).get("trials", []),
    }
    names = {name for having in marked.values() for name in having}
    return {name: {mark for mark, having in marked.items() if name in having} for name in names}


def _finals(finalist: Mapping[str, Any]) -> list[str]:
    return [final_name(trial_number(finalist["trial"]), seed) for seed in finalist["seeds"]]


def changes(before: Marks, now: Marks) -> dict[str, dict[str, str]]:
    """{job name: tags to set} where a mark came, or where one went that an earlier end of the search had given."""
    said = {name: now.get(name, set()) ^ before.get(name, set()) for name in sorted({*before, *now})}
    return {
        name: {mark: str(mark in now.get(name, set())).lower() for mark in sorted(changed)}
        for name, changed in said.items()
        if changed
    }
