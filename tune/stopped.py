"""How many steps the trials of a search take where some are stopped early: plain arithmetic on rungs.

A rung is a step at which trials are compared; the last rung is the end of a run. Knows neither values nor schedulers.
"""

from collections.abc import Sequence


def survivors(trials: int, rungs: int, reduction: int) -> tuple[int, ...]:
    """How many trials run towards each rung of synchronous halving: all to the first, of those who reach a rung
    ⌊1/reduction⌋, at least one, on to the next.

    Worked by hand: 24 trials, 3 rungs, reduction 3 are 24, 8 and 2.
    """
    counts = [trials]
    while len(counts) < rungs:
        counts.append(max(1, counts[-1] // reduction))
    return tuple(counts)


def halving_steps(trials: int, rungs: Sequence[int], reduction: int, cohort: int | None = None) -> tuple[int, ...]:
    """The steps that each trial of synchronous halving takes, longest first; the same however they score.

    `cohort` trials compete with one another (None: all with all); the last cohort may hold fewer. Worked by hand: 9
    trials, rungs 2, 4 and 12, reduction 3 are one trial of 12 steps, two of 4, six of 2.
    """
    steps: list[int] = []
    for begin in range(0, trials, cohort or trials):
        size = min(cohort or trials, trials - begin)
        counts = survivors(size, len(rungs), reduction)
        ends = [count - after for count, after in zip(counts, (*counts[1:], 0), strict=True)]
        steps += [rung for rung, ended in zip(rungs, ends, strict=True) for _ in range(ended)]
    return tuple(sorted(steps, reverse=True))


def fewest_asha_steps(trials: int, rungs: Sequence[int]) -> tuple[int, ...]:
    """The fewest steps that trials take under ASHA: the first is compared with nobody and runs through, every other
    one may end at the first rung. The most is that all run through.
    """
    return (rungs[-1], *[rungs[0]] * (trials - 1))
