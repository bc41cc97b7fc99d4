"""What a store full of searches costs the start of one more, in processor time and in SQL statements.

python tests/benchmarks/full_store.py [--searches 1000] [--rounds 3] [--json]: one search of 18 trials that train
nothing, and beside it the same store with so many copies of it (tests/many_searches.py); what a start asks of both,
alternating in one process. Figures are in docs/operations.md.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.many_searches import multiply
from tune.delivery import Delivery
from tune.past import last_search
from tune.request import Request, SearchPlaces, new_request
from tune.sync import left_behind

ROOT = Path(__file__).parents[2]
EXPERIMENT = "phasegpt-v14"
SETS = ("search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}")
PARAMS = {f"key-{number}": "1" for number in range(80)}
Found = dict[str, list[tuple[float, int]]]


def one_search(folder: Path) -> SearchPlaces:
    """A finished search named one, in `folder` with its MLflow."""
    words = ["--track", "b", "--profile", "laptop", "--name", "one", "--storage", str(folder), "--sampler", "random"]
    words += ["--tracking-uri", uri_of(folder), "--trials", "18", *(w for value in SETS for w in ("--set", value))]
    subprocess.run([sys.executable, "-m", "tests.noop", *words], cwd=ROOT, check=True, capture_output=True)
    return SearchPlaces(folder, "b", "one")


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


class Meter:
    """Counts what is done, by name: (seconds of processor time, SQL statements) each time."""

    def __init__(self) -> None:
        self.found: Found = {}
        self._statements = 0
        event.listen(Engine, "before_cursor_execute", self._note)

    def _note(self, *given: Any) -> None:
        self._statements += 1

    def of(self, name: str, do: Callable[[], Any]) -> Any:
        statements, begun = self._statements, time.process_time()
        result = do()
        self.found.setdefault(name, []).append((time.process_time() - begun, self._statements - statements))
        return result


def start(folder: Path, name: str, meter: Meter) -> None:
    """What the start of a search asks, and its first trial."""
    request: Request = meter.of(
        "checking the options", lambda: new_request("b", profile="laptop", storage=str(folder), name=name)
    )
    meter.of("what others left unsent", lambda: left_behind(folder, request.places.folder))
    delivery = Delivery(uri_of(folder), EXPERIMENT)

    def send(kind: str, **values: Any) -> None:
        delivery.deliver([{"kind": kind, "at": int(time.time() * 1000), **values}], doubtful=False)

    run = {"params": PARAMS, "tags": {"search": name}}
    view = {"name": f"mlflow.sharedViewState.{name}", "value": "{}"}
    trial = f"{name}/trial-000"
    meter.of("opening the experiment", lambda: send("open"))
    meter.of("the run of the search", lambda: send("run", key=name, name=name, parent=None, **run))
    meter.of("its saved view", lambda: send("experiment_tag", **view))
    meter.of("the run of a trial", lambda: send("run", key=trial, name=trial, parent=name, **run))
    meter.of("a trial's metrics", lambda: send("metrics", key=trial, values={"eval_loss": 1.0}, step=1))
    meter.of("a trial's end", lambda: send("finish", key=trial, status="FINISHED"))
    meter.of("the last search like it (--plan)", lambda: last_search(request))


def measured(folder: Path, searches: int, rounds: int) -> dict[str, dict[str, tuple[float, int]]]:
    """{what: {store: (median seconds of processor time, the most statements)}}."""
    places = one_search(folder / "one")
    full = folder / "full"
    shutil.copytree(places.storage, full)
    multiply(SearchPlaces(full, "b", "one"), full / "mlflow.db", searches)
    meters = {"one": Meter(), "full": Meter()}
    for number in range(rounds + 1):
        for name, meter in meters.items():
            start(folder / name, f"new-{number}", meter)
    return {
        what: {name: _middle(meter.found[what][1:]) for name, meter in meters.items()} for what in meters["one"].found
    }


def _middle(rows: list[tuple[float, int]]) -> tuple[float, int]:
    return median(seconds for seconds, _ in rows), max(statements for _, statements in rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--searches", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.searches, given.rounds)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for what, row in found.items():
        print(f"{what:34}" + "".join(f"  {name}: {s:.3f} s, {n} statements" for name, (s, n) in row.items()))


if __name__ == "__main__":
    main()
