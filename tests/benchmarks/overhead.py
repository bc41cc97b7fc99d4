"""What a trial costs outside training: whole searches of jobs that do nothing, with bare Ray Tune beside them.

python tests/benchmarks/overhead.py [--trials 10 100 1000] [--sampler tpe] [--json]: for each number of trials one real
search (study, results, spool, MLflow in SQLite, console) and one bare Tuner of as many trials, one after another, both
with one reused actor. Seconds a trial are those between the ends of the first and the last trial.
python tests/benchmarks/overhead.py --slots 16 --seconds 10: how busy so many slots are kept.
Figures are in docs/operations.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.noop import SECONDS

ROOT = Path(__file__).parents[2]
MIB = 2**20
BARE = """
import sys, time
from tune import environment
environment.prepare(own_cluster=True)
import ray
from ray import tune
ends = []
class Ends(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        ends.append(time.monotonic())
def nothing(config):
    tune.report({"loss": config["x"]})
ray.init(address="local", include_dashboard=False, log_to_driver=False)
tune.Tuner(
    tune.with_resources(nothing, {"CPU": 1}),
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=int(sys.argv[1]), max_concurrent_trials=1, reuse_actors=True),
    run_config=tune.RunConfig(storage_path=sys.argv[2], callbacks=[Ends()], verbose=0),
).fit()
print((ends[-1] - ends[0]) / (len(ends) - 1))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def ours(trials: int, folder: Path, *words: str) -> dict[str, Any]:
    """One search: seconds a trial, the last hundred over the first, MiB of the driver when it began and ended."""
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
    begun = time.monotonic()
    log = (folder / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment())
    results = folder / "results" / "v14" / "track_b" / "overhead"
    sizes: list[float] = []
    while process.poll() is None:
        if (results / "trial-000.json").is_file():
            sizes.append(resident(process.pid))
        time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit((folder / "log").read_text()[-3000:])
    ends = sorted(path.stat().st_mtime for path in results.glob("trial-*.json"))
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    part = min(100, len(gaps) // 2)
    return {
        "trials": trials,
        "seconds_per_trial": (ends[-1] - ends[0]) / len(gaps),
        "last_over_first": sum(gaps[-part:]) / sum(gaps[:part]),
        "driver_mib": [sizes[0], max(sizes)],
        "whole_s": time.monotonic() - begun,
        "ends": ends,
    }


def resident(pid: int) -> float:
    """MiB of a process, 0 where it has gone."""
    try:
        return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MIB
    except (OSError, IndexError):
        return 0.0


def bare(trials: int, folder: Path) -> float:
    """Seconds a trial of Ray Tune alone."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(trials), str(folder)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def compared(counts: list[int], sampler: str) -> dict[str, Any]:
    rows, alone = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            row = ours(count, Path(folder), "--sampler", sampler)
            del row["ends"]
            rows.append(row)
        with tempfile.TemporaryDirectory() as folder:
            alone.append(bare(count, Path(folder)))
        print(f"{row} bare Ray {alone[-1]:.3f}", file=sys.stderr)
    return {
        "trials": counts,
        "sampler": sampler,
        "seconds_per_trial": [row["seconds_per_trial"] for row in rows],
        "bare_ray": alone,
        "last_over_first": [row["last_over_first"] for row in rows],
        "driver_mib": [row["driver_mib"] for row in rows],
        "whole_s": [row["whole_s"] for row in rows],
    }


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
