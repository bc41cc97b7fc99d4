"""What a job tells the driver: plain keys beside `step` and `metric/<name>`.

A last report says how the job ended: FINISHED_KEY true at its end, PAUSED_KEY where it was to go no further, ERROR_KEY
with the reason where it failed, FULL_KEY where the storage took no more. NOTE_KEY is a remark for the record;
`system/<name>` is what the job's process takes.
"""

from collections.abc import Mapping
from typing import Any

from tune.process_load import SYSTEM

FINISHED_KEY, PAUSED_KEY, ERROR_KEY, FULL_KEY, NOTE_KEY = "finished", "paused", "failure", "full", "note"
PREFIX = "metric/"


def with_metrics(metrics: Mapping[str, float], step: int, objective: str) -> dict[str, Any]:
    """A report of an evaluation; the objective stands under its own name as well, where Ray looks for it."""
    first = {objective: metrics[objective]} if objective in metrics else {}
    return {"step": step, **{f"{PREFIX}{name}": value for name, value in metrics.items()}, **first}


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a report, without what Ray adds."""
    return {k.removeprefix(PREFIX): float(v) for k, v in result.items() if k.startswith(PREFIX)}


def load_of(result: Mapping[str, Any]) -> dict[str, float]:
    """What a report says of the job's process, under the names that go to MLflow."""
    return {name: float(value) for name, value in result.items() if name.startswith(SYSTEM)}
