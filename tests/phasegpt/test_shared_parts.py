"""Which parts of shared work a budget has room for."""

import pytest

from phasegpt.shared_parts import HIDDEN, TRUNK, fitting, part_bytes

SIZES = {HIDDEN: 60.0, TRUNK: 100.0}


@pytest.mark.parametrize(
    ("budget", "kept"), [(160, (HIDDEN, TRUNK)), (159, (HIDDEN,)), (100, (HIDDEN,)), (60, (HIDDEN,)), (59, ()), (0, ())]
)
def test_the_hidden_states_come_first_and_nothing_goes_over_the_budget(budget: float, kept: tuple[str, ...]) -> None:
    assert fitting(SIZES, budget) == kept


def test_a_part_that_nobody_wants_takes_no_room() -> None:
    assert fitting({TRUNK: 100.0}, 100) == (TRUNK,)
    assert fitting({}, 100) == ()


def test_sizes_are_counted_from_tokens() -> None:
    assert part_bytes(tokens=10, completion_tokens=7, hidden_size=576) == {HIDDEN: 7 * 576 * 4, TRUNK: 10 * 576 * 4}
