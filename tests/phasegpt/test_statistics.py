"""Intervals whose answers are known, and their coverage by simulation."""

import math

import numpy as np
import pytest

from phasegpt import statistics
from phasegpt.statistics import (
    Gain,
    Interval,
    Wins,
    mean_by_prompt,
    mean_interval,
    paired_gain,
    paired_interval,
    paired_wins,
)


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


def test_the_win_rate_counts_prompts_and_half_a_tie() -> None:
    wins = paired_wins([{"a": 0.9, "b": 0.5, "c": 0.1, "x": 1.0}], [{"a": 0.1, "b": 0.5, "c": 0.2, "y": 0.0}])
    assert (wins.rate, wins.n, wins.level) == (0.5, 3, 0.95)
    assert paired_wins([{"a": 0.9, "b": 0.5}], [{"a": 0.1, "b": 0.5}]).rate == 0.75


def test_every_seed_meets_every_seed_on_each_prompt() -> None:
    ours = [{"a": 0.1, "b": 0.1}, {"a": 0.3, "b": 0.3}, {"b": 0.5}]
    theirs = [{"a": 0.2, "b": 0.3}, {"a": 0.0, "b": 0.3}]
    # a: 0.1 wins one of two, 0.3 both: 3/4. b: 0.1 wins none, 0.3 ties both, 0.5 wins both: 3/6
    assert paired_wins(ours, theirs).rate == pytest.approx((3 / 4 + 3 / 6) / 2)


def test_the_win_rates_of_both_sides_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = ({str(i): float(v) for i, v in enumerate(rng.integers(0, 4, 12))} for _ in range(2))
    won, lost = paired_wins([ours], [theirs]), paired_wins([theirs], [ours])
    assert won.rate + lost.rate == pytest.approx(1)
    assert (won.low, won.high) == pytest.approx((1 - lost.high, 1 - lost.low), abs=0.03)
    assert won == paired_wins([ours], [theirs])


def test_a_dozen_prompts_that_all_say_the_same_are_no_certainty() -> None:
    high, low = {str(i): 1.0 for i in range(12)}, {str(i): 0.0 for i in range(12)}
    wins = paired_wins([high], [low])
    assert (wins.rate, wins.high) == (1.0, 1.0)
    assert 0.7 < wins.low < 0.85
    tied = paired_wins([high], [high])
    assert tied.rate == 0.5
    assert tied.low < 0.5 < tied.high


def test_without_a_shared_prompt_there_is_no_win_rate() -> None:
    with pytest.raises(ValueError, match="needs a prompt that both have; found none"):
        paired_wins([{"a": 1.0}], [{"b": 1.0}])


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.9])
def test_about_95_of_100_win_rate_intervals_hold_the_truth(truth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(7)
    half = {str(i): 0.5 for i in range(12)}
    held = 0
    for run in range(300):
        ours = {str(i): float(won) for i, won in enumerate(rng.random(12) < truth)}  # 1 wins, 0 loses
        wins = paired_wins([ours], [half], seed=run)
        held += wins.low <= truth <= wins.high
    assert held >= 0.92 * 300


def test_a_gain_is_signed_by_what_is_better_and_its_ratio_is_not() -> None:
    ours, theirs = [{"a": 2.0, "b": 4.0, "x": 50.0}], [{"a": 4.0, "b": 4.0, "y": 70.0}]
    up, down = paired_gain(ours, theirs), paired_gain(ours, theirs, "min")
    assert (up.mean, down.mean) == (-1.0, 1.0)
    assert (up.ratio, down.ratio) == (0.75, 0.75)
    assert up.wins is not None
    assert down.wins is not None
    assert (up.wins.rate, down.wins.rate) == (0.25, 0.75)


@pytest.mark.parametrize("theirs", [{"a": 0.0, "b": 0.0}, {"a": -1.0, "b": 0.5}])
def test_there_is_no_ratio_to_what_is_not_above_zero(theirs: dict[str, float]) -> None:
    assert paired_gain([{"a": 1.0, "b": 2.0}], [theirs]).ratio is None


def test_a_gain_is_read_back_as_it_was_stored() -> None:
    gain = paired_gain([{"a": 2.0, "b": 3.0}], [{"a": 1.0, "b": 1.0}])
    assert Gain.from_dict(gain.as_dict()) == gain
    assert Gain.from_dict(Interval(0.1, 0.0, 0.2, 0.9, 12).as_dict()) == Gain(0.1, 0.0, 0.2, 0.9, 12)


def test_a_gain_is_told_with_what_it_is_published_beside() -> None:
    plain = Gain(0.1, -0.02, 0.2, 0.9, 12)
    assert str(plain) == "+0.100 [-0.020, +0.200] over 12 prompts"
    whole = Gain(0.1, -0.02, 0.2, 0.9, 12, ratio=1.25, wins=Wins(0.75, 0.5, 0.9, 12))
    assert str(whole) == f"{plain}, ratio 1.25, win rate 0.75 [0.50, 0.90]"


@pytest.mark.parametrize("size", [2, 3, 4, 12])
def test_about_95_of_100_intervals_hold_the_truth(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(7)
    intervals = [mean_interval(rng.normal(0.3, 1, size).tolist(), seed=run) for run in range(300)]
    held = sum(interval.low <= 0.3 <= interval.high for interval in intervals)
    assert 0.92 * 300 <= held <= 0.98 * 300
