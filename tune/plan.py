"""What a search would do, before it does it: space, fits, data, time and memory. Starts nothing, imports no torch.

Time is counted matrix-multiply FLOPs over this machine's own rate, measured in a fraction of a second; generation runs
at a lower share of that rate, since it reads every weight for each new token.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phasegpt.answers import UNPAIRED_METHOD, answers_of, couples_of, examples_of, read_preferences, split_preferences
from phasegpt.base_model import BUNDLED
from phasegpt.bundled import bundled_folder
from phasegpt.config import Config, stages
from phasegpt.config_io import resolve
from phasegpt.pairs import AnswerSplit, Pair, Split, UnpairedRow
from phasegpt.schedule import laps, optimizer_steps
from tune.finalists import most_finals
from tune.request import Request
from tune.space import budget

TRAINING_SHARE, DECODING_SHARE = 0.75, 0.2  # of the measured rate: searches on two cores came near these
TOKENS_PER_WORD = 1.35
START_SECONDS = 25
LITERATURE_LR = 6e-5


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that cost time: parameters of its layers, of its head, and how deep it is."""

    layers: int
    hidden: int
    vocabulary: int
    layer_parameters: int

    @property
    def parameters(self) -> int:
        """All of them, tied embedding counted once."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden


@dataclass(frozen=True)
class Plan:
    """The numbers of a search to come. Seconds are estimates; None where the base model is not here yet."""

    request: Request
    split: Split | AnswerSplit
    trials: int
    finals: int
    steps: tuple[int, ...]
    shape: Shape | None
    seconds_per_fit: float | None
    seconds: float | None
    memory_gb: float | None
    warnings: tuple[str, ...]


def make_plan(request: Request) -> Plan:
    """The plan of a request."""
    config, training, strata = request.config, request.config.training, request.config.data.stratify_by
    dataset, held_out = resolve(training.preference_dataset), config.evaluation.held_out_domains
    preferences = read_preferences(dataset, training.method, config.data.domains, strata)
    split = split_preferences(preferences, config.data.val_split, strata, held_out, config.experiment.seed)
    search = config.search
    trials = budget(search, request.own_values())
    finals = most_finals(search, trials)
    runs = stages(config)
    steps = tuple(_steps(stage, len(examples_of(split.train, stage.training.method))) for stage in runs)
    shape = _shape(config)
    per_fit, total = _seconds(config, runs, steps, split, shape, trials, finals)
    memory = None if shape is None else _memory_gb(config, shape, len(answers_of(preferences)))
    return Plan(request, split, trials, finals, steps, shape, per_fit, total, memory, _advice(config))


def _steps(config: Config, examples: int) -> int:
    training = config.training
    run = laps(examples, training.num_epochs, training.curriculum_learning.active)
    return optimizer_steps(run, training.batch_size, training.gradient_accumulation_steps, training.max_steps)


def _shape(config: Config) -> Shape | None:
    name = config.model.base_model
    folder = bundled_folder() if name == BUNDLED else resolve(name)
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    sizes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    heads = sizes["num_attention_heads"]
    key_value = sizes.get("num_key_value_heads", heads) * (sizes.get("head_dim") or hidden // heads)
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner
    return Shape(sizes["num_hidden_layers"], hidden, sizes["vocab_size"], layer)


def _seconds(
    config: Config,
    runs: Sequence[Config],
    steps: Sequence[int],
    split: Split | AnswerSplit,
    shape: Shape | None,
    trials: int,
    finals: int,
) -> tuple[float | None, float | None]:
    if shape is None:
        return None, None
    rate = machine_rate()
    prompt, answer = _mean_tokens(split.train, config.training.max_length)
    training = sum(
        count
        * stage.training.batch_size
        * stage.training.gradient_accumulation_steps
        * _example_flops(stage, shape, prompt, answer)
        for stage, count in zip(runs, steps, strict=True)
    )
    evaluations = max(1, math.ceil(steps[-1] / config.evaluation.eval_interval))
    evaluation = _evaluation_seconds(
        config, shape, len(couples_of(split.val)) * _judging_flops(config, shape, prompt, answer), rate
    )
    per_fit = training / (rate * TRAINING_SHARE) + evaluations * evaluation
    whole = _layer_flops(shape.layers, shape, prompt, answer) + _head_flops(shape, answer)
    shared = len(answers_of((*split.train, *split.val))) / 2 * whole / (rate * TRAINING_SHARE)
    return per_fit, START_SECONDS + shared + 2 * evaluation + (trials + finals) * per_fit


def _mean_tokens(preferences: Sequence[Pair | UnpairedRow], longest: int) -> tuple[float, float]:
    """Mean tokens of a prompt and of one answer, from words."""
    rows = answers_of(preferences)
    prompt = sum(len(row.prompt.split()) for row in rows) / len(rows) * TOKENS_PER_WORD + 12
    answer = sum(len(row.completion.split()) for row in rows) / len(rows) * TOKENS_PER_WORD
    return prompt, min(answer, longest - prompt)


def _layer_flops(layers: int, shape: Shape, prompt: float, answer: float) -> float:
    """Both sequences of one pair through `layers` layers."""
    return 2 * (prompt + answer) * 2 * layers * shape.layer_parameters


def _head_flops(shape: Shape, answer: float) -> float:
    """Both answers of one pair through the head."""
    return 2 * answer * 2 * shape.vocabulary * shape.hidden


def _above_trunk(config: Config, shape: Shape) -> int:
    """The layers from the lowest adapter up: those below are computed once for all trials."""
    adapted = config.model.lora_config.layers_to_transform
    if adapted == "upper_third":
        return shape.layers // 3
    return shape.layers - min(adapted) if isinstance(adapted, tuple) else shape.layers


def _example_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One example: a pair, or for kto_unpaired an answer and a mismatched pair under policy and reference."""
    pair = _training_flops(config, shape, prompt, answer)
    if config.training.method != UNPAIRED_METHOD:
        return pair
    layers = shape.layers + _above_trunk(config, shape)
    return (pair + _layer_flops(layers, shape, prompt, answer) + 2 * _head_flops(shape, answer)) / 2


