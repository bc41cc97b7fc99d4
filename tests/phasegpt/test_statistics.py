"""Intervals whose answers are known, and their coverage by simulation."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from phasegpt import spread
from phasegpt.statistics import (
    Gain,
    Interval,
    Wins,
    mean_by_prompt,
    mean_interval,
    p_best,
    paired_gain,
    paired_interval,
    paired_wins,
    runs_interval,
    simultaneous_gains,
)
from tests.benchmarks.coverage import METHODS, Array, as_runs, sample
from tests.benchmarks.decision import one_search


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
    assert mean_interval([0.0] * 12) == Interval(0.0, 0.0, 0.0, 0.5, 12)
    assert mean_interval([-0.5] * 12).p_positive == 0.0


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


def test_four_values_get_students_t_and_nothing_wilder() -> None:
    interval = mean_interval([0.1, 0.11, 0.1001, 0.4])  # the studentised bootstrap alone ends at 230
    error = float(np.std([0.1, 0.11, 0.1001, 0.4], ddof=1)) / 2
    assert interval.high - interval.mean == pytest.approx(3.18245 * error, rel=1e-4)


def test_rounding_noise_is_no_spread() -> None:
    values = [0.5 + 1e-9 * k for k in range(12)]
    interval = mean_interval(values)
    assert interval.low == interval.mean == interval.high
    noisy = mean_interval([1e-9 * k for k in range(11)] + [0.3])
    assert noisy.high == pytest.approx(mean_interval([0.0] * 11 + [0.3]).high, rel=1e-6)


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
def test_about_95_of_100_win_rate_intervals_hold_the_truth(truth: float) -> None:
    rng = np.random.default_rng(7)
    half = {str(i): 0.5 for i in range(12)}
    held = 0
    for _ in range(300):
        ours = {str(i): float(won) for i, won in enumerate(rng.random(12) < truth)}  # 1 wins, 0 loses
        wins = paired_wins([ours], [half])
        held += wins.low <= truth <= wins.high
    assert held >= 0.92 * 300


def test_answers_that_differ_by_rounding_alone_are_ties_and_no_gain() -> None:
    scores = {str(i): 0.1 + 0.07 * i for i in range(12)}
    again = {prompt: value + 2e-9 * (-1) ** int(prompt) for prompt, value in scores.items()}
    gain = paired_gain([scores, again], [again, scores, scores])
    assert (gain.mean, gain.low, gain.high, gain.p_positive) == (0.0, 0.0, 0.0, 0.5)
    assert gain.wins is not None
    assert gain.wins.rate == 0.5
    assert p_best([[scores], [again]]) == [0.5, 0.5]


def test_runs_that_disagree_widen_the_win_rate() -> None:
    theirs = [{str(i): 0.5 for i in range(12)}]
    agree = [{str(i): float(i % 4 > 0) for i in range(12)}] * 2  # both runs win nine of twelve
    apart = [{str(i): 1.0 for i in range(12)}, {str(i): float(i % 2) for i in range(12)}]  # one wins all, one six
    same, other = paired_wins(agree, theirs), paired_wins(apart, theirs)
    assert same.rate == other.rate == 0.75
    assert other.low < same.low
    assert (other.low, other.high) == (0.0, 1.0)  # two runs that far apart say nothing of a third


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
def test_about_95_of_100_intervals_hold_the_truth(size: int) -> None:
    rng = np.random.default_rng(7)
    intervals = [mean_interval(rng.normal(0.3, 1, size).tolist()) for _ in range(300)]
    held = sum(interval.low <= 0.3 <= interval.high for interval in intervals)
    assert 0.92 * 300 <= held <= 0.98 * 300


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thousand resamples are enough for shares of some hundred intervals."""
    monkeypatch.setattr(spread, "RESAMPLES", 1000)
    spread.resampling.cache_clear()
    yield
    spread.resampling.cache_clear()


# --- new prompts and new runs ----------------------------------------------------------------------------------------

