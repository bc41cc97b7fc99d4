"""How much disk a search takes, before it does: checkpoints, adapters and their copies in MLflow, shared work."""

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
class Jobs:
    """What a search runs: `trials` and `finals`, of whom `at_once` have not ended at the same time."""

    trials: int
    finals: int
    at_once: int

    @property
    def fits(self) -> int:
        """All that train."""
        return self.trials + self.finals


@dataclass(frozen=True)
class Disk:
    """Bytes that a search takes at most, what of them `stays` after its end, and bytes `free` where it would write."""

    checkpoints: float
    adapters: float
    shared: float
    stays: float
    free: float

    @property
    def total(self) -> float:
        """The most that there is at once."""
        return self.checkpoints + self.adapters + self.shared

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.total < self.free


def disk_of(config: Config, shape: Shape, shared: SharedParts, jobs: Jobs, steps: int, free: float) -> Disk:
    """The disk of runs of `steps` steps, by `search.keep` (see `keep`).

    A run has its newest checkpoint, its best and as many more as evaluation.save_total_limit allows, until it has
    ended, or for ever. Of every run there is the adapter that it came to and a copy of that in MLflow; one more goes to
    the registry. In the end finals and finalists have theirs.
    """
    trained = adapter_parameters(config, shape)
    saved = math.ceil(steps / config.evaluation.eval_interval)
    each = min(saved, max(2, config.evaluation.save_total_limit)) * (trained * CHECKPOINT + CHECKPOINT_FILES)
    copies = (jobs.fits + 1) * trained * ADAPTER
    files = jobs.fits * JOB_FILES
    work = sum(shared.wanted[part] for part in shared.kept)
    everything = config.search.keep == "all"
    finalists = min(jobs.trials, jobs.finals // config.search.finalists.seeds)
    checkpoints = (jobs.fits if everything else min(jobs.at_once, jobs.fits)) * each + files
    adapters = copies + jobs.fits * trained * ADAPTER
    left = copies + (jobs.finals + finalists) * trained * ADAPTER + files
    return Disk(checkpoints, adapters, work, (checkpoints + adapters if everything else left) + work, free)
