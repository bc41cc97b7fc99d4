"""What the parts of a run cost in seconds, before it runs: operations counted over a machine's rate. Without torch.

Costs are those of one fit on a share of the machine; how many there are, and at once, is `timing.py`'s. What does not
fit into the budget of the shared work is computed live in every step, and counted so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phasegpt.answers import UNPAIRED_METHOD, answers_of, couples_of
from phasegpt.config import Config
from phasegpt.metrics.declared import DECLARED
from phasegpt.pairs import AnswerSplit, Pair, Split, UnpairedRow
from phasegpt.shared_parts import GB, HIDDEN, TRUNK, fitting, part_bytes
from tune.memory import above_trunk
from tune.rate import Rate
from tune.shapes import Shape

TRAINING_SHARE = 0.75  # of the rate of a product: a step's other operations take the rest (docs/performance.md)
TOKENS_PER_WORD = 1.35
JUDGE_LAYERS, JUDGE_LAYER = 18, 3_540_000  # of SmolLM2: layers run over each answer, weights of one
PAIRS, ANSWERS, PROSE = "pairs", "answers", "perplexity"
"""The parts of an evaluation, as results name their seconds."""


@dataclass(frozen=True)
class Costs:
    """Seconds: of an optimiser step of each stage, of one evaluation by part, of making the shared work once."""

    steps: tuple[float, ...]
    evaluation: Mapping[str, float]
    shared: float


def costs_of(
    config: Config, runs: Sequence[Config], split: Split | AnswerSplit, shape: Shape, rate: Rate, prompts: int
) -> Costs:
    """The costs under a rate, `runs` being the stages of `config` and `prompts` how many are answered."""
    speed = rate.product(precision_of(config)) * TRAINING_SHARE
    prompt, answer = _mean_tokens(split.train, config.training.max_length)
    shared = shared_parts(config, shape, split)
    whole = _layer_flops(shape.layers, shape, prompt, answer) + _head_flops(shape, answer)
    pairs = len(answers_of((*split.train, *split.val))) / 2
    return Costs(
        steps=tuple(
            stage.training.micro_batch
            * stage.training.gradient_accumulation_steps
            * _example_flops(stage, shape, shared, prompt, answer)
            / speed
            for stage in runs
        ),
        evaluation={
            PAIRS: len(couples_of(split.val)) * _judging_flops(config, shape, shared, prompt, answer) / speed,
            ANSWERS: _answers_seconds(config, shape, rate, prompts, prompt),
            PROSE: _prose_flops(config, shape, shared) / speed,
        },
        shared=pairs * whole / speed,
    )


def precision_of(config: Config) -> str:
    """The precision that a run's products have."""
    training = config.training
    return "bfloat16" if training.bf16 else "float16" if training.fp16 else "float32"


def uncounted(config: Config) -> tuple[str, ...]:
    """Metrics of the user's own, whose cost nobody here knows."""
    return tuple(name for name in config.evaluation.metrics if name not in DECLARED)


@dataclass(frozen=True)
class SharedParts:
    """The large parts of shared work that a search wants, in bytes, and those that fit into its budget."""

    wanted: Mapping[str, float]
    kept: tuple[str, ...]

    def live(self, part: str) -> bool:
        """Whether each trial computes a part that it needs again in every step."""
        return part in self.wanted and part not in self.kept


def shared_parts(config: Config, shape: Shape, split: Split | AnswerSplit) -> SharedParts:
    """What `shared_work.max_gb` has room for."""
    rows = answers_of((*split.train, *split.val))
    prompt, answer = _mean_tokens(rows, config.training.max_length)
    prompts = len({row.prompt for row in rows})
    sizes = part_bytes(prompts * prompt + len(rows) * answer, len(rows) * answer, shape.hidden)
    measured = "kl_divergence" in config.evaluation.metrics or config.training.method == "kto"
    needed = {HIDDEN: measured, TRUNK: above_trunk(config, shape) < shape.layers}
    wanted = {part: size for part, size in sizes.items() if needed[part]}
    return SharedParts(wanted, fitting(wanted, config.shared_work.max_gb * GB))