CELLS = [("normal", 0.3, 3, 12), ("normal", 1.0, 2, 24), ("skewed", 0.3, 3, 24), ("zeros", 0.3, 3, 12)]
"""World, standard deviation between runs, runs of either side, prompts; tests/benchmarks/coverage.py has them all."""


def scores_of(
    world: str, run_sd: float, runs: int, prompts: int, one_sided: bool = False
) -> tuple[Array, Array, float]:
    a, b, truth = sample(world, np.random.default_rng(11), 300, runs, prompts, run_sd, one_sided)
    return a, b, truth


def share_held(method: str, a: Array, b: Array, truth: float) -> float:
    low, high = METHODS[method](a, b)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("world", "run_sd", "runs", "prompts"), CELLS)
def test_gains_hold_the_truth_over_new_prompts_and_new_runs(world: str, run_sd: float, runs: int, prompts: int) -> None:
    scores = scores_of(world, run_sd, runs, prompts)
    assert 0.92 <= share_held("howe", *scores) <= 0.985
    assert max(share_held(name, *scores) for name in ("percentile", "student", "studentised")) < 0.87


@pytest.mark.usefixtures("few_resamples")
def test_gains_hold_the_truth_where_the_runs_of_one_side_alone_differ() -> None:
    assert 0.92 <= share_held("howe", *scores_of("normal", 0.3, 3, 24, one_sided=True)) <= 0.985


@pytest.mark.usefixtures("few_resamples")
def test_where_four_of_five_prompts_never_change_no_gain_is_claimed_too_often() -> None:
    a, b, truth = scores_of("ties", 0.0, 3, 12)
    low, _ = METHODS["howe"](a, b)
    assert (low > truth).mean() <= 0.01
    a, b, _ = scores_of("ties, no gain", 0.3, 3, 24)
    assert share_held("howe", a, b, 0.0) >= 0.95
    assert share_held("percentile", a, b, 0.0) < 0.9


@pytest.mark.usefixtures("few_resamples")
def test_scores_of_a_recipe_hold_the_truth_over_new_prompts_and_new_runs() -> None:
    _, b, _ = scores_of("normal", 1.0, 3, 12)
    intervals = [runs_interval(as_runs(runs)) for runs in b]
    assert 0.92 * 300 <= sum(interval.low <= 0.0 <= interval.high for interval in intervals) <= 0.985 * 300
    alone = [mean_interval(list(runs.mean(0))) for runs in b]
    assert sum(interval.low <= 0.0 <= interval.high for interval in alone) < 0.8 * 300


def test_a_run_is_compared_as_it_is_and_several_runs_as_their_recipe() -> None:
    one = [{str(i): 0.1 * i for i in range(8)}]
    higher = [{prompt: value + shift for prompt, value in one[0].items()} for shift in (0.1, 0.3)]
    gain = paired_interval(higher, one)
    assert gain.mean == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((0.2 - 12.7062 * 0.1, 0.2 + 12.7062 * 0.1), abs=1e-4)
    assert paired_interval(higher[:1], one).low == pytest.approx(0.1)
    assert paired_interval(higher[:1], one).p_positive == 1.0
    assert 0.5 < gain.p_positive < 0.99  # another run may fall below by what two of them differ by
    assert runs_interval(one) == mean_interval(list(one[0].values()))


def test_runs_of_unequal_number_and_a_prompt_that_one_run_lacks_are_compared_on_what_is_shared() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = as_runs(rng.normal(0.5, 1, (3, 10))), as_runs(rng.normal(0, 1, (2, 10)))
    del ours[1]["004"]
    del theirs[0]["007"], theirs[1]["007"]
    gain = paired_gain(ours, theirs)
    assert gain.n == 9
    assert gain.low < gain.mean < gain.high
    kept = [f"{i:03d}" for i in range(10) if i != 7]
    expected = np.mean([np.mean([r[p] for r in ours if p in r]) - np.mean([r[p] for r in theirs]) for p in kept])
    assert gain.mean == pytest.approx(float(expected))


