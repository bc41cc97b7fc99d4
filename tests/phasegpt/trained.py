"""A toy run as `train.py` leaves it: made once a session for the tests of what opens, evaluates and compares it."""

from dataclasses import dataclass
from pathlib import Path

from phasegpt.config_io import load_config, track_config
from phasegpt.runs import RunPaths, RunResult, run_paths
from phasegpt.train import fit


@dataclass(frozen=True)
class Trained:
    """A finished run: where it lies and what it found."""

    paths: RunPaths
    result: RunResult

    @property
    def folder(self) -> str:
        """The run's folder, as a user names it."""
        return str(self.paths.checkpoints)


def train_toy(storage: Path, name: str, sets: list[str]) -> Trained:
    """Two steps of track B on the toy model, judged on the final half."""
    settings = [*sets, "training.max_steps=2", "training.learning_rate=1e-2", "evaluation.eval_interval=2"]
    config = load_config(track_config("b"), "laptop", settings)
    paths = run_paths(storage, "b", name)
    return Trained(paths, fit(config, paths=paths, half="final"))
