"""Intervals whose answers are known, and their coverage by simulation."""

import math

import numpy as np
import pytest

from phasegpt import statistics
from phasegpt.statistics import Interval, mean_by_prompt, mean_interval, paired_interval


def test_a_prompts_score_is_the_mean_over_the_seeds_that_have_it() -> None:
    runs = [{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 1.0, "c": 9.0}]
    assert mean_by_prompt(runs) == {"a": 2.0, "b": 0.5, "c": 9.0}
    assert mean_by_prompt([]) == {}


def test_an_interval_holds_its_mean_and_is_the_same_every_time() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3]
    interval = mean_interval(values)
    assert interval == mean_interval(values)
    assert interval.mean == pytest.approx(0.4)
    assert interval.low < interval.mean < interval.high
    assert (interval.n, interval.level) == (6, 0.95)
    assert interval.as_dict() == {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p_positive": interval.p_positive,
        "n": 6,
        "level": 0.95,
    }


def test_values_without_spread_give_their_value_as_the_interval() -> None:
    assert mean_interval([0.5] * 12) == Interval(0.5, 0.5, 0.5, 1.0, 12)
    assert mean_interval([0.0] * 12).p_positive == 0.0


def test_moving_or_turning_the_values_moves_or_turns_the_interval() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3, 0.3, 0.8]
    interval = mean_interval(values)
    moved = mean_interval([value + 2 for value in values])
    turned = mean_interval([-value for value in values])
    assert (moved.low - 2, moved.high - 2) == pytest.approx((interval.low, interval.high))
    assert (-turned.high, -turned.low) == pytest.approx((interval.low, interval.high))


def test_a_higher_level_gives_a_wider_interval() -> None:
    values = list(np.random.default_rng(0).normal(size=12))
    narrow, wide = mean_interval(values, level=0.5), mean_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_two_and_three_values_get_students_t() -> None:
    two = mean_interval([0.2, 0.3])  # standard error 0.05, t = 12.7062
    assert (two.low, two.high) == pytest.approx((0.25 - 12.7062 * 0.05, 0.25 + 12.7062 * 0.05), abs=1e-5)
    three = mean_interval([0.0, 1.0, 2.0])  # standard error 1/√3, t = 4.30265
    assert three.high - 1 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)


def test_one_odd_value_among_equal_ones_is_no_certainty() -> None:
    interval = mean_interval([0.5] * 11 + [-0.4])
    assert interval.low < interval.mean < interval.high


def test_a_pair_of_runs_is_compared_on_the_prompts_that_both_have() -> None:
    ours = [{"a": 1.0, "b": 2.0, "c": 3.0, "x": 9.0}, {"a": 3.0, "b": 2.0, "c": 3.0, "x": 9.0}]
    theirs = [{"a": 1.0, "b": 1.0, "c": 2.0, "y": -9.0}]
    assert paired_interval(ours, theirs) == Interval(1.0, 1.0, 1.0, 1.0, 3)
    assert paired_interval(theirs, ours).mean == -1.0


def test_pairing_takes_out_what_the_prompts_differ_by() -> None:
    rng = np.random.default_rng(0)
    hard = {str(i): float(v) for i, v in enumerate(rng.normal(0, 10, 12))}
    better = {key: value + 0.5 + 0.01 * float(rng.normal()) for key, value in hard.items()}
    interval = paired_interval([better], [hard])
    assert 0.45 < interval.low < interval.high < 0.55
    assert interval.p_positive == 1.0


@pytest.mark.parametrize("theirs", [{}, {"a": 1.0}, {"y": 1.0, "z": 2.0}])
def test_fewer_than_two_shared_prompts_are_an_error(theirs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs two prompts that both have; found"):
        paired_interval([{"a": 1.0, "b": 2.0}], [theirs])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_too_few_values_or_values_that_are_no_numbers_are_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two finite values"):
        mean_interval(values)


@pytest.mark.parametrize("size", [2, 3, 4, 12])
def test_about_95_of_100_intervals_hold_the_truth(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(7)
    intervals = [mean_interval(rng.normal(0.3, 1, size).tolist(), seed=run) for run in range(300)]
    held = sum(interval.low <= 0.3 <= interval.high for interval in intervals)
    assert 0.92 * 300 <= held <= 0.98 * 300