# --- several finalists -----------------------------------------------------------------------------------------------


def shifted(shift: float, seed: int, runs: int = 3) -> list[dict[str, float]]:
    return as_runs(np.linspace(0, 1, 12) + shift + 0.05 * np.random.default_rng(seed).normal(size=(runs, 12)))


def test_gains_that_are_read_side_by_side_are_wider_and_one_alone_is_not() -> None:
    own, candidates = shifted(0.0, 0), [shifted(0.02 * k, k) for k in (1, 2, 3)]
    alone, together = paired_gain(candidates[2], own), simultaneous_gains(candidates, own)
    assert [gain.mean for gain in together] == [paired_gain(side, own).mean for side in candidates]
    assert simultaneous_gains(candidates[2:], own) == [alone]
    assert together[2].low < alone.low < alone.high < together[2].high
    exact = paired_interval(candidates[2], own, level=1 - 0.05 / 3)
    assert (together[2].low, together[2].high) == pytest.approx((exact.low, exact.high))
    assert together[2].level == 0.95


def test_falling_is_the_gain_of_what_should_be_low_and_the_lowest_is_best() -> None:
    own, lower = shifted(0.0, 0), shifted(-0.2, 1)
    assert simultaneous_gains([lower], own, "min")[0].low > 0
    assert p_best([own, lower], "min")[1] > 0.99
    assert p_best([own, lower])[1] < 0.01


def test_the_probabilities_of_being_best_sum_to_one_and_come_out_the_same_again() -> None:
    finalists = [shifted(0.01 * k, k) for k in range(4)]
    found = p_best(finalists)
    assert sum(found) == pytest.approx(1)
    assert found == p_best(finalists)
    assert sorted(found) == found


def test_equals_share_the_probability_and_disagreeing_runs_take_it_from_certainty() -> None:
    low, high = shifted(0.0, 0), shifted(0.1, 1)
    assert p_best([low, high, high])[0] < 0.01
    assert p_best([low, high[:1], high[:1]])[1:] == pytest.approx([0.5, 0.5], abs=0.01)
    shaken = [{p: v + step for p, v in run.items()} for run, step in zip(high, (-0.3, 0.0, 0.3), strict=True)]
    assert p_best([low, high])[1] > 0.99
    assert 0.5 < p_best([low, shaken])[1] < 0.9


def test_the_probability_of_being_best_is_that_of_a_known_answer() -> None:
    # differences of mean 0.1 and standard error 0.1: P(best) is Φ(1) = 0.841 but for the small sample
    values = np.random.default_rng(4).normal(size=100)
    values = (values - values.mean()) / values.std(ddof=1) + 0.1
    assert p_best([as_runs(values[None]), as_runs(0 * values[None])])[0] == pytest.approx(0.841, abs=0.02)


@pytest.mark.parametrize("call", [p_best, lambda sides: simultaneous_gains(sides[1:], sides[0])])
def test_finalists_without_two_shared_prompts_are_an_error(call) -> None:
    with pytest.raises(ValueError, match="have; found 1"):
        call([[{"a": 1.0, "b": 2.0}], [{"a": 1.0, "c": 2.0}]])


@pytest.mark.usefixtures("few_resamples")
def test_nothing_better_is_seldom_declared_better_and_a_clear_gain_mostly_is() -> None:
    def declared(truth: str, searches: int) -> dict[str, list[float]]:
        rng = np.random.default_rng(3)
        found = [one_search(truth, 8, 12, 3, 3, 0.3, rng)[0] for _ in range(searches)]
        return {rule: [said[rule] for said in found if said[rule] is not None] for rule in ("before", "simultaneous")}

    none = declared("all equal", 200)
    assert len(none["simultaneous"]) <= 0.05 * 200
    assert len(none["before"]) > 0.1 * 200
    clear = declared("one better by 1.0", 100)["simultaneous"]
    assert len(clear) >= 0.3 * 100
    assert sum(gain > 0 for gain in clear) >= 0.95 * len(clear)
