"""A single run in MLflow, from its begin to its end: what `train.py` records, as a search records its trials."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from phasegpt.config import Config
from phasegpt.runs import RunPaths
from tune.datasets import Inputs
from tune.lineage import run_tags
from tune.record import record_end, record_evaluation, state_tags
from tune.tracking import Tracker, flat_params

if TYPE_CHECKING:
    from phasegpt.evaluate import Evaluation

HALF = "search"
"""The half of the prompts that judges a single run."""


class RunRecord:
    """The run of `config` under the key `paths.name`; begins with the object. A run that had ended is left as it is."""

    def __init__(self, tracker: Tracker, config: Config, track: str, paths: RunPaths) -> None:
        self._tracker, self._paths, self._key = tracker, paths, paths.name
        self._whole = paths.results.is_file() and self._key not in tracker.left()
        self._config = {part: values for part, values in config.dump().items() if part != "search"}
        tags = {**run_tags(config, track, "train.py"), "kind": "run", "half": HALF, "trial_state": "running"}
        tracker.run(self._key, self._key, tags=tags, params=flat_params(self._config))
        tracker.datasets(self._key, Inputs().of(self._config, (HALF,), trains=True))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """An optimizer step."""
        self._tracker.metrics(self._key, {f"train/{name}": value for name, value in values.items()}, step)

    def evaluation(self, evaluation: "Evaluation") -> None:
        """An evaluation on the way."""
        record_evaluation(self._tracker, self._key, evaluation.summary, evaluation.step)

    def end(self, how: str, why: str = "") -> None:
        """How the run ended, and all that it leaves."""
        self._tracker.tags(self._key, state_tags(how, why))
        if self._whole and how == "complete":
            self._tracker.finish(self._key)
        else:
            record_end(self._tracker, self._key, self._paths, self._config, how, told=True)
