"""How much disk a search writes, before it does: checkpoints, adapters and their copies in MLflow, shared work."""

import math
from dataclasses import dataclass

from phasegpt.config import Config
from tune.duration import SharedParts
from tune.memory import adapter_parameters
from tune.shapes import Shape

ADAPTER = 4  # bytes of a parameter under training in an adapter's file, float32
CHECKPOINT = 4 * ADAPTER  # beside the adapter what goes on from it, and two moments
CHECKPOINT_FILES, JOB_FILES = 60e3, 250e3  # bytes of all else: states of the trainer; results, log, evaluations


@dataclass(frozen=True)
class Disk:
    """Bytes that a search leaves behind, and bytes `free` where it would write."""

    checkpoints: float
    adapters: float
    shared: float
    free: float

    @property
    def total(self) -> float:
        """All that is written."""
        return self.checkpoints + self.adapters + self.shared

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.total < self.free


def disk_of(config: Config, shape: Shape, shared: SharedParts, fits: int, steps: int, free: float) -> Disk:
    """What `fits` runs of `steps` steps leave: no search removes the files of its trials.

    Each run keeps its newest checkpoint, its best and as many more as evaluation.save_total_limit allows, the chosen
    adapter, and a copy of that in MLflow; one more adapter goes to the registry.
    """
    trained = adapter_parameters(config, shape)
    saved = math.ceil(steps / config.evaluation.eval_interval)
    kept = min(saved, max(2, config.evaluation.save_total_limit))
    return Disk(
        checkpoints=fits * (kept * (trained * CHECKPOINT + CHECKPOINT_FILES) + JOB_FILES),
        adapters=(2 * fits + 1) * trained * ADAPTER,
        shared=sum(shared.wanted[part] for part in shared.kept),
        free=free,
    )