def _mean_tokens(preferences: Sequence[Pair | UnpairedRow], longest: int) -> tuple[float, float]:
    """Mean tokens of a prompt and of one answer, from words."""
    rows = answers_of(preferences)
    prompt = sum(len(row.prompt.split()) for row in rows) / len(rows) * TOKENS_PER_WORD + 12
    answer = sum(len(row.completion.split()) for row in rows) / len(rows) * TOKENS_PER_WORD
    return prompt, min(answer, longest - prompt)


def _layer_flops(layers: int, shape: Shape, prompt: float, answer: float) -> float:
    """One pair through `layers` layers, its prompt once."""
    return (prompt + 2 * answer) * 2 * layers * shape.layer_parameters


def _head_flops(shape: Shape, answer: float) -> float:
    """Both answers of one pair through the head."""
    return 2 * answer * 2 * shape.vocabulary * shape.hidden


def _layers_run(config: Config, shape: Shape, shared: SharedParts) -> int:
    return shape.layers if shared.live(TRUNK) else above_trunk(config, shape)


def _example_flops(config: Config, shape: Shape, shared: SharedParts, prompt: float, answer: float) -> float:
    """One example: a pair, or for kto_unpaired an answer and a mismatched pair under policy and reference."""
    pair = _training_flops(config, shape, shared, prompt, answer)
    if config.training.method != UNPAIRED_METHOD:
        return pair
    layers = shape.layers + above_trunk(config, shape)
    return (pair + _layer_flops(layers, shape, prompt, answer) + 2 * _head_flops(shape, answer)) / 2


def _training_flops(config: Config, shape: Shape, shared: SharedParts, prompt: float, answer: float) -> float:
    """One pair forward and, above the trunk, backward; the head's logits and what they give back.

    With a divergence the head of the reference and its gradient come on top, and the reference where it runs live.
    """
    layers, backward = _layers_run(config, shape, shared), above_trunk(config, shape)
    with_divergence = config.training.method == "kto"
    if with_divergence and shared.live(HIDDEN):
        layers *= 2
    return _layer_flops(layers + backward, shape, prompt, answer) + _head_flops(shape, answer) * (
        4 if with_divergence else 2
    )


def _judging_flops(config: Config, shape: Shape, shared: SharedParts, prompt: float, answer: float) -> float:
    """One held-out pair, with the head of policy and reference."""
    layers = _layers_run(config, shape, shared) * (2 if shared.live(HIDDEN) else 1)
    return _layer_flops(layers, shape, prompt, answer) + 2 * _head_flops(shape, answer)


def _prose_flops(config: Config, shape: Shape, shared: SharedParts) -> float:
    if "perplexity" not in config.evaluation.metrics:
        return 0.0
    layers = _layers_run(config, shape, shared) * shape.layer_parameters
    return config.evaluation.fluency_tokens * 2 * (4 / 3 * layers + shape.vocabulary * shape.hidden)


def _answers_seconds(config: Config, shape: Shape, rate: Rate, prompts: int, prompt: float) -> float:
    """The answers to the prompts, each as long as it may be, and what metrics make of them."""
    evaluation = config.evaluation
    costs = {DECLARED[name].cost for name in evaluation.metrics if name in DECLARED}
    if not (uncounted(config) or any(cost.startswith("answers") for cost in costs)):
        return 0.0
    at_once = min(evaluation.batch_size, prompts)
    steps = math.ceil(prompts / evaluation.batch_size) * evaluation.max_new_tokens
    seconds = steps * rate.decoding_step(shape.parameters, at_once)
    if "inference_latency" in evaluation.metrics:
        seconds += evaluation.max_new_tokens * rate.decoding_step(shape.parameters, 1)
    read = 0.0
    if "answers + judge" in costs:
        read += prompts * evaluation.max_new_tokens * 2 * JUDGE_LAYERS * JUDGE_LAYER
    if "answers + reference" in costs:  # policy and reference over prompt and answer, with the head of both
        layers = (shape.layers + above_trunk(config, shape)) * shape.layer_parameters
        tokens = (prompt + evaluation.max_new_tokens) * 2 * layers
        read += prompts * (tokens + evaluation.max_new_tokens * 2 * 2 * shape.vocabulary * shape.hidden)
    return seconds + read / (rate.product(precision_of(config)) * TRAINING_SHARE)
