"""The plan of a search for people: one topic a line, wrapped to the terminal, warnings last. Counts nothing itself."""

import shutil
import textwrap
from collections.abc import Iterator

from phasegpt.pairs import AnswerSplit
from phasegpt.shared_parts import GB, HIDDEN, TRUNK
from tune.duration import uncounted
from tune.plan import UNKNOWN, Plan, memory_text
from tune.space_text import parameter_lines, sampling
from tune.timing import Timing

LABEL = 14
NARROWEST, WIDEST = 72, 110


def as_text(plan: Plan) -> str:
    """The plan, its lines as wide as the terminal is (100 where there is none)."""
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size((100, 24)).columns))
    lines = [f"Track {plan.request.track}: {plan.request.profile_reason}"]
    last = ""
    for label, text in _lines(plan):
        lines += _wrapped("" if label == last else label, text, width)
        last = label
    return "\n".join([*lines, "Nothing was started."])


def _wrapped(label: str, text: str, width: int) -> list[str]:
    indent = " " * LABEL
    return textwrap.wrap(
        text, width, initial_indent=f"  {label:{LABEL - 2}}", subsequent_indent=indent, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    request, config = plan.request, plan.request.config
    search, own = config.search, request.own_values()
    size = "" if plan.shape is None else f" ({plan.shape.parameters / 1e6:.0f}M parameters)"
    yield "model", f"{config.model.base_model}{size}, method {config.training.method}"
    yield "data", _data(plan)
    yield "checks", request.data.totals()
    yield "objectives", _objectives(plan)
    for line in parameter_lines(search, own):
        yield "space", line
    if request.arms:
        yield "arms", "; ".join(arm.label for arm in request.arms)
    else:
        yield "sampler", f"{search.sampler}: {sampling(search, own, plan.trials)}"
    yield "fits", _fits(plan)
    yield "at once", _at_once(plan)
    for line in _time(plan):
        yield "time", line
    yield "memory", memory_text(config, plan.memory)
    yield "shared work", _shared(plan)
    yield "disk", _disk(plan)
    yield "results", str(request.places.summary)
    for text in request.warnings:
        yield "note", text
    for number, each in enumerate(plan.advice, 1):
        yield f"warning {number}", str(each)


def _data(plan: Plan) -> str:
    split, held = plan.split, ", ".join(plan.request.config.evaluation.held_out_domains) or "no domain"
    rows = "answers" if isinstance(split, AnswerSplit) else "pairs"
    return (
        f"{len(split.train)} {rows} train, {len(split.val)} evaluate, {len(split.held_out)} held out ({held}); "
        f"{plan.amounts.prompts} prompts answered at each evaluation"
    )


def _objectives(plan: Plan) -> str:
    search = plan.request.config.search
    wanted = ", ".join(f"{name} {way}" for name, way in search.objectives.items())
    kept = ", ".join(f"{name} {constraint}" for name, constraint in search.constraints.items())
    return f"{wanted}; constraints {kept}" if kept else wanted


def _fits(plan: Plan) -> str:
    search, load = plan.request.config.search, plan.load
    most, fewest, whole = sum(load.trials), sum(load.fewest), plan.trials * load.stages[-1]
    stopped = "all run through" if fewest == whole else f"they take {fewest} to {most} of {whole} steps"
    stopped = f"they take {most} of {whole} steps" if fewest == most < whole else stopped
    each = f"{plan.finals // search.finalists.seeds} x {search.finalists.seeds} seeds"
    steps = f"{' + '.join(map(str, load.stages))} steps a fit, evaluated every {load.interval}"
    if plan.request.arms:
        return f"{plan.finals} runs of arms ({each}) + 1 baseline; {steps}"
    return (
        f"{plan.trials} trials (scheduler {search.scheduler}: {stopped}) + {plan.finals} finals "
        f"({each}) + 2 baselines; {steps}"
    )


def _at_once(plan: Plan) -> str:
    room, machine = plan.room, plan.machine
    if room.refusal:
        return "none on this machine, see the warnings"
    workers = " a worker" if plan.request.config.training.distributed.workers > 1 else ""
    each = f"{room.cpus:g} cores{f' and {room.gpus:g} GPU' if room.gpus else ''}{workers}"
    has = f"{machine.cores} cores{f', {len(machine.gpus)} GPU' if machine.gpus else ''}"
    by_memory = "" if room.by_memory is None else f"; memory has room for {room.by_memory}"
    trials = "1 trial" if room.count == 1 else f"{room.count} trials"
    return f"{trials} of {each}, limited by {room.limit} (this machine has {has}){by_memory}"


def _time(plan: Plan) -> Iterator[str]:
    timing = plan.timing
    if timing is None:
        yield plan.no_time
        return
    span = _long(timing.most)
    if timing.fewest < 0.95 * timing.most:
        span = f"{_long(timing.fewest)} to {span}"
    yield f"about {span} in all, {timing.source}"
    yield _parts(timing, plan.load.earlier_runs or 0)
    if own := uncounted(plan.request.config):
        known = "as dear as in that search" if timing.basis == "last search" else "not counted"
        yield f"metrics of your own are {known}: {', '.join(own)}"


def _parts(timing: Timing, earlier: int) -> str:
    first_stage = f", train the first stage {earlier} times" if earlier else ""
    return (
        f"a fit {_short(timing.fit)}: a step {_short(timing.step)}, an evaluation {_short(timing.evaluation)}; "
        f"once {_short(timing.once)} to start{first_stage}, measure the untuned model and register the winner"
    )


def _long(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else _long(seconds)


def _shared(plan: Plan) -> str:
    if plan.shared is None:
        return UNKNOWN
    names = {HIDDEN: "the reference's states", TRUNK: "the frozen trunk"}
    kept = ", ".join(f"{names[part]} {plan.shared.wanted[part] / GB:.2f} GB" for part in plan.shared.kept)
    live = ", ".join(
        f"{names[part]} ({size / GB:.2f} GB) computed live in every step, over shared_work.max_gb"
        for part, size in plan.shared.wanted.items()
        if plan.shared.live(part)
    )
    made = kept and f"{kept} on disk, once for all trials"
    return "; ".join(text for text in (made, live) if text) or "token ids alone"


def _disk(plan: Plan) -> str:
    disk = plan.disk
    if disk is None:
        return UNKNOWN
    return (
        f"about {_bytes(disk.total)} at most: checkpoints {_bytes(disk.checkpoints)}, adapters and their copies in "
        f"MLflow {_bytes(disk.adapters)}, shared work {_bytes(disk.shared)}; {_bytes(disk.stays)} stay "
        f"(search.keep: {plan.request.config.search.keep}); {_bytes(disk.free)} free"
    )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
