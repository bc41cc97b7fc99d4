"""Ranges as Optuna distributions, and the points a search begins with."""

from typing import Any

import pytest

from phasegpt.config_ranges import Distribution, Kind, Scalar
from phasegpt.config_search import Search
from tune.space import (
    LITERATURE,
    RANGE,
    as_params,
    budget,
    contains,
    draw,
    grid_points,
    literature_points,
    to_optuna,
)

EVERY_KIND: list[tuple[Kind, tuple[Scalar, ...]]] = [
    ("uniform", (0.0, 0.1)),
    ("loguniform", (0.001, 1.0)),
    ("quniform", (0.0, 0.3, 0.1)),
    ("randint", (4, 64)),
    ("choice", (8, 16, "text", None, True)),
    ("grid", (0.01, 0.1, 0.5)),
]
BETA, RATE = "training.beta", "training.learning_rate"
WIDE = {BETA: Distribution("loguniform", (0.01, 1.0)), RATE: Distribution("loguniform", (1e-6, 1e-4))}


@pytest.mark.parametrize(("kind", "values"), EVERY_KIND)
def test_the_edges_of_every_kind_come_back_as_they_went_in(kind: Kind, values: tuple[Scalar, ...]) -> None:
    distribution = Distribution(kind, values)
    optuna = to_optuna(distribution, own=values[0])
    for edge in distribution.edges():
        inner = optuna.to_internal_repr(edge)
        assert optuna._contains(inner)
        assert contains(distribution, edge)
        assert (optuna.to_external_repr(inner), type(optuna.to_external_repr(inner))) == (edge, type(edge))


def test_only_loguniform_is_drawn_on_a_log_scale() -> None:
    assert to_optuna(Distribution("loguniform", (0.001, 1.0)), 0.1).log
    assert not to_optuna(Distribution("uniform", (0.001, 1.0)), 0.1).log
    assert to_optuna(Distribution("quniform", (0.0, 1.0, 0.25)), 0.5).step == 0.25


def test_a_choice_keeps_its_order_and_gains_only_an_own_value_that_it_lacks() -> None:
    assert to_optuna(Distribution("choice", (32, 8)), own=8).choices == (32, 8)
    assert to_optuna(Distribution("choice", (32, 8)), own=16).choices == (32, 8, 16)


def test_a_range_holds_numbers_between_its_edges_and_no_truth_values() -> None:
    between = Distribution("uniform", (0.0, 2.0))
    assert [contains(between, value) for value in (0.0, 1, 2.0, 2.1, -0.1, True, None, "1")] == [
        True, True, True, False, False, False, False, False,
    ]  # fmt: skip
    assert contains(Distribution("choice", ("a", "b")), "b")
    assert not contains(Distribution("choice", ("a", "b")), "c")


def test_a_grid_begins_with_the_own_values_and_moves_the_last_parameter_fastest() -> None:
    grid = {"a": Distribution("grid", (1, 2)), "b": Distribution("choice", ("x", "y"))}
    rest = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid_points(grid, own={"a": 9, "b": "z"}) == [{"a": 9, "b": "z"}, *rest]
    assert grid_points(grid, own={"a": 2, "b": "x"}) == [rest[2], rest[0], rest[1], rest[3]]


def test_the_budget_of_a_grid_is_its_points_and_else_what_was_asked_for() -> None:
    grid = Search.model_validate({"parameters": {"a": {"grid": [1, 2]}}, "sampler": "grid", "trials": 50})
    assert budget(grid, {"a": 1}) == 2
    assert budget(grid, {"a": 3}) == 3
    assert budget(Search(trials=5), {}) == 5


def test_published_points_inside_the_box_are_taken_and_the_rest_keeps_the_own_values() -> None:
    own = {BETA: 0.3, RATE: 5e-5, "training.kto_lambda": 0.2}
    parameters = {**WIDE, "training.kto_lambda": Distribution("uniform", (0.0, 1.0))}
    points = literature_points(parameters, own, limit=10)
    assert [source for source, _ in points] == [source for source, _ in LITERATURE]
    for (_, point), (_, published) in zip(points, LITERATURE, strict=True):
        assert point == {**own, **published}
    assert literature_points(parameters, own, limit=1) == points[:1]


