"""Steps of plain runs and of curricula, and weights that move over them, against numbers worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasegpt.config_sections import CurriculumStage
from phasegpt.schedule import Course, Lap, epoch_steps, laps, optimizer_steps


def stage(fraction: float, epochs: int = 1) -> CurriculumStage:
    return CurriculumStage(name=f"{fraction}", epochs=epochs, data_fraction=fraction)


@pytest.mark.parametrize(
    ("pairs", "batch", "accumulation", "epochs", "limit", "steps"),
    [(92, 4, 8, 3, None, 9), (92, 2, 1, 3, 8, 8), (3, 4, 8, 2, 100, 2), (32, 4, 8, 1, None, 1), (33, 4, 8, 1, None, 2)],
)
def test_a_run_takes_the_steps_of_its_epochs_and_no_more_than_the_limit(
    pairs: int, batch: int, accumulation: int, epochs: int, limit: int | None, steps: int
) -> None:
    assert optimizer_steps(laps(pairs, epochs), batch, accumulation, limit) == steps


def test_a_curriculums_steps_are_the_sum_over_its_stages() -> None:
    run = laps(68, 3, [stage(0.3, 2), stage(0.6), stage(1.0)])
    assert run == (Lap("0.3", 2, 21), Lap("0.6", 1, 41), Lap("1.0", 1, 68))  # ⌈20.4⌉ and ⌈40.8⌉
    assert [epoch_steps(lap.examples, 4, 8) for lap in run] == [1, 2, 3]
    assert optimizer_steps(run, 4, 8, None) == 2 * 1 + 2 + 3
    assert optimizer_steps(run, 4, 8, 4) == 4


@pytest.mark.parametrize(("fraction", "examples", "share"), [(0.07, 100, 7), (0.001, 10, 1), (1.0, 7, 7), (0.5, 7, 4)])
def test_a_stage_holds_its_share_rounded_up_and_at_least_one(fraction: float, examples: int, share: int) -> None:
    assert laps(examples, 1, [stage(fraction)])[0].examples == share


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("linear", [0.0, 0.1, 0.2, 0.3, 0.4]), ("cosine", [0.0, 0.058579, 0.2, 0.341421, 0.4])],
)
def test_the_course_of_the_docstring_comes_out_as_worked(kind: str, weights: list[float]) -> None:
    assert [Course(0.0, 0.4, kind).at(step, 5) for step in range(1, 6)] == pytest.approx(weights, abs=1e-6)
    falling = [Course(0.4, 0.0, kind).at(step, 5) for step in range(1, 6)]
    assert falling == pytest.approx(weights[::-1], abs=1e-6)


@given(st.floats(0, 10), st.sampled_from(["linear", "cosine"]), st.integers(1, 50))
def test_a_course_without_a_way_to_go_is_its_weight_bit_for_bit(weight: float, kind: str, steps: int) -> None:
    assert {Course(weight, weight, kind).at(step, steps) for step in range(1, steps + 1)} == {weight}


@given(st.floats(0, 10), st.floats(0, 10), st.sampled_from(["linear", "cosine"]), st.integers(2, 50))
def test_a_course_starts_at_its_first_end_and_is_never_negative(
    initial: float, final: float, kind: str, steps: int
) -> None:
    course = Course(initial, final, kind)
    weights = [course.at(step, steps) for step in range(1, steps + 1)]
    assert weights[0] == initial
    assert weights[-1] == pytest.approx(final, abs=1e-12)
    assert min(weights) >= 0.0


def test_a_run_of_one_step_takes_the_initial_weight() -> None:
    assert Course(0.3, 0.1).at(1, 1) == 0.3
