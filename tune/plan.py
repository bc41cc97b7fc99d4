"""What a search would do, before it does it: space, fits, data, time and memory. Starts nothing, imports no torch."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from phasegpt.answers import answers_of, examples_of, read_preferences, split_preferences
from phasegpt.config import Config, stages
from phasegpt.config_io import resolve
from phasegpt.pairs import AnswerSplit, Split
from phasegpt.schedule import laps, optimizer_steps
from phasegpt.shared_parts import GB, HIDDEN, TRUNK
from tune.duration import TOKENS_PER_WORD, SharedParts, seconds_of, shared_parts
from tune.finalists import most_finals
from tune.memory import Memory, estimate, micro_batch
from tune.request import Request
from tune.shapes import Shape, shape_of
from tune.space import budget

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
    shared: SharedParts | None
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
    if shape is None:
        return Plan(request, split, trials, finals, steps, None, None, None, None, None, _advice(config))
    per_fit, total = seconds_of(config, runs, steps, split, shape, trials + finals)
    memory, shared = memory_of(config, shape, split), shared_parts(config, shape, split)
    return Plan(request, split, trials, finals, steps, shape, per_fit, total, memory, shared, _advice(config))


def _steps(config: Config, examples: int) -> int:
    training = config.training
    run = laps(examples, training.num_epochs, training.curriculum_learning.active)
    return optimizer_steps(run, training.micro_batch, training.gradient_accumulation_steps, training.max_steps)


def memory_of(config: Config, shape: Shape, split: Split | AnswerSplit) -> Memory:
    """The memory of a worker at the longest prompt and answer of the data, of the stage that needs more."""
    answers = answers_of(split.train)
    prompt = max(_tokens(row.prompt) + 12 for row in answers)
    answer = min(config.training.max_length - prompt, max(_tokens(row.completion) for row in answers))
    found = [estimate(stage, shape, *micro_batch(stage, prompt, answer)) for stage in stages(config)]
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
        f"  shared      {_shared(plan)}",
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


def _shared(plan: Plan) -> str:
    if plan.shared is None:
        return "unknown until the base model is here"
    names = {HIDDEN: "the reference's states", TRUNK: "the frozen trunk"}
    kept = ", ".join(f"{names[part]} {plan.shared.wanted[part] / GB:.2f} GB" for part in plan.shared.kept)
    live = ", ".join(
        f"{names[part]} ({size / GB:.2f} GB) computed live in every step, over shared_work.max_gb"
        for part, size in plan.shared.wanted.items()
        if plan.shared.live(part)
    )
    return (
        "; ".join(text for text in (kept and f"{kept} on disk, once for all trials", live) if text) or "token ids alone"
    )


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
        "shared_work": None if plan.shared is None else {"bytes": dict(plan.shared.wanted), "kept": plan.shared.kept},
        "data_checks": plan.request.data.as_dict(),
        "notes": [*plan.request.warnings, *plan.warnings],
        "config": plan.request.config.dump(),
    }
