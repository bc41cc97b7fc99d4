"""Steps of trials that are stopped early, by numbers worked by hand."""

import pytest

from tune.stopped import fewest_asha_steps, halving_steps, survivors


def test_halving_keeps_one_in_so_many_and_at_least_one() -> None:
    assert survivors(24, 3, 3) == (24, 8, 2)
    assert survivors(2, 3, 3) == (2, 1, 1)


def test_each_trial_of_halving_ends_at_a_rung() -> None:
    """9 trials: 3 go on from step 2, 1 of them from step 4; 12 + 2 · 4 + 6 · 2 = 32 steps."""
    steps = halving_steps(9, (2, 4, 12), 3)
    assert steps == (12, 4, 4, 2, 2, 2, 2, 2, 2)
    assert sum(steps) == 9 * 2 + 3 * (4 - 2) + 1 * (12 - 4)


@pytest.mark.parametrize(("trials", "steps"), [(6, (4, 4, 2, 2, 2, 2)), (4, (4, 4, 2, 2)), (1, (4,)), (3, (4, 2, 2))])
def test_cohorts_halve_apart_and_the_last_may_be_smaller(trials: int, steps: tuple[int, ...]) -> None:
    assert halving_steps(trials, (2, 4), 3, cohort=3) == steps


def test_one_rung_stops_nobody() -> None:
    assert halving_steps(5, (6,), 3) == (6, 6, 6, 6, 6)


def test_the_first_trial_of_asha_has_nobody_to_lose_to() -> None:
    assert fewest_asha_steps(4, (3, 9, 12)) == (12, 3, 3, 3)
