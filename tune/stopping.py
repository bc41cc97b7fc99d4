"""Which trials go on, and which have lost: asynchronous and synchronous halving over steps (Li et al. 2020).

Pure functions of what trials scored at the same step; values of different steps are never compared. So the decisions
can be made again from the record, and a resumed search stops whom an undisturbed one stops.
"""

import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np

REDUCTION = 3
"""One in so many goes on from a rung to the next, which lies at so many times its steps."""


def rungs(steps: int, interval: int, reduction: int = REDUCTION) -> tuple[int, ...]:
    """The steps at which trials of `steps` steps are compared, the last of them their end.

    Each is `reduction` times the one before, as nearly as evaluations every `interval` steps allow. (9, 3) -> (3, 9).
    A trial that is evaluated once alone has no rung but its end.
    """
    found = [steps]
    while (step := max(interval, found[-1] // reduction // interval * interval)) < found[-1]:
        found.append(step)
    return tuple(reversed(found))


def cohort_size(rung_count: int, reduction: int = REDUCTION) -> int:
    """How many trials begin together, so that one of them reaches the last of so many rungs."""
    return int(math.pow(reduction, rung_count - 1))


def kept(size: int, rung: int, reduction: int = REDUCTION) -> int:
    """How many of a cohort of `size` go on from rung number `rung`, counted from 0."""
    return max(1, size // int(math.pow(reduction, rung + 1)))


def halving_steps(trials: int, rungs: Sequence[int], reduction: int = REDUCTION) -> tuple[int, ...]:
    """The steps that each trial of synchronous halving takes, longest first; the same however they score.

    Worked by hand: 9 trials, rungs 2, 4 and 12 are one trial of 12 steps, two of 4, six of 2.
    """
    steps: list[int] = []
    for number in range(math.ceil(trials / (size := cohort_size(len(rungs), reduction)))):
        count = len(members(number, size, trials))
        running = [count, *(kept(count, rung, reduction) for rung in range(len(rungs) - 1)), 0]
        ends = [here - later for here, later in itertools.pairwise(running)]
        steps += [rung for rung, ended in zip(rungs, ends, strict=True) for _ in range(ended)]
    return tuple(sorted(steps, reverse=True))


def fewest_asha_steps(trials: int, rungs: Sequence[int]) -> tuple[int, ...]:
    """The fewest steps that trials take under ASHA: the first is compared with nobody and runs through, every other
    one may end at the first rung. The most is that all run through.
    """
    return (rungs[-1], *[rungs[0]] * (trials - 1))


def loses(value: float, before: Collection[float], better: str, reduction: int = REDUCTION) -> bool:
    """Whether a trial with `value` at a rung is stopped there, by those that reached the rung `before` it.

    ASHA's rule as Ray has it: it goes on where it is not worse than the (1 - 1/reduction) quantile of the others.
    """
    if not before:
        return False
    sign = 1.0 if better == "max" else -1.0
    return bool(sign * value < np.quantile([sign * other for other in before], 1 - 1 / reduction))


def members(number: int, size: int, budget: int) -> Sequence[int]:
    """The numbers of cohort `number`; the last one may be smaller."""
    return range(number * size, min((number + 1) * size, budget))
