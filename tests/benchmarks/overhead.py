"""What a trial costs outside training: whole searches of jobs that do nothing, with bare Ray Tune beside them.

python tests/benchmarks/overhead.py [--trials 10 100 1000] [--sampler tpe] [--json]: for each number of trials one real
search (study, results, spool, MLflow in SQLite, console) and one bare Tuner of as many trials, one after another, both
with one reused actor. Seconds a trial, of the clock and of the driver's processor time, are those between the ends of
the first and the last trial; `last_over_first` compares the last hundred with the first (halves where there are fewer).
`driver_mib` is the driver's memory at the last trial, `driver_growth_mib` what of it came after the first.
python tests/benchmarks/overhead.py --slots 16 --seconds 10: how busy so many slots are kept.
Figures are in docs/operations.md and docs/performance.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.noop import SECONDS

ROOT = Path(__file__).parents[2]
MIB = 2**20
TICK = os.sysconf("SC_CLK_TCK")
BARE = """
import sys, time
from tune import environment
environment.prepare(own_cluster=True)
import ray
from ray import tune
class Ends(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        print("end", time.time(), flush=True)
def nothing(config):
    tune.report({"loss": config["x"]})
ray.init(address="local", include_dashboard=False, log_to_driver=False)
tune.Tuner(
    tune.with_resources(nothing, {"CPU": 1}),
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=int(sys.argv[1]), max_concurrent_trials=1, reuse_actors=True),
    run_config=tune.RunConfig(storage_path=sys.argv[2], callbacks=[Ends()], verbose=0),
).fit()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def ours(trials: int, folder: Path, *words: str) -> dict[str, Any]:
    """One search of ours, as `measured` has it."""
    sets = ["search.objectives={eval_loss: min}", "search.constraints={}", "search.finalists={count: 1, seeds: 1}"]
    command = [
        sys.executable,
        "-m",
        "tests.noop",
        "--track",
        "b",
        "--profile",
        "laptop",
        "--name",
        "overhead",
        "--json",
    ]
    command += ["--storage", str(folder), "--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--trials", str(trials)]
    command += [word for value in sets for word in ("--set", value)] + list(words)
    results = folder / "results" / "v14" / "track_b" / "overhead"
    return measured(command, folder, lambda: sorted(path.stat().st_mtime for path in results.glob("trial-*.json")))


def bare(trials: int, folder: Path) -> dict[str, Any]:
    """As many trials of Ray Tune alone, as `measured` has it."""

    def ends() -> list[float]:
        return [float(line.split()[1]) for line in (folder / "log").read_text().splitlines() if line.startswith("end ")]

    return measured([sys.executable, "-c", BARE, str(trials), str(folder)], folder, ends)


def measured(command: list[str], folder: Path, ends_so_far: Callable[[], list[float]]) -> dict[str, Any]:
    """What a driver's trials cost; `ends_so_far` are the times at which they ended."""
    begun, samples = time.monotonic(), list[tuple[float, float, float]]()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment())
        while process.poll() is None:
            samples.append(driver_load(process.pid))
            time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit((folder / "log").read_text()[-3000:])
    ends = ends_so_far()
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    part = min(100, len(gaps) // 2)
    (_, cpu_first, mib_first), (_, cpu_last, mib_last) = (near(samples, ends[at]) for at in (0, -1))
    return {
        "seconds_per_trial": (ends[-1] - ends[0]) / len(gaps),
        "driver_cpu_s": (cpu_last - cpu_first) / len(gaps),
        "last_over_first": sum(gaps[-part:]) / sum(gaps[:part]),
        "driver_mib": mib_last,
        "driver_growth_mib": mib_last - mib_first,
        "whole_s": time.monotonic() - begun,
        "ends": ends,
    }


def driver_load(pid: int) -> tuple[float, float, float]:
    """The time, and a process's processor seconds and MiB by then; zeros where it has gone."""
    proc = Path("/proc") / str(pid)
    try:
        words = (proc / "stat").read_text().rpartition(")")[2].split()
        pages = int((proc / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return time.time(), 0.0, 0.0
    return time.time(), (int(words[11]) + int(words[12])) / TICK, pages * os.sysconf("SC_PAGESIZE") / MIB


def near(samples: list[tuple[float, float, float]], when: float) -> tuple[float, float, float]:
    """The sample nearest a time, of those in which the process was there."""
    return min((sample for sample in samples if sample[1]), key=lambda sample: abs(sample[0] - when))


def compared(counts: list[int], sampler: str) -> dict[str, Any]:
    """Searches of so many trials with bare Ray Tune beside each: a list of as many figures for each thing measured."""
    rows, alone = [], []
    for count in counts:
        for found, run in ((rows, partial(ours, count)), (alone, partial(bare, count))):
            words = ("--sampler", sampler) if found is rows else ()
            with tempfile.TemporaryDirectory() as folder:
                row = run(Path(folder), *words)
            del row["ends"]
            found.append(row)
        print(f"{count} trials: {rows[-1]}; bare Ray: {alone[-1]}", file=sys.stderr)
    return {"trials": counts, "sampler": sampler, **columns(rows), "bare_ray": columns(alone)}


def columns(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Rows of equal keys as lists by key."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def busy(slots: int, seconds: float, rounds: int = 4) -> dict[str, float]:
    """The share of `slots` actors' time that jobs of so many seconds fill, from the end of the first round on."""
    from tune import environment as settings

    settings.prepare(own_cluster=True)
    os.environ |= environment()  # the workers have it from the cluster that starts them
    import ray

    context = ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / SECONDS).write_text(str(seconds))
            words = ["--address", context.address_info["address"], "--sampler", "random"]
            words += ["--max-concurrent", str(slots), "--cpus-per-worker", "1"]
            row = ours(slots * rounds, Path(folder), *words)
    finally:
        ray.shutdown()
    ends = row["ends"]
    warm = ends[slots - 1]
    filled = (len(ends) - slots) * seconds
    return {"slots": slots, "seconds": seconds, "busy": filled / (slots * (ends[-1] - warm))}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    options.add_argument("--sampler", default="tpe")
    options.add_argument("--slots", type=int)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    found = busy(given.slots, given.seconds) if given.slots else compared(given.trials, given.sampler)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
