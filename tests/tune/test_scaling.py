"""Power laws over model sizes, against laws and intervals worked out by hand."""

import math

import numpy as np
import pytest

from tune.scaling import NORMAL, NoLawError, Point, log_error, power_law

STUDENT = 12.7062
"""The 97.5 % quantile of Student's t with one degree of freedom."""


def law_points(*sizes: int, factor: float = 3.0, exponent: float = 0.25, error: float | None = None) -> list[Point]:
    return [Point(size, factor * size**exponent, error) for size in sizes]


def test_an_exact_law_is_found_again() -> None:
    law = power_law(law_points(135_000_000, 500_000_000, 1_500_000_000, 7_000_000_000))
    assert law.exponent == pytest.approx(0.25)
    assert (law.low, law.high) == (pytest.approx(0.25), pytest.approx(0.25))
    assert law.at(1e9) == pytest.approx(3 * 1e9**0.25)
    assert (law.sizes, law.smallest, law.largest) == (4, 135_000_000, 7_000_000_000)


def test_three_points_off_a_line_are_as_by_hand() -> None:
    """Logarithms 0, 1, 1 at sizes L = ln 10 apart: slope 1 / 2L, residuals -1/6, 1/3, -1/6, error √(1/12) / L."""
    step = math.log(10)
    law = power_law([Point(10, 1.0), Point(100, math.e), Point(1000, math.e)])
    assert law.exponent == pytest.approx(1 / (2 * step))
    reach = STUDENT * math.sqrt(1 / 12) / step
    assert law.high - law.exponent == pytest.approx(reach, rel=1e-4)
    assert law.exponent - law.low == pytest.approx(reach, rel=1e-4)
    assert law.log_factor == pytest.approx(2 / 3 - 1.0)


def test_a_point_that_is_hardly_known_pulls_hardly() -> None:
    exact = law_points(10, 100, 1000, error=0.01)
    assert power_law([*exact, Point(10_000, 1.0, 100.0)]).exponent == pytest.approx(0.25, abs=1e-4)


def test_points_that_lie_well_by_chance_do_not_narrow_what_their_errors_say() -> None:
    """Three points a decade apart, each known to 0.1: the slope is known to 0.1 / √(2 L²), times Student's 12.7."""
    law = power_law(law_points(10, 100, 1000, error=0.1))
    assert law.high - law.exponent == pytest.approx(STUDENT * 0.1 / math.sqrt(2 * math.log(10) ** 2), rel=1e-4)


def test_errors_that_are_not_all_known_are_no_weights() -> None:
    known = law_points(10, 100, 1000, error=0.1)
    assert power_law([*known, Point(10_000, 3 * 10_000**0.25)]).high == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([], "3 different trained sizes, and there are none"),
        (law_points(10), "there is 1"),
        (law_points(10, 100, 100, 100), "there are 2"),
        ([*law_points(10, 100), Point(1000, 0.0)], "values above zero"),
    ],
)
def test_without_three_sizes_and_values_above_zero_there_is_no_law(points: list[Point], why: str) -> None:
    with pytest.raises(NoLawError, match=why):
        power_law(points)


@pytest.mark.parametrize("known", [False, True])
def test_the_interval_holds_the_exponent_as_often_as_it_says(known: bool) -> None:
    """Four sizes, each logarithm off by a normal error: 95 of 100 intervals, more where the errors are known."""
    rng = np.random.default_rng(0)
    sizes, held, draws = (10, 50, 200, 1000), 0, 2000
    for noise in rng.normal(0, 0.2, (draws, len(sizes))):
        exact = law_points(*sizes, error=0.2 if known else None)
        law = power_law(
            [Point(p.parameters, p.value * math.exp(e), p.error) for p, e in zip(exact, noise, strict=True)]
        )
        held += law.low <= 0.25 <= law.high
    assert 0.935 <= held / draws <= (1.0 if known else 0.965)


def test_the_sentence_says_what_twice_the_size_does() -> None:
    said = power_law(law_points(100, 1000, 10_000, exponent=1.0)).sentence("memory")
    assert said.startswith("memory ∝ N^1.00, exponent with 95 % interval [1.00, 1.00] from 3 sizes")
    assert "twice the parameters multiply it by 2 [2, 2]" in said
    assert "between 100 and 10,000 parameters" in said


def test_an_interval_with_zero_in_it_tells_nothing() -> None:
    law = power_law([Point(10, 1.0), Point(100, math.e), Point(1000, math.e)])
    assert law.low < 0 < law.high
    assert "whether it changes with size is not told" in law.sentence("spiral_score")


def test_the_error_of_a_logarithm_comes_from_both_ends() -> None:
    assert log_error(1.0, math.exp(2 * NORMAL * 0.3)) == pytest.approx(0.3)
    assert log_error(None, 1.0) is None
    assert log_error(-0.1, 1.0) is None
    assert log_error(1.0, 1.0) is None
