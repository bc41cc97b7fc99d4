"""A search under load: 500 trials that train nothing in 8 slots, with 50 people on the MLflow that records it.

python tests/benchmarks/load.py [--trials 500] [--slots 8] [--clients 50] [--pause 10] [--seconds 1] [--seed 42]
[--json]: one search on a Ray of so many CPUs, whatever the machine has, recorded by a real MLflow server on SQLite.
While it runs every process of it is counted, with its memory and its open files, and so are Ray's placement groups.
What the server had no time for waits in the spool; it is sent when the people have gone, and then the record is read.
Figures are in docs/operations.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.mlflow_clients import Clients
from tests.mlflow_server import MlflowServer, running
from tests.noop import SECONDS
from tune.spool import SPOOL
from tune.sync import look, sync

ROOT = Path(__file__).parents[2]
NAME = "load"
WORKERS = ("ray::ImplicitFunc", "ray::IDLE")
SETS = ("search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}")
MIB = 2**20
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


@dataclass(frozen=True)
class Sample:
    """What a search and its Ray took at one moment, when so many trials had ended: the driver, the processes that work
    for it, and all. Ray's log monitor is counted, which keeps the logs of dead workers open, up to 200."""

    trials: int
    processes: int
    workers: int
    groups: int
    files: int
    driver_files: int
    driver_mib: float
    largest_worker_mib: float


@contextmanager
def a_ray(slots: int) -> Iterator[str]:
    """A Ray of so many CPUs below this process; its address."""
    from tune import environment

    environment.prepare(own_cluster=True)
    os.environ["PYTHONPATH"] = str(ROOT)  # the workers have it from the cluster that starts them
    import ray

    context = ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        yield context.address_info["address"]
    finally:
        ray.shutdown()


def begin(folder: Path, address: str, url: str, trials: int, slots: int, seed: int) -> "subprocess.Popen[bytes]":
    """The search, as a process; its words go to a file."""
    words = ["--track", "b", "--profile", "laptop", "--name", NAME, "--storage", str(folder), "--json"]
    words += ["--address", address, "--tracking-uri", url, "--trials", str(trials), "--max-concurrent", str(slots)]
    words += ["--cpus-per-worker", "1", "--sampler", "random", "--seed", str(seed)]
    words += [word for value in SETS for word in ("--set", value)]
    with (folder / "said").open("w") as said:
        return subprocess.Popen([sys.executable, "-m", "tests.noop", *words], cwd=ROOT, stdout=said, stderr=said)


def samples_of(search: "subprocess.Popen[bytes]", folder: Path, server: int, every: float) -> Iterator[Sample]:
    """A sample now and then, from the first trial's end until the search ends; `server` is not counted."""
    results = folder / "results" / "v14" / "track_b" / NAME
    while search.poll() is None:
        if ended := len(list(results.glob("trial-*.json"))):
            yield sample(search.pid, server, ended)
        time.sleep(every)


def sample(driver: int, server: int, trials: int) -> Sample:
    """One look at the processes below this one."""
    outside = {server, *_below(server)}
    found = {pid: each for pid in _below(os.getpid()) if pid not in outside and (each := _look(pid)) is not None}
    workers = [size for name, _, size in found.values() if name.startswith(WORKERS)]
    _, files, size = found.get(driver, ("", 0, 0.0))
    return Sample(
        trials=trials,
        processes=len(found),
        workers=len(workers),
        groups=_groups(),
        files=sum(each for _, each, _ in found.values()),
        driver_files=files,
        driver_mib=size,
        largest_worker_mib=max(workers, default=0.0),
    )


def _look(pid: int) -> tuple[str, int, float] | None:
    """Name, open files and resident MiB of a process; None for one that has gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return process.name(), process.num_fds(), process.memory_info().rss / MIB
    except GONE:
        return None


def _below(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except GONE:
        return []


def _groups() -> int:
    """Ray's placement groups that still hold something."""
    from ray.util import placement_group_table

    return sum(group["state"] != "REMOVED" for group in placement_group_table().values())


def growth(samples: Sequence[Sample], trials: int) -> dict[str, dict[str, float]]:
    """{what: its median over the second tenth of the trials, over the last tenth, and the most}."""
    early = [each for each in samples if trials * 0.1 <= each.trials < trials * 0.2] or samples[:1]
    late = [each for each in samples if trials * 0.9 <= each.trials < trials] or samples[-1:]
    names = [name for name in asdict(samples[0]) if name != "trials"]
    return {
        name: {
            "early": median(getattr(each, name) for each in early),
            "late": median(getattr(each, name) for each in late),
            "most": max(getattr(each, name) for each in samples),
        }
        for name in names
    }


def loaded(
    trials: int, slots: int, clients: int, pause: float, seconds: float, seed: int, folder: Path
) -> dict[str, Any]:
    """Run it; what it took, what the clients saw, and whether the record is whole."""
    served = folder / "mlflow"
    served.mkdir()
    (folder / SECONDS).write_text(str(seconds))
    with a_ray(slots) as address, running(MlflowServer(served)) as server:
        assert server.process is not None
        search = begin(folder, address, server.url, trials, slots, seed)
        with Clients(server.url, clients, pause) as people:
            samples = list(samples_of(search, folder, server.process.pid, 2.0))
        spool = folder / "experiments" / "v14" / "track_b" / NAME / SPOOL
        waited = look(spool).waiting
        record = {"waited": waited, "wait": sync(spool), **recorded(server.url)}
    if search.returncode != 0:
        raise SystemExit((folder / "said").read_text()[-3000:])
    return {
        "trials": trials,
        "slots": slots,
        "samples": len(samples),
        "growth": growth(samples, trials),
        "clients": people.summary(),
        "record": record,
    }


def recorded(url: str) -> dict[str, int]:
    """How many runs MLflow holds, how many keys, and how many ended well."""
    from phasegpt.mlflow_client import open_client
    from tune.delivery import RUN_KEY

    client = open_client(url)
    experiment = client.get_experiment_by_name("phasegpt-v14").experiment_id
    runs, token = [], None
    while token != "":
        page = client.search_runs([experiment], max_results=500, page_token=token)
        runs, token = [*runs, *page], page.token or ""
    ended = sum(run.info.status == "FINISHED" for run in runs)
    return {"runs": len(runs), "keys": len({run.data.tags[RUN_KEY] for run in runs}), "finished": ended}


def as_text(found: dict[str, Any]) -> str:
    """For people: a table of what it took, a line on the clients, a line on the record."""
    rows = [f"{'':20}{'early':>10}{'late':>10}{'most':>10}"]
    rows += [
        f"{name:20}" + "".join(f"{row[when]:10.0f}" for when in ("early", "late", "most"))
        for name, row in found["growth"].items()
    ]
    people, took = found["clients"], found["clients"]["seconds"]
    said = f"{people['questions']} questions of {people['clients']} clients, by status {people['statuses']}; seconds: "
    said += ", ".join(f"{name} {value:.2f}" for name, value in took.items())
    return "\n".join([*rows, said, f"record: {found['record']}"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=500)
    options.add_argument("--slots", type=int, default=8)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--pause", type=float, default=10.0, help="seconds between two questions of a client")
    options.add_argument("--seconds", type=float, default=1.0, help="how long a trial takes")
    options.add_argument("--seed", type=int, default=42)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = loaded(given.trials, given.slots, given.clients, given.pause, given.seconds, given.seed, Path(folder))
    print(json.dumps(found, indent=1) if given.json else as_text(found))


if __name__ == "__main__":
    main()
