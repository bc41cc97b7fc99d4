"""Where one run writes, and what it found. Plain values; knows nothing of how a run is made."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from phasegpt.checkpoint_files import ADAPTER
from phasegpt.files import read_json

VERSIONS_OF = ("torch", "transformers", "peft", "trl", "ray", "optuna", "mlflow", "phasegpt-tune")


@dataclass(frozen=True)
class RunPaths:
    """Where one run writes: the places of the seed, below a storage folder."""

    name: str
    checkpoints: Path
    log: Path
    results: Path
    shared_work: Path

    @property
    def adapter(self) -> Path:
        """The PEFT folder of the chosen checkpoint."""
        return self.checkpoints / ADAPTER

    @property
    def references(self) -> Path:
        """Where reference adapters from the registry are kept, by name and version."""
        return references_of(self.shared_work)


def shared_work_of(storage: Path) -> Path:
    """Where a storage folder keeps what all its runs share."""
    return storage / "checkpoints" / "v14" / "shared_work"


def references_of(shared_work: Path) -> Path:
    """The cache of registered reference adapters: beside the shared work."""
    return shared_work.parent / "references"


def run_paths(storage: Path, track: str, run: str, output_dir: str | None = None) -> RunPaths:
    """The seed's layout: <run>/, <run>.log and <run>.json in v14/track_x/ of checkpoints/, experiments/ and results/.

    `output_dir` (logging.output_dir) replaces the checkpoint folder alone.
    """
    place = Path("v14") / f"track_{track}"
    return RunPaths(
        name=run,
        checkpoints=storage / output_dir if output_dir else storage / "checkpoints" / place / run,
        log=storage / "experiments" / place / f"{run}.log",
        results=storage / "results" / place / f"{run}.json",
        shared_work=shared_work_of(storage),
    )


@dataclass(frozen=True)
class RunResult:
    """What a run found. `metrics` and rows are of the chosen checkpoint, at `step`; `curve` has all summaries.

    `seconds` and `clock` (a reading of `meters.py`) are the machine's, and differ where all else is equal.
    """

    name: str
    metrics: Mapping[str, float]
    step: int
    steps: int
    answers: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    training_log: Sequence[Mapping[str, Any]]
    adapter: str
    seconds: Mapping[str, float]
    half: str
    config: Mapping[str, Any]
    config_hash: str
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    clock: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """The result that a run wrote to `path`."""
        return cls(**read_json(path))


def clock_metrics(clock: Mapping[str, Any]) -> dict[str, float]:
    """A reading of speed, memory and start-up as numbers with names; of the workers' memory the largest."""
    return {f"clock/{name}": max(value) if isinstance(value, list) else value for name, value in clock.items()}


def versions() -> dict[str, str]:
    """The versions of the libraries that a result depends on."""
    return {name: _version(name) for name in VERSIONS_OF}


@cache
def _version(name: str) -> str:
    return importlib.metadata.version(name)  # reads the package's files