def test_published_points_outside_the_box_are_left_out() -> None:
    narrow = {BETA: Distribution("uniform", (0.4, 0.6)), RATE: Distribution("loguniform", (1e-6, 1e-4))}
    assert [source for source, _ in literature_points(narrow, {BETA: 0.4, RATE: 1e-5}, 10)] == ["SmolLM2's own recipe"]


def test_a_published_point_that_is_the_config_itself_is_not_asked_twice() -> None:
    points = literature_points(WIDE, {BETA: 0.1, RATE: 1e-5}, limit=10)
    assert [source for source, _ in points] == ["Zephyr QLoRA", "SmolLM2's own recipe"]


def test_a_search_of_other_parameters_has_no_published_points() -> None:
    assert (
        literature_points({"model.lora_config.r": Distribution("randint", (4, 64))}, {"model.lora_config.r": 8}, 3)
        == []
    )


METHOD, LAMBDA = "training.method", "training.kto_lambda"
CONDITIONAL = Search.model_validate(
    {
        "parameters": {
            LAMBDA: {"loguniform": [0.001, 1.0], "or": [0], "grid": [0.01, 0.5], "when": {METHOD: "kto"}},
            METHOD: {"choice": ["dpo", "kto"]},
            BETA: {"uniform": [0.1, 1.0]},
        }
    }
).parameters
OWN = {METHOD: "kto", LAMBDA: 0.1, BETA: 0.3}


def drawn(**answers: Any) -> dict[str, Any]:
    """The point that comes of these answers; a question without one fails."""
    return draw(CONDITIONAL, OWN, lambda name, _: answers[name])


def test_a_parameter_is_drawn_where_its_condition_holds_and_no_part_of_the_point_elsewhere() -> None:
    assert drawn(**{METHOD: "dpo", BETA: 0.2}) == {METHOD: "dpo", BETA: 0.2}
    ranged = {METHOD: "kto", BETA: 0.2, f"{LAMBDA}?": RANGE, LAMBDA: 0.05}
    assert drawn(**ranged) == {METHOD: "kto", BETA: 0.2, LAMBDA: 0.05}
    assert drawn(**{METHOD: "kto", BETA: 0.2, f"{LAMBDA}?": 0}) == {METHOD: "kto", BETA: 0.2, LAMBDA: 0}


@pytest.mark.parametrize("point", [OWN, {METHOD: "dpo", BETA: 0.2}, {METHOD: "kto", LAMBDA: 0, BETA: 1.0}])
def test_a_point_is_told_by_the_names_that_are_drawn(point: dict[str, Any]) -> None:
    assert drawn(**as_params(CONDITIONAL, point)) == point


def test_a_grid_takes_the_points_of_ranges_and_counts_what_does_nothing_once() -> None:
    points = grid_points(CONDITIONAL, OWN)
    assert [(p[METHOD], p.get(LAMBDA)) for p in points] == [("kto", 0.1), ("dpo", None), ("kto", 0.01), ("kto", 0.5)]
    assert {p[BETA] for p in points} == {0.3}


def test_what_stands_beside_a_range_belongs_to_it() -> None:
    assert contains(CONDITIONAL[LAMBDA], 0)
    assert contains(CONDITIONAL[LAMBDA], 0.01)
    assert not contains(CONDITIONAL[LAMBDA], 0.0001)
    assert CONDITIONAL[LAMBDA].edges() == (0.001, 1.0, 0, 0.01, 0.5)


def test_a_range_is_written_as_it_is_read() -> None:
    written = {"loguniform": [0.001, 1.0], "or": [0], "grid": [0.01, 0.5], "when": {METHOD: ["kto"]}}
    assert Distribution.parse(written).written() == written
    assert Distribution.parse({"grid": [1, 2]}).written() == {"grid": [1, 2]}


@pytest.mark.parametrize(
    "written",
    [
        {"uniform": [0, 1], "loguniform": [0.1, 1]},
        {"choice": [1], "grid": [1]},
        {"choice": [1], "or": [2]},
        {"or": [0]},
        {"uniform": [0, 1], "or": 0},
        {"uniform": [0, 1], "when": "kto"},
        {"uniform": [0, 1], "unless": {METHOD: "dpo"}},
        {"uniform": [0, 1], "grid": [[[1]]]},
    ],
)
def test_what_is_no_range_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|stand beside a range"):
        Distribution.parse(written)
