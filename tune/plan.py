"""What a search would do, before it does it: space, fits, data, time, memory, disk, and what speaks against it.

Starts nothing and imports no torch. `plan_text.py` says it to people.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from phasegpt.answers import answers_of
from phasegpt.config import USED_BY, Config, stages
from phasegpt.pairs import AnswerSplit, Split
from tune.advice import Advice, advice
from tune.amounts import Amounts, amounts_of
from tune.capacity import Ask
from tune.disk import Disk, Jobs, disk_of
from tune.duration import TOKENS_PER_WORD, SharedParts, shared_parts
from tune.finalists import most_finals
from tune.forecast import forecast
from tune.machine import Machine, free_disk, this_machine
from tune.memory import Memory, estimate, micro_batch
from tune.request import Request
from tune.room import Room, room_of
from tune.shapes import Shape, shape_of
from tune.space import budget
from tune.space_text import sampling
from tune.stopping import cohort_size, fewest_asha_steps, halving_steps, rungs
from tune.timing import Load, Timing

UNKNOWN = "unknown until the base model is here"
MEMORY_PARTS = tuple(field.name for field in fields(Memory))


@dataclass(frozen=True)
class Plan:
    """The numbers of a search to come, all estimates. Those of time, memory and disk are None where the base model is
    not here yet; `no_time` says why there is no time where there is none.
    """

    request: Request
    amounts: Amounts
    trials: int
    finals: int
    load: Load
    machine: Machine
    room: Room
    shape: Shape | None
    memory: Memory | None
    shared: SharedParts | None
    disk: Disk | None
    timing: Timing | None
    no_time: str
    advice: tuple[Advice, ...]

    @property
    def split(self) -> Split | AnswerSplit:
        """The rows by what they are for."""
        return self.amounts.split


def make_plan(request: Request, ask: Ask | None = None) -> Plan:
    """The plan of a request on this machine; `ask` is what the command says of resources."""
    config, search = request.config, request.config.search
    amounts, shape, machine = amounts_of(config), shape_of(config), this_machine()
    trials = 0 if request.arms else budget(search, request.own_values())
    finals = len(request.arms) * search.finalists.seeds if request.arms else most_finals(search, trials)
    load = _load(config, amounts.steps, trials, finals)
    memory = shared = disk = timing = None
    no_time = UNKNOWN if shape is None else "unknown: this machine has no room for it"
    if shape is not None:
        memory, shared = memory_of(config, shape, amounts.split), shared_parts(config, shape, amounts.split)
    room = room_of(machine, ask or Ask(config.training.distributed.workers), search.max_concurrent, memory)
    if shape is not None and shared is not None:
        jobs = Jobs(trials, finals, room.count + _waiting(config, trials, amounts.steps[-1]))
        disk = disk_of(config, shape, shared, jobs, amounts.steps[-1], free_disk(request.places.storage))
    if shape is not None and not room.refusal:
        timing, no_time = forecast(request, amounts, shape, machine, room, load)
    said = (*_shortages(config, machine, room, memory, disk), *advice(config, amounts))
    return Plan(
        request, amounts, trials, finals, load, machine, room, shape, memory, shared, disk, timing, no_time, said
    )


def _load(config: Config, steps: tuple[int, ...], trials: int, finals: int) -> Load:
    interval, last, scheduler = config.evaluation.eval_interval, steps[-1], config.search.scheduler
    most, compared = (last,) * trials, rungs(last, interval)
    if scheduler == "halving" and trials:
        most = halving_steps(trials, compared)
    fewest = fewest_asha_steps(trials, compared) if scheduler == "asha" and trials else most
    return Load(steps, interval, most, fewest, finals, _earlier_runs(config))


def _waiting(config: Config, trials: int, steps: int) -> int:
    """How many trials may wait for their cohort at once, each with its checkpoints."""
    if config.search.scheduler != "halving":
        return 0
    return min(trials, cohort_size(len(rungs(steps, config.evaluation.eval_interval))))


def _earlier_runs(config: Config) -> int | None:
    """How often the stage before the last is trained: once a seed, or (None) with every fit where values of it are
    searched.
    """
    phase = config.training.phase_a

    def leaves_it(key: str) -> bool:
        own = getattr(phase, key.removeprefix("training."), None)
        return key.startswith("training.phase_b.") or key in USED_BY or own is not None

    alike = all(leaves_it(key) for key in config.search.parameters)
    return 1 + config.search.finalists.seeds if phase is not None and alike else None


def memory_of(config: Config, shape: Shape, split: Split | AnswerSplit) -> Memory:
    """The memory of a worker at the longest prompt and answer of the data, of the stage that needs more."""
    answers = answers_of(split.train)
    prompt = max(_tokens(row.prompt) + 12 for row in answers)
    answer = min(config.training.max_length - prompt, max(_tokens(row.completion) for row in answers))
    found = [estimate(stage, shape, *micro_batch(stage, prompt, answer)) for stage in stages(config)]
    return max(found, key=lambda memory: memory.total)


def _tokens(text: str) -> float:
    return len(text.split()) * TOKENS_PER_WORD


def _shortages(
    config: Config, machine: Machine, room: Room, memory: Memory | None, disk: Disk | None
) -> Iterator[Advice]:
    half = next((name for name in ("bf16", "fp16") if getattr(config.training, name)), None)
    if half and not machine.gpus:
        yield Advice(
            f"training.{half}", True,
            "is true: half precision needs a GPU, and on this machine every trial would fail; take --profile laptop, "
            f"or --set training.{half}=false.",
        )  # fmt: skip
    if room.refusal:
        yield Advice("this machine", room.count, f"has no room for a trial: {room.refusal}.")
    elif memory is not None and room.by_memory is not None and room.by_memory < room.count:
        where = "the GPUs" if machine.gpus else f"{(machine.free_memory or 0) / 1e9:.1f} GB of free memory"
        cure = f"give --max-concurrent {room.by_memory}, or" if room.by_memory else "give"
        yield Advice(
            "search.max_concurrent", room.count,
            f"is {room.count} trials at once, and {where} hold {room.by_memory}: {cure} a smaller "
            f"training.batch_size with more gradient_accumulation_steps.",
        )  # fmt: skip
    if disk is not None and not disk.fits:
        yield Advice(
            "--storage", disk.free,
            f"has {disk.free / 1e9:.1f} GB free, and the search takes about {disk.total / 1e9:.1f} GB: name a folder "
            f"with room, remove old searches, or lower evaluation.save_total_limit.",
        )  # fmt: skip


def memory_text(config: Config, memory: Memory | None) -> str:
    """An estimate and its parts for people."""
    if memory is None:
        return UNKNOWN
    said = ", ".join(f"{name} {getattr(memory, name) / 1e9:.2f}" for name in MEMORY_PARTS)
    one = "a worker" if config.training.distributed.workers > 1 else "a trial"
    return f"about {memory.total / 1e9:.1f} GB {one} ({said})"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for scripts."""
    request, timing = plan.request, plan.timing
    own = request.own_values()
    space = {key: {**d.written(), "own": own[key]} for key, d in request.config.search.parameters.items()}
    return {
        "track": request.track,
        "profile": request.profile,
        "space": space,
        "sampling": sampling(request.config.search, own, plan.trials),
        "trials": plan.trials,
        "finals": plan.finals,
        "baselines": 1 if request.arms else 2,
        "arms": [arm.label for arm in request.arms],
        "steps": list(plan.amounts.steps),
        "trial_steps": {"fewest": sum(plan.load.fewest), "most": sum(plan.load.trials)},
        "pairs": {"train": len(plan.split.train), "val": len(plan.split.val), "held_out": len(plan.split.held_out)},
        "prompts": plan.amounts.prompts,
        "seconds_per_fit": timing and timing.fit,
        "seconds": timing and timing.most,
        "time": timing and asdict(timing),
        "concurrency": asdict(plan.room),
        "memory_gb": None if plan.memory is None else plan.memory.total / 1e9,
        "memory": None if plan.memory is None else asdict(plan.memory),
        "shared_work": None if plan.shared is None else {"bytes": dict(plan.shared.wanted), "kept": plan.shared.kept},
        "disk": plan.disk and {**asdict(plan.disk), "total": plan.disk.total, "fits": plan.disk.fits},
        "data_checks": request.data.as_dict(),
        "warnings": [{"key": each.key, "value": each.value, "text": str(each)} for each in plan.advice],
        "notes": [*request.warnings, *map(str, plan.advice)],
        "config": request.config.dump(),
    }
