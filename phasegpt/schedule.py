"""How long a run is, and what moves over its optimizer steps. Plain arithmetic that the trainer and the plan share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phasegpt.config_sections import CurriculumStage


@dataclass(frozen=True)
class Lap:
    """`epochs` passes over the first `examples` of a run's examples. A plain run is one lap over all of them."""

    name: str
    epochs: int
    examples: int


def laps(examples: int, epochs: int, stages: Sequence[CurriculumStage] = ()) -> tuple[Lap, ...]:
    """The laps of a run: one for each stage of a curriculum over the easiest share of `examples`, at least one.

    Without stages it is `epochs` passes over all examples.
    """
    if not stages:
        return (Lap("all", epochs, examples),)
    return tuple(Lap(stage.name, stage.epochs, _share(stage.data_fraction, examples)) for stage in stages)


def _share(fraction: float, examples: int) -> int:
    """⌈fraction · examples⌉; 0.07 of 100 is 7, although the float product lies above it."""
    return max(1, math.ceil(fraction * examples - 1e-9))


def epoch_steps(examples: int, batch_size: int, accumulation: int) -> int:
    """Steps of one pass over examples, a step taking `accumulation` batches; the last step may hold fewer examples."""
    return math.ceil(math.ceil(examples / batch_size) / accumulation)


def optimizer_steps(run: Sequence[Lap], batch_size: int, accumulation: int, max_steps: int | None) -> int:
    """Steps of all laps of a run, at most `max_steps`."""
    by_epochs = sum(epoch_steps(lap.examples, batch_size, accumulation) * lap.epochs for lap in run)
    return by_epochs if max_steps is None else min(max_steps, by_epochs)


@dataclass(frozen=True)
class Course:
    """A weight that moves from `initial` at the first step of a run to `final` at its last.

    At step s of n, with x = (s − 1)/(n − 1), or 0 where n = 1:
    linear  initial + (final − initial) · x
    cosine  initial + (final − initial) · (1 − cos πx)/2, which starts and ends gently

    Worked by hand: from 0 to 0.4 in 5 steps, linear 0, 0.1, 0.2, 0.3, 0.4; cosine 0, 0.0586, 0.2, 0.3414, 0.4.
    """

    initial: float
    final: float
    kind: str = "linear"

    def at(self, step: int, steps: int) -> float:
        """The weight at `step`, from 1 to `steps`."""
        x = (step - 1) / max(1, steps - 1)
        moved = x if self.kind == "linear" else (1 - math.cos(math.pi * x)) / 2
        return self.initial + (self.final - self.initial) * moved