def _training_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One pair forward and backward above the trunk; chunks of the head are computed twice, with a divergence more."""
    head = _head_flops(shape, answer) * (5 if config.training.method == "kto" else 3)
    return 2 * _layer_flops(_above_trunk(config, shape), shape, prompt, answer) + head


def _judging_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One held-out pair above the trunk, with the head of policy and reference."""
    return _layer_flops(_above_trunk(config, shape), shape, prompt, answer) + 2 * _head_flops(shape, answer)


def _evaluation_seconds(config: Config, shape: Shape, pair_flops: float, rate: float) -> float:
    evaluation = config.evaluation
    token = 2 * shape.parameters
    decoded = (evaluation.max_prompts or 24) * evaluation.max_new_tokens * token
    perplexity = evaluation.fluency_tokens * 4 / 3 * token
    return decoded / (rate * DECODING_SHARE) + (perplexity + pair_flops) / (rate * TRAINING_SHARE)


def _memory_gb(config: Config, shape: Shape, answers: int) -> float:
    """Weights, what a training step keeps for its backward pass, and one chunk of logits; float32."""
    tokens = 2 * config.training.batch_size * config.training.max_length
    activations = tokens * shape.hidden * 4 * 34 * shape.layers
    logits = 256 * shape.vocabulary * 4 * 6
    return (shape.parameters * 4 + activations + logits + answers * 3e5) / 1e9 + 1.0


def _advice(config: Config) -> tuple[str, ...]:
    """Settings that the literature rules out, named but not forbidden."""
    said = []
    for key in ("training.learning_rate", "training.phase_b.learning_rate"):
        edges = config.search.parameters[key].edges() if key in config.search.parameters else ()
        highest = max((edge for edge in edges if isinstance(edge, float)), default=0.0)
        if highest > LITERATURE_LR:
            said.append(
                f"{key} goes up to {highest:g}: above about {LITERATURE_LR:g} DPO adapters memorise pairs (trl#1236); "
                f"with few steps that may still be right, so judge by the final prompts"
            )
    return tuple(said)


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


def as_text(plan: Plan) -> str:
    """The plan for people."""
    request, config = plan.request, plan.request.config
    search = config.search
    lines = [
        f"Track {request.track}: {request.profile_reason}",
        f"  model       {config.model.base_model}{_size(plan.shape)}, method {config.training.method}",
        f"  data        {len(plan.split.train)} {_rows(plan)} train, {len(plan.split.val)} evaluate, "
        f"{len(plan.split.held_out)} held out ({', '.join(config.evaluation.held_out_domains) or 'no domain'})",
        f"  checks      {request.data.totals()}",
        f"  objectives  {', '.join(f'{name} {way}' for name, way in search.objectives.items())}"
        + (
            f"; constraints {', '.join(f'{n} {c}' for n, c in search.constraints.items())}"
            if search.constraints
            else ""
        ),
        *(
            f"  {'space' if i == 0 else '':11} {key}: {d.kind} {d.plain()}"
            for i, (key, d) in enumerate(search.parameters.items())
        ),
        f"  fits        {plan.trials} trials ({search.sampler}, scheduler {search.scheduler}) "
        f"+ {plan.finals} finals ({search.finalists.count} x {search.finalists.seeds} seeds) + 2 baselines, "
        f"{' + '.join(map(str, plan.steps))} steps each",
        f"  time        {_time(plan)}",
        f"  memory      {_memory(plan)}",
        f"  results     {request.places.summary}",
        *(f"  note        {text}" for text in (*request.warnings, *plan.warnings)),
        "Nothing was started.",
    ]
    return "\n".join(lines)


def _rows(plan: Plan) -> str:
    return "answers" if isinstance(plan.split, AnswerSplit) else "pairs"


def _size(shape: Shape | None) -> str:
    return "" if shape is None else f" ({shape.parameters / 1e6:.0f}M parameters)"


def _time(plan: Plan) -> str:
    if plan.seconds is None or plan.seconds_per_fit is None:
        return "unknown until the base model is here"
    minutes, fit = plan.seconds / 60, plan.seconds_per_fit
    return f"about {minutes:.0f} min one fit after another, {fit:.0f} s a fit (estimated from FLOPs)"


def _memory(plan: Plan) -> str:
    return f"about {plan.memory_gb:.1f} GB a trial" if plan.memory_gb else "unknown until the base model is here"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for scripts."""
    return {
        "track": plan.request.track,
        "profile": plan.request.profile,
        "trials": plan.trials,
        "finals": plan.finals,
        "steps": list(plan.steps),
        "pairs": {"train": len(plan.split.train), "val": len(plan.split.val), "held_out": len(plan.split.held_out)},
        "seconds_per_fit": plan.seconds_per_fit,
        "seconds": plan.seconds,
        "memory_gb": plan.memory_gb,
        "data_checks": plan.request.data.as_dict(),
        "notes": [*plan.request.warnings, *plan.warnings],
        "config": plan.request.config.dump(),
    }
