"""Halving as arithmetic: rungs, cohorts and who loses; the asynchronous rule beside Ray's own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune.stopping import cohort_size, fewest_asha_steps, halving_steps, kept, loses, members, rungs


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [
        (9, 3, (3, 9)),
        (27, 1, (1, 3, 9, 27)),
        (100, 10, (10, 30, 100)),
        (6, 3, (3, 6)),
        (6, 6, (6,)),
        (6, 100, (6,)),
        (10, 4, (4, 10)),
    ],
)
def test_rungs_are_thirds_of_a_trial_as_its_evaluations_allow(
    steps: int, interval: int, expected: tuple[int, ...]
) -> None:
    assert rungs(steps, interval) == expected


@given(some.integers(1, 500), some.integers(1, 500))
def test_rungs_rise_to_the_end_and_lie_on_evaluations(steps: int, interval: int) -> None:
    found = rungs(steps, interval)
    assert found[-1] == steps
    assert list(found) == sorted(set(found))
    assert all(step % interval == 0 for step in found[:-1])


def test_a_cohort_ends_in_one_trial_and_covers_the_budget_once() -> None:
    assert [cohort_size(count) for count in (1, 2, 3)] == [1, 3, 9]
    assert [kept(9, 0), kept(9, 1), kept(2, 0), kept(7, 0)] == [3, 1, 1, 2]
    assert [list(members(number, 3, 7)) for number in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_first_at_a_rung_goes_on_and_the_direction_counts() -> None:
    assert not loses(9.0, [], "min")
    assert loses(0.8, [0.4], "min")
    assert not loses(0.8, [0.4], "max")
    assert not loses(0.4, [0.4], "min")


class RayTrial:
    def __init__(self, number: int) -> None:
        self.trial_id = str(number)
        self.config: dict[str, Any] = {}


@given(some.lists(some.floats(-5, 5), min_size=1, max_size=20), some.sampled_from(["max", "min"]))
def test_the_asynchronous_rule_is_rays(values: list[float], mode: str) -> None:
    ray = ASHAScheduler(time_attr="step", metric="loss", mode=mode, grace_period=1, max_t=3, reduction_factor=3)
    for number, value in enumerate(values):
        ray.on_trial_add(None, RayTrial(number))
        decision = ray.on_trial_result(None, RayTrial(number), {"step": 1, "loss": value})
        assert loses(value, values[:number], mode) == (decision == TrialScheduler.STOP)


def test_each_trial_of_halving_ends_at_a_rung() -> None:
    """9 trials: 3 go on from step 2, 1 of them from step 4; 12 + 2 · 4 + 6 · 2 = 32 steps."""
    steps = halving_steps(9, (2, 4, 12))
    assert steps == (12, 4, 4, 2, 2, 2, 2, 2, 2)
    assert sum(steps) == 9 * 2 + 3 * (4 - 2) + 1 * (12 - 4)


@pytest.mark.parametrize(("trials", "steps"), [(6, (4, 4, 2, 2, 2, 2)), (4, (4, 4, 2, 2)), (1, (4,)), (3, (4, 2, 2))])
def test_cohorts_halve_apart_and_the_last_may_be_smaller(trials: int, steps: tuple[int, ...]) -> None:
    assert halving_steps(trials, (2, 4)) == steps


def test_one_rung_stops_nobody() -> None:
    assert halving_steps(5, (6,)) == (6, 6, 6, 6, 6)


def test_the_first_trial_of_asha_has_nobody_to_lose_to() -> None:
    assert fewest_asha_steps(4, (3, 9, 12)) == (12, 3, 3, 3)
