"""Searches whose jobs train nothing: `python -m tests.noop` takes the options of tune.search.

A job sleeps, reports a curve and leaves a result, without torch: what is left is the search itself. Its loss is least
at β = 0.1; it has the steps and evaluations of its config. Two files in the storage folder: in SECONDS a job reads how
long it takes, in BEGUN it notes that it began.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SECONDS, BEGUN = "noop-seconds", "noop-begun"
PROMPTS = 6
SETS = [
    "search.objectives={eval_loss: min}",
    "search.constraints={perplexity: '<= 2 * baseline'}",
    "search.finalists={count: 2, seeds: 1}",
    "search.max_concurrent=2",
    "training.max_steps=3",
    "evaluation.eval_interval=1",
]
"""`--set` options of a short search: three evaluations a trial, two at once, and finals."""


def loss(values: Mapping[str, Any], step: int, steps: int) -> float:
    """Falls over the steps to how many powers of ten β is away from 0.1."""
    return abs(math.log10(values.get("training.beta", 0.1)) + 1) + 1 - step / steps


def noop_job(config: Mapping[str, Any]) -> None:
    """The trainable; it goes on from where a job of its name stopped, and says why it failed, as a fit does."""
    from ray import tune

    from tune.jobs import from_config
    from tune.luggage import Luggage
    from tune.reports import FINISHED_KEY
    from tune.trial import attempted

    luggage = Luggage(*from_config(config))
    luggage.bring()
    failed = attempted(luggage.job, luggage.spec, lambda: run(luggage, tune.report))
    if failed:
        tune.report({**failed, FINISHED_KEY: False})


def run(luggage: Any, tell: Callable[[dict[str, Any]], None], writes: bool = True) -> None:
    """The job itself, which tells its reports; where several share one, only one of them `writes`."""
    from phasegpt.files import write_json
    from tune.reports import FINISHED_KEY, PAUSED_KEY, with_metrics

    job, spec, paths = luggage.job, luggage.spec, luggage.paths
    steps, interval = spec["config"]["training"]["max_steps"], spec["config"]["evaluation"]["eval_interval"]
    reached = paths.checkpoints / "reached.json"
    begun = json.loads(reached.read_text()) if reached.is_file() else 0
    seconds = _seconds(Path(spec["storage"]))
    if writes:
        with (Path(spec["storage"]) / BEGUN).open("a") as log:
            log.write(f"{job.name} from {begun}\n")
    for step in range(1, steps + 1):  # what was told before a cut is told again
        time.sleep(seconds / steps if step > begun else 0)
        if step % interval and step < steps:
            continue
        metrics = {"eval_loss": loss(job.values, step, steps), "perplexity": 40.0 + step}
        report = with_metrics(metrics, step, spec["objective"])
        if writes:
            write_json(reached, max(step, begun))
            luggage.save()
        if step == job.until:
            tell({**report, FINISHED_KEY: False, PAUSED_KEY: True})
            return
        if step < steps:
            tell(report)
    if writes:
        _leave(luggage, metrics, steps)
    tell({**report, FINISHED_KEY: True})


def _leave(luggage: Any, metrics: Mapping[str, float], steps: int) -> None:
    from phasegpt.files import write_json

    paths = luggage.paths
    pairs = [{"id": f"pair-{n}", "eval_loss": metrics["eval_loss"] + n / 100} for n in range(PROMPTS)]
    answers = [{"id": f"prompt-{n}", "prompt": f"Is it {n}?", "answer": "No."} for n in range(PROMPTS)]
    seed = luggage.job.values.get("experiment.seed", 42)
    result = {"name": paths.name, "metrics": metrics, "step": steps, "steps": steps, "pairs": pairs}
    write_json(
        paths.results,
        {**result, "answers": answers, "adapter": "", "config": {"experiment": {"seed": seed}}, "seconds": {}},
    )
    luggage.leave()


def _seconds(storage: Path) -> float:
    file = storage / SECONDS
    return float(file.read_text()) if file.is_file() else 0.0


if __name__ == "__main__":
    from tests.noop import noop_job as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
