"""The workers that share one run: which I am, what part of a list is mine, and how all of them agree.

A process without a process group is a run of one, for which every function here is what it is for a list as a whole.
Objects travel on the CPU, by gloo. Knows torch.distributed, and nothing of Ray, models or files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """Which of the workers this process is, from 0."""
    return dist.get_rank() if _together() else 0


def size() -> int:
    """How many workers share the run."""
    return dist.get_world_size() if _together() else 1


def first() -> bool:
    """Whether this is the worker that writes."""
    return rank() == 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def dealt(items: Sequence[T], block: int = 1) -> list[T]:
    """The items of this worker: blocks of `block` neighbours are dealt out in turn, the last one as it is."""
    mine = range(rank() * block, len(items), size() * block)
    return [item for begin in mine for item in items[begin : begin + block]]


def collected(own: Sequence[T], count: int, block: int = 1) -> list[T]:
    """The inverse of `dealt`: what the workers made of their items, for all `count` items in order, on every worker."""
    hands = [iter(hand) for hand in everyones(list(own))]
    return [next(hands[place // block % len(hands)]) for place in range(count)]


def everyones(value: T) -> list[T]:
    """The value of each worker, in the order of the workers, on every one of them."""
    if size() == 1:
        return [value]
    found: list[T] = [value] * size()
    dist.all_gather_object(found, value)
    return found


def agreed(value: T) -> T:
    """The first worker's value, on every worker."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def by_first(make: Callable[[], T]) -> T:
    """What the first worker makes; the others wait for it."""
    return agreed(make()) if first() else agreed(None)  # type: ignore[return-value]


def wait() -> None:
    """Go on when every worker has come here."""
    everyones(None)


@contextmanager
def first_ahead() -> Iterator[None]:
    """The first worker goes through the block, then the others: they find done what it did."""
    if not first():
        wait()
    yield
    if first():
        wait()


def joined(values: Tensor) -> Tensor:
    """The rows [M, …] of all workers one after another, whose numbers may differ, without gradient."""
    rows = values.detach()
    if size() == 1:
        return rows
    return torch.cat([part.to(rows.device) for part in everyones(rows.cpu())])
