"""How often the importances tell a parameter that matters from those that do not, and how often they claim it falsely.

Searches over learning rate, β and dropout whose trials train nothing. The objective is the squared distance of the
learning rate from the middle of its range (one), of learning rate and β from theirs (two), both in powers of ten with
noise of 0.1, or noise alone (none). A few minutes: `python tests/benchmarks/importance.py`.
"""

import math
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phasegpt.config_search import Search
from tune.insight_importance import TOO_FEW, importance
from tune.insight_records import Record, read_records
from tune.study import Study

RATE, BETA, DROPOUT = "training.learning_rate", "training.beta", "model.lora_config.lora_dropout"
PARAMETERS = {
    RATE: {"loguniform": [1e-6, 1e-4]},
    BETA: {"loguniform": [0.01, 1.0]},
    DROPOUT: {"uniform": [0.0, 0.2]},
}
OWN = {RATE: 5e-5, BETA: 0.1, DROPOUT: 0.05}
SEEDS, RESAMPLES = 20, 100


def objective(matters: str, values: Mapping[str, Any], noise: float) -> float:
    """What a trial comes to; `noise` is a standard normal number."""
    rate, beta = math.log10(values[RATE]) + 5, math.log10(values[BETA]) + 1
    return {"one": rate**2 + 0.1 * noise, "two": rate**2 + beta**2 + 0.1 * noise, "none": noise}[matters]


def searched(search: Search, matters: str, seed: int) -> list[Record]:
    """The trials of a search to its end."""
    dice = random.Random(seed)  # noqa: S311 - noise, not secrets
    with tempfile.TemporaryDirectory() as folder:
        study = Study("importance", Path(folder) / "study.journal", search, OWN, seed)
        while (asked := study.ask()) is not None:
            study.complete(asked.number, {"eval_loss": objective(matters, asked.values, dice.gauss(0, 1))}, {})
        return read_records(study, Path(folder))


def tells(search: Search, matters: str, seed: int) -> bool:
    """Whether any parameter is told from another."""
    found = importance(
        searched(search, matters, seed), search.parameters, OWN, "eval_loss", "min", seed, resamples=RESAMPLES
    )
    return not found.verdict.startswith(TOO_FEW)


def main() -> None:
    """One line for each sampler, number of trials and truth."""
    print(f"searches of {SEEDS} that tell parameters apart")
    for sampler in ("random", "tpe"):
        for trials in (24, 60):
            settings = {"objectives": {"eval_loss": "min"}, "parameters": PARAMETERS, "trials": trials}
            search = Search.model_validate({**settings, "sampler": sampler})
            counts = [f"{m} {sum(tells(search, m, seed) for seed in range(SEEDS))}" for m in ("one", "two", "none")]
            print(f"{sampler:6} {trials} trials: {', '.join(counts)}", flush=True)


if __name__ == "__main__":
    main()
