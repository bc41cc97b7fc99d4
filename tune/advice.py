"""Warnings about settings that the literature rules out or that leave too little to tell: named, never forbidden.

Each names the key, its value, where the limit comes from and what to do. Knows only the config and a few counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from phasegpt.answers import UNPAIRED_METHOD
from phasegpt.config import Config, unused, value_at
from tune.amounts import Amounts
from tune.stopping import rungs

DPO_LR, KTO_LR = 6e-5, 1e-5
BETAS = 0.01, 0.5
KTO_BATCH, FEW_STEPS, FEW_PROMPTS = 4, 5, 10
MANY_PASSES, FEW_EXAMPLES = 5.0, 500


@dataclass(frozen=True)
class Advice:
    """One warning: a key, what is set there, and what to know about it."""

    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        return f"{self.key} {self.text}"


def advice(config: Config, amounts: Amounts) -> tuple[Advice, ...]:
    """Every warning about a search, those that weigh most first; `config` is the whole, not a stage."""
    return (*_rates(config), *_batches(config), *_betas(config), *_amounts(config, amounts))


def _values(config: Config, name: str) -> Iterator[tuple[str, float, float]]:
    """(key, lowest, highest) of a value of the preference stage: what is searched, else the config's own."""
    for key in (f"training.{name}", f"training.phase_b.{name}"):
        values = [] if unused(config, key) else [value_at(config, key)]
        if key in config.search.parameters:
            values += config.search.parameters[key].edges()
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers:
            yield key, min(numbers), max(numbers)


def _goes(config: Config, key: str, way: str, value: float) -> str:
    return f"goes {way} to {value:g}" if key in config.search.parameters else f"is {value:g}"


def _rates(config: Config) -> Iterator[Advice]:
    unpaired = config.training.method == UNPAIRED_METHOD
    limit = KTO_LR if unpaired else DPO_LR
    known = (
        f"KTO is run at {KTO_LR:g} or less (arXiv 2402.01306, TRL's KTOTrainer)"
        if unpaired
        else f"above about {DPO_LR:g} DPO adapters memorise pairs (trl#1236)"
    )
    for key, _, high in _values(config, "learning_rate"):
        if high > limit:
            yield Advice(
                key, high,
                f"{_goes(config, key, 'up', high)}: {known}. A small model and few steps may want more, as under the "
                f"laptop profile: believe the final prompts, or take a range up to {limit:g}.",
            )  # fmt: skip


def _batches(config: Config) -> Iterator[Advice]:
    if config.training.method != UNPAIRED_METHOD:
        return
    workers = config.training.distributed.workers
    for key, low, _ in _values(config, "batch_size"):
        if low * workers < KTO_BATCH:
            yield Advice(
                key, low,
                f"{_goes(config, key, 'down', low)}{f' on each of {workers} workers' if workers > 1 else ''}: KTO "
                f"estimates its KL from the other rows of a batch, and fewer than {KTO_BATCH} a step say little about "
                f"it (TRL's KTOTrainer); raise it to {KTO_BATCH} or more.",
            )  # fmt: skip


def _betas(config: Config) -> Iterator[Advice]:
    low_limit, high_limit = BETAS
    for key, low, high in _values(config, "beta"):
        beyond = [_goes(config, key, "down", low)] if low < low_limit else []
        beyond += [_goes(config, key, "up", high)] if high > high_limit else []
        if beyond:
            yield Advice(
                key, high if high > high_limit else low,
                f"{' and '.join(beyond)}: published settings lie between {low_limit:g} (Zephyr) and {high_limit:g} "
                f"(SmolLM2); lower drifts from the reference, higher hardly moves. Compare trials at equal "
                f"kl_divergence, or take a range inside.",
            )  # fmt: skip


def _amounts(config: Config, amounts: Amounts) -> Iterator[Advice]:
    training = config.training
    phase = "training.phase_b" if training.phase_b is not None else "training"
    if amounts.steps[-1] < FEW_STEPS:
        key = f"{phase}.{'max_steps' if training.max_steps else 'num_epochs'}"
        yield Advice(
            key, amounts.steps[-1],
            f"gives {amounts.steps[-1]} optimiser steps: fewer than {FEW_STEPS} hardly move a model, and trials differ "
            f"by chance. Raise it, or lower gradient_accumulation_steps.",
        )  # fmt: skip
    scheduler, interval = config.search.scheduler, config.evaluation.eval_interval
    if scheduler != "none" and len(rungs(amounts.steps[-1], interval)) == 1:
        yield Advice(
            "search.scheduler", scheduler,
            f"is {scheduler}, and stops nobody: a trial takes {amounts.steps[-1]} steps and is evaluated every "
            f"{interval}. Set evaluation.eval_interval to a third of the steps or less.",
        )  # fmt: skip
    if amounts.prompts < FEW_PROMPTS:
        key = "evaluation.max_prompts" if config.evaluation.max_prompts == amounts.prompts else "evaluation.prompts"
        yield Advice(
            key, amounts.prompts,
            f"gives {amounts.prompts} prompts a half: with fewer than {FEW_PROMPTS} the intervals are wide, and a "
            f"winner is seldom told from the config's own values (arXiv 2503.01747). Give more prompts.",
        )  # fmt: skip
    passes = amounts.passes(training.micro_batch * training.gradient_accumulation_steps)
    if passes > MANY_PASSES and amounts.examples[-1] < FEW_EXAMPLES:
        key = "training.curriculum_learning.stages" if training.curriculum_learning.active else f"{phase}.num_epochs"
        yield Advice(
            key, passes,
            f"shows each of {amounts.examples[-1]} examples {passes:.1f} times: over so few, answers get worse while "
            f"the training reward still rises (arXiv 2406.02900). Take fewer, or a smaller evaluation.eval_interval "
            f"with save_best_only.",
        )  # fmt: skip
