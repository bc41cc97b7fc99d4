"""What a search would do, before it does it: space, fits, data, time and memory. Starts nothing, imports no torch.

Time is counted matrix-multiply FLOPs over this machine's own rate, measured in a fraction of a second; generation runs
at a lower share of that rate, since it reads every weight for each new token.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from phasegpt.answers import UNPAIRED_METHOD, answers_of, couples_of, examples_of, read_preferences, split_preferences
from phasegpt.config import Config, stages
from phasegpt.config_io import resolve
from phasegpt.pairs import AnswerSplit, Pair, Split, UnpairedRow
from phasegpt.schedule import laps, optimizer_steps
from tune.finalists import most_finals
from tune.memory import Memory, above_trunk, estimate, rows
from tune.request import Request
from tune.shapes import Shape, shape_of
from tune.space import budget

TRAINING_SHARE, DECODING_SHARE = 0.75, 0.2  # of the measured rate: searches on two cores came near these
TOKENS_PER_WORD = 1.35
START_SECONDS = 25
LITERATURE_LR = 6e-5
MEMORY_PARTS = tuple(field.name for field in fields(Memory))


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
    memory: Memory | None
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
    shape = shape_of(config)
    per_fit, total = _seconds(config, runs, steps, split, shape, trials, finals)
    memory = None if shape is None else memory_of(config, shape, split)
    return Plan(request, split, trials, finals, steps, shape, per_fit, total, memory, _advice(config))


def _steps(config: Config, examples: int) -> int:
    training = config.training
    run = laps(examples, training.num_epochs, training.curriculum_learning.active)
    return optimizer_steps(run, training.micro_batch, training.gradient_accumulation_steps, training.max_steps)


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
        * stage.training.micro_batch
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


def _example_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One example: a pair, or for kto_unpaired an answer and a mismatched pair under policy and reference."""
    pair = _training_flops(config, shape, prompt, answer)
    if config.training.method != UNPAIRED_METHOD:
        return pair
    layers = shape.layers + above_trunk(config, shape)
    return (pair + _layer_flops(layers, shape, prompt, answer) + 2 * _head_flops(shape, answer)) / 2


def _training_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One pair forward and backward above the trunk; chunks of the head are computed twice, with a divergence more."""
    head = _head_flops(shape, answer) * (5 if config.training.method == "kto" else 3)
    return 2 * _layer_flops(above_trunk(config, shape), shape, prompt, answer) + head


def _judging_flops(config: Config, shape: Shape, prompt: float, answer: float) -> float:
    """One held-out pair above the trunk, with the head of policy and reference."""
    return _layer_flops(above_trunk(config, shape), shape, prompt, answer) + 2 * _head_flops(shape, answer)


def _evaluation_seconds(config: Config, shape: Shape, pair_flops: float, rate: float) -> float:
    evaluation = config.evaluation
    token = 2 * shape.parameters
    decoded = (evaluation.max_prompts or 24) * evaluation.max_new_tokens * token
    perplexity = evaluation.fluency_tokens * 4 / 3 * token
    return decoded / (rate * DECODING_SHARE) + (perplexity + pair_flops) / (rate * TRAINING_SHARE)


def memory_of(config: Config, shape: Shape, split: Split | AnswerSplit) -> Memory:
    """The memory of a worker at the longest rows of the data, of the stage that needs more."""
    answers = answers_of(split.train)
    lengths = [_tokens(row.completion) for row in answers]
    longest = min(config.training.max_length, max(_tokens(row.prompt) + 12 for row in answers) + max(lengths))
    found = [
        estimate(stage, shape, rows(stage) * longest, rows(stage) * min(longest, max(lengths)))
        for stage in stages(config)
    ]
    return max(found, key=lambda memory: memory.total)


def _tokens(text: str) -> float:
    return len(text.split()) * TOKENS_PER_WORD


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
            f"  {'space' if i == 0 else '':11} {key}: {d.kind} {list(d.values)}"
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
    return memory_text(plan.request.config, plan.memory)


def memory_text(config: Config, memory: Memory | None) -> str:
    """An estimate and its parts for people."""
    if memory is None:
        return "unknown until the base model is here"
    said = ", ".join(f"{name} {getattr(memory, name) / 1e9:.2f}" for name in MEMORY_PARTS)
    one = "a worker" if config.training.distributed.workers > 1 else "a trial"
    return f"about {memory.total / 1e9:.1f} GB {one} ({said})"


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
        "memory_gb": None if plan.memory is None else plan.memory.total / 1e9,
        "memory": None if plan.memory is None else asdict(plan.memory),
        "data_checks": plan.request.data.as_dict(),
        "notes": [*plan.request.warnings, *plan.warnings],
        "config": plan.request.config.dump(),
    }
