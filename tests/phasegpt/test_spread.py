"""Spread over prompts and runs, against values worked by hand and against what the samples were drawn with."""

import math

import numpy as np
import pytest

from phasegpt.spread import (
    RunSpread,
    prompt_draws,
    run_draws,
    run_reach,
    run_spread,
    same,
    skewed_reach,
    student_quantile,
    student_reach,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("p", "freedom", "quantile"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 10, 2.22814), (0.9875, 4, 3.49541), (0.975, 1.5, 6.01666)],
)
def test_students_quantiles_are_those_of_the_tables(p: float, freedom: float, quantile: float) -> None:
    assert student_quantile(p, freedom) == pytest.approx(quantile, rel=2e-5)


def test_runs_that_differ_by_the_same_amount_on_every_prompt_are_all_run_and_no_noise() -> None:
    # run means 1 and 3: variance 2, over two runs 1; taking the runs out leaves no noise
    assert run_spread(np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])) == RunSpread(
        pytest.approx(1.0), pytest.approx(1.0), 1
    )


def test_runs_that_differ_by_noise_alone_have_no_excess() -> None:
    # run means 0.5 and 0.5
    assert run_spread(np.array([[0.0, 1.0], [1.0, 0.0]])) == RunSpread()
    # run means 1/3 and 2/3: raw 1/36; the noise, 4/3 on two degrees over six scores, would explain 1/9
    found = run_spread(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
    assert (found.excess, found.raw, found.freedom) == (0.0, pytest.approx(1 / 36), 1)


def test_a_single_run_stands_for_itself() -> None:
    assert run_spread(np.array([[0.1, 0.9]])) == RunSpread()
    assert run_reach([RunSpread(), RunSpread()], 0.95) == 0.0


def test_a_prompt_that_one_run_lacks_says_nothing_about_runs() -> None:
    whole = run_spread(np.array([[0.0, 1.0, 2.5], [2.0, 3.0, 4.0]]))
    assert run_spread(np.array([[0.0, 1.0, 2.5, 9.0], [2.0, 3.0, 4.0, NAN]])) == whole


@pytest.mark.parametrize("layout", ["whole", "holes", "apart"])
@pytest.mark.parametrize("run_sd", [0.0, 1.0])
def test_the_excess_is_what_the_runs_were_drawn_with(layout: str, run_sd: float) -> None:
    rng, found = np.random.default_rng(5), []
    for _ in range(600):
        scores = rng.normal(size=12) + run_sd * rng.normal(size=(3, 1)) + 0.5 * rng.normal(size=(3, 12))
        if layout == "holes":
            scores[rng.integers(0, 3, 4), [0, 3, 6, 9]] = NAN
        if layout == "apart":
            scores[np.arange(12) % 3 != np.arange(3)[:, None]] = NAN
        found.append(run_spread(scores).excess)
    assert np.mean(found) == pytest.approx(run_sd**2 / 3, abs=0.06)  # the cut at zero biases by up to 0.05 where apart


def test_the_reach_of_runs_takes_welchs_degrees_of_freedom() -> None:
    alike = [RunSpread(0.5, 0.5, 1), RunSpread(0.5, 0.5, 1)]  # 1² / (0.25 + 0.25) = 2
    assert run_reach(alike, 0.95) == pytest.approx(4.30265, rel=1e-4)
    one = [RunSpread(1.0, 1.0, 1), RunSpread()]
    assert run_reach(one, 0.95) == pytest.approx(12.7062, rel=1e-4)


def test_only_prompts_that_changed_count_as_degrees_of_freedom() -> None:
    changed = np.array([1.0, 1.1, 0.9, 1.05] + [0.0] * 8)
    error = changed.std(ddof=1) / math.sqrt(12)
    assert student_reach(changed, 0.95) == pytest.approx(2.77645 * error, rel=1e-4)  # t with 4, not 11
    assert student_reach(np.arange(12.0), 0.95) == pytest.approx(
        2.20099 * np.arange(12.0).std(ddof=1) / math.sqrt(12), rel=1e-4
    )


def test_skewed_values_reach_further_to_the_side_they_lean_to_and_no_further_than_twice_students() -> None:
    leaning = np.array([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.5, 3.0])
    down, up = skewed_reach(leaning, 0.95)
    reach = student_reach(leaning, 0.95)
    assert down == pytest.approx(reach)
    assert reach < up <= 2 * reach
    assert skewed_reach(leaning[-4:], 0.95) == (pytest.approx(student_reach(leaning[-4:], 0.95)),) * 2


def test_rounding_is_the_same_and_a_real_step_is_not() -> None:
    assert same(np.array([0.2, 0.0, 30.0]), np.array([0.2 + 2e-9, 5e-8, 30.00001])).all()
    assert not same(np.array([0.2, 0.0, 30.0]), np.array([0.20001, 1e-6, 30.001])).any()


def test_drawn_means_have_the_spread_of_new_prompts_and_of_new_runs() -> None:
    values = np.random.default_rng(0).normal(size=(12, 2))
    drawn = prompt_draws(values, seed=0)
    assert drawn.mean(0) == pytest.approx(values.mean(0), abs=0.01)
    assert drawn.std(0) == pytest.approx(values.std(0, ddof=1) / math.sqrt(12), rel=0.03)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(np.corrcoef(values.T)[0, 1], abs=0.05)
    runs = run_draws(RunSpread(4.0, 4.0, 1), 10_000, np.random.default_rng(0))
    assert np.quantile(runs, 0.75) == pytest.approx(2.0, rel=0.05)  # the upper quartile of t with one degree is 1
