"""A store as a busy team leaves it: one real search, copied many times in MLflow's SQLite file and in the storage.

The copies are made by SQL and by copying files, so that a thousand take minutes of one core and not days. They differ
from the search by name, by ids and by their day, and are otherwise what it was: params, tags, points, inputs, views.
"""

import shutil
import sqlite3
from pathlib import Path

from phasegpt.files import read_json, write_json
from tune.delivery import PARENT_TAG, RUN_KEY
from tune.request import SearchPlaces
from tune.views import MOST

DAY = 86_400_000
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
OF_RUNS = ("params", "metrics", "latest_metrics")


def multiply(places: SearchPlaces, database: Path, count: int) -> None:
    """Copy a finished search `count` times, as NAME-1 and so on: its runs, its view, and its files."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in _statements(places.name, count, connection):
            connection.execute(statement)
    connection.close()
    for number in range(1, count + 1):
        _copy_files(places, SearchPlaces(places.storage, places.track, f"{places.name}-{number}"))


def _statements(name: str, count: int, connection: sqlite3.Connection) -> list[str]:
    numbers = NUMBERS.format(count=count)
    run, parent = _numbered("run_uuid"), _numbered("value")
    renamed = f"'{name}-' || n || substr(value, {len(name) + 1})"
    value = f"CASE key WHEN '{PARENT_TAG}' THEN {parent} WHEN '{RUN_KEY}' THEN {renamed} WHEN 'search' THEN {renamed} "
    values = {
        "runs": {"run_uuid": run, **{name: f"{name} - n * {DAY // 100}" for name in ("start_time", "end_time")}},
        "tags": {"run_uuid": run, "value": f"{value} ELSE value END"},
        "experiment_tags": {"key": "key || '-' || n"},
        "inputs": {"destination_id": _numbered("destination_id"), "input_uuid": _numbered("input_uuid")},
        "input_tags": {"input_uuid": _numbered("input_uuid")},
        **{table: {"run_uuid": run} for table in OF_RUNS},
    }  # fmt: skip
    only = {"experiment_tags": "WHERE key LIKE 'mlflow.sharedViewState.%'"}
    few = {"experiment_tags": NUMBERS.format(count=min(count, MOST))}  # more views do not stay
    return [
        _copied(table, changed, few.get(table, numbers), only.get(table, ""), connection)
        for table, changed in values.items()
    ]


def _numbered(column: str) -> str:
    """An id of 32 letters with the number of its copy in the last five."""
    return f"substr({column}, 1, 27) || printf('%05x', n)"


def _copied(table: str, changed: dict[str, str], numbers: str, only: str, connection: sqlite3.Connection) -> str:
    columns = [f'"{row[1]}"' for row in connection.execute(f"PRAGMA table_info({table})")]
    values = [changed.get(column.strip('"'), column) for column in columns]
    named, given = ", ".join(columns), ", ".join(values)
    return f"INSERT INTO {table} ({named}) {numbers} SELECT {given} FROM (SELECT * FROM {table} {only}), numbers"  # noqa: S608


def _copy_files(places: SearchPlaces, to: SearchPlaces) -> None:
    shutil.copytree(places.folder, to.folder, ignore=shutil.ignore_patterns("ray"))
    shutil.copytree(places.results, to.results)
    write_json(to.request, {**read_json(places.request), "name": to.name})
    write_json(to.summary, {**read_json(places.summary), "name": to.name})
