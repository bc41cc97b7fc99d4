"""How long a search takes, before it does: counted matrix-multiply FLOPs over this machine's own rate. Without torch.

Generation runs at a lower share of that rate, since it reads every weight for each new token. What does not fit into
the budget of the shared work is computed live in every step, and counted so.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phasegpt.answers import UNPAIRED_METHOD, answers_of, couples_of
from phasegpt.config import Config
from phasegpt.pairs import AnswerSplit, Pair, Split, UnpairedRow
from phasegpt.shared_parts import GB, HIDDEN, TRUNK, fitting, part_bytes
from tune.memory import above_trunk
from tune.shapes import Shape

TRAINING_SHARE, DECODING_SHARE = 0.75, 0.2  # of the measured rate: searches on two cores came near these
TOKENS_PER_WORD = 1.35
START_SECONDS = 25


def seconds_of(
    config: Config, runs: Sequence[Config], steps: Sequence[int], split: Split | AnswerSplit, shape: Shape, fits: int
) -> tuple[float, float]:
    """Seconds of one fit, and of `fits` of them one after another with all that comes before; `steps` are of `runs`."""
    rate = machine_rate()
    prompt, answer = _mean_tokens(split.train, config.training.max_length)
    shared = shared_parts(config, shape, split)
    training = sum(
        count
        * stage.training.micro_batch
        * stage.training.gradient_accumulation_steps
        * _example_flops(stage, shape, shared, prompt, answer)
        for stage, count in zip(runs, steps, strict=True)
    )
    evaluations = max(1, math.ceil(steps[-1] / config.evaluation.eval_interval))
    judging = len(couples_of(split.val)) * _judging_flops(config, shape, shared, prompt, answer)
    evaluation = _evaluation_seconds(config, shape, shared, judging, rate)
    per_fit = training / (rate * TRAINING_SHARE) + evaluations * evaluation
    whole = _layer_flops(shape.layers, shape, prompt, answer) + _head_flops(shape, answer)
    once = len(answers_of((*split.train, *split.val))) / 2 * whole / (rate * TRAINING_SHARE)
    return per_fit, START_SECONDS + once + 2 * evaluation + fits * per_fit


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


def _evaluation_seconds(config: Config, shape: Shape, shared: SharedParts, pair_flops: float, rate: float) -> float:
    evaluation = config.evaluation
    decoded = (evaluation.max_prompts or 24) * evaluation.max_new_tokens * 2 * shape.parameters
    layers = _layers_run(config, shape, shared) * shape.layer_parameters
    perplexity = evaluation.fluency_tokens * 2 * (4 / 3 * layers + shape.vocabulary * shape.hidden)
    return decoded / (rate * DECODING_SHARE) + (perplexity + pair_flops) / (rate * TRAINING_SHARE)


def machine_rate() -> float:
    """This machine's matrix-multiply rate in FLOP/s, from a float32 product repeated for 0.2 s."""
    import numpy as np

    size = 1024
    a = np.ones((size, size), dtype=np.float32)
    np.matmul(a, a)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < 0.2:
        np.matmul(a, a)
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begun)
