"""How much a config asks for, counted from its data: split, prompts, passes, optimiser steps. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from phasegpt.answers import examples_of, preferences_of, split_of
from phasegpt.config import Config, stages
from phasegpt.config_io import resolve
from phasegpt.pairs import HALVES, AnswerSplit, Split, read_prompts, take_prompts
from phasegpt.schedule import Lap, laps, optimizer_steps


@dataclass(frozen=True)
class Amounts:
    """What a search takes: the split of its rows, the prompts that an evaluation answers, and of each stage its
    examples, its laps over them and its optimiser steps.
    """

    split: Split | AnswerSplit
    prompts: int
    examples: tuple[int, ...]
    laps: tuple[tuple[Lap, ...], ...]
    steps: tuple[int, ...]

    def passes(self, examples_a_step: int) -> float:
        """How often the last stage sees an example on the average, at most as often as its steps allow."""
        by_laps = sum(lap.epochs * lap.examples for lap in self.laps[-1])
        return min(by_laps, self.steps[-1] * examples_a_step) / self.examples[-1]


def amounts_of(config: Config) -> Amounts:
    """The amounts of a config whose data have been checked. Raises PairsError where they cannot be read."""
    split, runs = split_of(preferences_of(config), config), stages(config)
    examples = [len(examples_of(split.train, stage.training.method)) for stage in runs]
    taken = [
        laps(count, stage.training.num_epochs, stage.training.curriculum_learning.active)
        for stage, count in zip(runs, examples, strict=True)
    ]
    steps = [_steps(stage, run) for stage, run in zip(runs, taken, strict=True)]
    return Amounts(split, _prompts(config), tuple(examples), tuple(taken), tuple(steps))


def _steps(stage: Config, run: Sequence[Lap]) -> int:
    training = stage.training
    return optimizer_steps(run, training.micro_batch, training.gradient_accumulation_steps, training.max_steps)


def _prompts(config: Config) -> int:
    """Of the half that has more."""
    prompts = read_prompts(resolve(config.evaluation.prompts))
    return max(len(take_prompts(prompts, half, config.evaluation.max_prompts)) for half in HALVES)
