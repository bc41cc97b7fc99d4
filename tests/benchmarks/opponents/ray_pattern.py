"""A search as Ray's documentation builds it: Tune over a function that starts a TorchTrainer, with TRL inside.

    python tests/benchmarks/opponents/ray_pattern.py TASK.json FOLDER LEARNING_RATE …

The trials are those of `trl_trial.py`, one after another, each in a worker with all cores of this machine (Ray gives it
one unless asked). The function reserves a little memory and no core, of which a sliver would keep the worker waiting
for ever. The dashboard is on, without which placement groups of ended trials stay reserved. Each trial leaves
FOLDER/<its number>.json.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import trl_trial
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

TRIAL_MEMORY = 64e6


def train_fn_per_worker(config: Mapping[str, Any]) -> None:
    """What the worker of a trial does: the trial, and its metrics reported."""
    place = Path(config["folder"]) / f"{config['number']}.json"
    found = trl_trial.run(config["task"], config["learning_rate"], place.with_suffix(""))
    place.write_text(json.dumps({**found, "asked": config["asked"]}))
    train.report(found["metrics"])


def train_driver_fn(config: Mapping[str, Any]) -> None:
    """What Tune calls for a trial."""
    trainer = TorchTrainer(
        train_fn_per_worker,
        train_loop_config={**config, **config["point"], "asked": time.time()},
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": os.cpu_count() or 1}),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=config["folder"],
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def main() -> None:
    task, folder, values = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], [float(v) for v in sys.argv[3:]]
    ray.init()
    points = [{"number": number, "learning_rate": value} for number, value in enumerate(values)]
    tune.Tuner(
        tune.with_resources(train_driver_fn, {"memory": TRIAL_MEMORY}),
        param_space={"task": task, "folder": folder, "point": tune.grid_search(points)},
        tune_config=tune.TuneConfig(metric="eval_loss", mode="min", max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=folder, name="tune"),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
