"""Where the time of a search comes from: the last search like it, else a stored rate, else the rate of an instant."""

from phasegpt.config import Config, stages
from phasegpt.pairs import PairsError
from tune.amounts import Amounts, amounts_of
from tune.capacity import Ask
from tune.duration import Costs, costs_of, shared_parts
from tune.machine import Machine
from tune.memory import above_trunk
from tune.past import last_search, shared_work_is_here
from tune.rate import Rate, instant_rate, stored_rate
from tune.request import Request
from tune.room import Room, room_of
from tune.shapes import Shape
from tune.timing import Basis, Load, Timing, timing_after, timing_of

NOMINAL = Rate({"float32": 1e11})
"""A rate under which counts are compared with counts: it cancels out."""


def forecast(
    request: Request, amounts: Amounts, shape: Shape, machine: Machine, room: Room, load: Load
) -> tuple[Timing | None, str]:
    """The time of a search, or None and why nothing can be said."""
    config = request.config
    past = last_search(request)
    if past is not None and (counted := _counted(past.config, shape, machine)) is not None:
        costs = _costs(config, amounts, shape, NOMINAL, room.share)
        here = _has_shared_work(request, amounts, shape)
        return timing_after(past, load, costs, counted, room, shared_is_here=here), ""
    on_gpu = bool(machine.gpus) and config.experiment.device != "cpu"
    rate, basis, source = _rate("cuda" if on_gpu else "cpu")
    if rate is None:
        return None, source
    return timing_of(load, _costs(config, amounts, shape, rate, room.share), room, basis, source), ""


def _rate(device: str) -> tuple[Rate | None, Basis, str]:
    stored, why = stored_rate(device)
    if stored is not None:
        beside = f", measured {stored.beside}" if stored.beside else ""
        return stored, "stored rate", f"counted, at this machine's rate of {stored.measured_at} (--measure){beside}"
    reason = f" ({why})" if why else ""
    if device == "cuda":
        return None, "stored rate", f"unknown on a GPU until a first search or --measure{reason}"
    now = "counted, at a rate measured now, under whatever else runs; --measure for a better one"
    return instant_rate(), "instant rate", now + reason


def _costs(config: Config, amounts: Amounts, shape: Shape, rate: Rate, share: float) -> Costs:
    return costs_of(config, stages(config), amounts.split, shape, rate.of_share(share), amounts.prompts)


def _counted(config: Config, shape: Shape, machine: Machine) -> Costs | None:
    """What the parts of a past search count for; None where its data are no longer there."""
    room = room_of(machine, Ask(config.training.distributed.workers), config.search.max_concurrent, None)
    try:
        return _costs(config, amounts_of(config), shape, NOMINAL, room.share)
    except (PairsError, OSError):
        return None


def _has_shared_work(request: Request, amounts: Amounts, shape: Shape) -> bool:
    kept = shared_parts(request.config, shape, amounts.split).kept
    depth = shape.layers - above_trunk(request.config, shape)
    return shared_work_is_here(request, amounts.split, kept, depth)
