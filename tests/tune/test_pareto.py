"""Several objectives, with answers known by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tune.pareto import Point, dominates, fronts, hypervolume, preference, upward

SQUARE: list[Point] = [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0)]
coordinate = some.integers(0, 4).map(float)
points = some.lists(some.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=8)


def test_what_is_minimised_is_turned_over() -> None:
    found = upward({"spiral_score": "max", "perplexity": "min"}, {"perplexity": 40.0, "spiral_score": 0.3, "x": 1.0})
    assert found == (0.3, -40.0)


def test_a_point_dominates_what_it_is_nowhere_worse_than() -> None:
    assert dominates((1.0, 2.0), (1.0, 1.0))
    assert not dominates((1.0, 1.0), (1.0, 1.0))
    assert not dominates((2.0, 0.0), (1.0, 1.0))


def test_fronts_are_peeled_one_after_another() -> None:
    assert fronts(SQUARE) == [0, 0, 0, 1, 2]
    assert fronts([(1.0,), (1.0,), (0.5,)]) == [0, 0, 1]


def test_a_hypervolume_is_the_area_under_a_staircase() -> None:
    assert hypervolume(SQUARE, (0.0, 0.0)) == pytest.approx(3 + 2 + 1)
    assert hypervolume([(1.0, 2.0, 3.0)], (0.0, 0.0, 0.0)) == pytest.approx(6.0)
    assert hypervolume([(2.0, 1.0, 1.0), (1.0, 2.0, 1.0)], (0.0, 0.0, 0.0)) == pytest.approx(3.0)
    assert hypervolume([(1.0, 1.0)], (2.0, 0.0)) == 0.0
    assert hypervolume([], (0.0,)) == 0.0


@given(points)
def test_a_hypervolume_is_that_of_the_unit_cells_below_its_points(found: list[Point]) -> None:
    cells = {(x, y, z) for p in found for x in range(int(p[0])) for y in range(int(p[1])) for z in range(int(p[2]))}
    assert hypervolume(found, (0.0, 0.0, 0.0)) == pytest.approx(len(cells))


def best(found: list[Point], pick: str, weights: tuple[float, ...] = ()) -> Point:
    keys = preference(found, pick, weights)  # type: ignore[arg-type]
    return found[min(range(len(found)), key=lambda i: keys[i])]


def test_each_pick_takes_its_own_point() -> None:
    bent: list[Point] = [(0.0, 10.0), (8.0, 9.0), (10.0, 0.0), (7.0, 8.0)]
    assert best(bent, "lexicographic") == (10.0, 0.0)
    assert best(bent, "knee") == (8.0, 9.0)
    assert best(bent, "weights", (1.0, 1.0)) == (8.0, 9.0)
    assert best(bent, "weights", (9.0, 1.0)) == (10.0, 0.0)
    assert best(bent, "weights", (1.0, 20.0)) == (0.0, 10.0)


def test_units_do_not_move_a_knee() -> None:
    bent: list[Point] = [(0.0, 10.0), (8.0, 9.0), (10.0, 0.0)]
    assert best([(x * 1e-3, y * 1e3) for x, y in bent], "knee") == pytest.approx((8e-3, 9e3))


@given(points, some.sampled_from(["knee", "lexicographic", "weights"]))
def test_what_is_picked_is_never_dominated(found: list[Point], pick: str) -> None:
    chosen = best(found, pick, (1.0, 2.0, 3.0))
    assert not any(dominates(other, chosen) for other in found)
    assert all(math.isfinite(x) for key in preference(found, pick, (1.0, 2.0, 3.0)) for x in key)  # type: ignore[arg-type]
