"""transformers.Trainer with epochs that may differ in length, as a curriculum's do, resumed at the exact batch.

Knows nothing of what examples are; it asks for them by number, the first ones being the easiest where that matters.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from phasegpt.schedule import Lap, epoch_steps

log = logging.getLogger("phasegpt")


class SeededOrder(Sampler[int]):
    """Each epoch a fresh permutation of its lap's examples, of the seed and the epoch alone, also in a resumed run."""

    def __init__(self, laps: Sequence[Lap], seed: int) -> None:
        self.seed, self.epoch = seed, 0
        self.lengths = [lap.examples for lap in laps for _ in range(lap.epochs)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.lengths[self.epoch]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(len(self), generator=generator).tolist()


class LapsTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that runs the laps in `order`; transformers takes all epochs to be as long as the first.

    `batch_size` counts the examples of a micro-batch of all workers together: batches and steps do not depend on how
    many workers share them.
    """

    def __init__(self, *, laps: Sequence[Lap], order: SeededOrder, batch_size: int, **options: Any) -> None:
        self.laps, self.order, self.batch_size = laps, order, batch_size
        super().__init__(**options)

    def _sizes(self, epoch: int) -> tuple[int, int]:
        """Batches and optimizer steps of an epoch."""
        examples, accumulation = self.order.lengths[epoch], self.args.gradient_accumulation_steps
        return math.ceil(examples / self.batch_size), epoch_steps(examples, self.batch_size, accumulation)

    def set_initial_training_values(self, *arguments: Any) -> Any:
        _, *others = super().set_initial_training_values(*arguments)
        return len(self.order.lengths), *others

    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        """The epoch that a run goes on with, and how many batches of it are done."""
        super()._init_training_state(*arguments)
        left = self.state.global_step
        for epoch in range(len(self.order.lengths)):
            _, steps = self._sizes(epoch)
            if left < steps:
                return epoch, left * self.args.gradient_accumulation_steps
            left -= steps
        return len(self.order.lengths), 0

    def _run_epoch(self, *, epoch: int, **options: Any) -> None:
        batches, steps = self._sizes(epoch)
        self.order.set_epoch(epoch)
        self._tell_lap(epoch, first=options["epochs_trained"])
        super()._run_epoch(epoch=epoch, **{**options, "steps_in_epoch": batches, "num_update_steps_per_epoch": steps})

    def _tell_lap(self, epoch: int, first: int) -> None:
        """One line in the log where a lap begins or a run goes on in it; a run of one lap says nothing."""
        begins = 0
        for lap in self.laps if len(self.laps) > 1 else ():
            if epoch in (begins, first) and begins <= epoch < begins + lap.epochs:
                of_lap = f"epoch {epoch - begins + 1} of {lap.epochs} over {lap.examples} examples"
                log.info("step %d: stage %s, %s", self.state.global_step + 1, lap.name, of_lap)
            begins += lap.epochs
