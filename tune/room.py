"""How many trials a machine runs at once: by cores and GPUs as the search itself decides, and by memory beside it."""

from dataclasses import dataclass

from tune.capacity import Ask, ClusterError, slots
from tune.machine import Machine
from tune.memory import Memory


@dataclass(frozen=True)
class Room:
    """`count` trials at once, and what limits them; `by_memory` is how many fit into free memory (None: unknown).

    Each of a trial's workers has `cpus` and `gpus`; `share` is what one trial has of what a rate is measured on:
    of all cores, or of one GPU. `refusal` is why not even one fits, as the search itself would say it.
    """

    count: int
    limit: str
    cpus: float
    gpus: float
    share: float
    by_memory: int | None
    refusal: str = ""


def room_of(machine: Machine, ask: Ask, max_concurrent: int | None, memory: Memory | None) -> Room:
    """The room for a search on this machine alone. A GPU type that is asked for is taken to be the one here."""
    kind = {f"accelerator_type:{ask.accelerator_type}": 1.0} if ask.accelerator_type else {}
    nodes = [{**machine.node, **kind}]
    by_memory = _by_memory(machine, memory, ask.workers)
    try:
        every, slot = slots(nodes, ask), slots(nodes, ask, max_concurrent)
    except ClusterError as error:
        return Room(1, "", 0.0, 0.0, 1.0, by_memory, str(error))
    of_machine = "GPUs" if slot.gpus else "cores"
    limit = "search.max_concurrent" if slot.count < every.count else of_machine
    each = slot.gpus if slot.gpus else slot.cpus / machine.cores
    return Room(slot.count, limit, slot.cpus, slot.gpus, each * slot.workers, by_memory)


def _by_memory(machine: Machine, memory: Memory | None, workers: int) -> int | None:
    """On GPUs what torch holds counts, on CPUs the whole process."""
    if memory is None:
        return None
    if machine.gpus:
        return sum(int(each / memory.live) for each in machine.gpus) // workers if all(machine.gpus) else None
    return None if machine.free_memory is None else int(machine.free_memory / (memory.total * workers))
