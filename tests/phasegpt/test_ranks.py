"""Workers of one run: lists are dealt out and come back in order, also where there is too little for everybody."""

from typing import Any

import pytest
import torch

from phasegpt import ranks
from tests.phasegpt.workers import on_two

CASES = [(count, block) for count in (0, 1, 2, 3, 7, 8) for block in (1, 2, 3)]


def as_one_of_two() -> dict[str, Any]:
    hands = {case: ranks.dealt(range(case[0]), case[1]) for case in CASES}
    orders: list[str] = []
    with ranks.first_ahead():
        orders.append("went")
    return {
        "place": (ranks.rank(), ranks.size(), ranks.first()),
        "hands": hands,
        "whole": {case: ranks.collected([-n for n in hands[case]], *case) for case in CASES},
        "agreed": ranks.agreed(f"worker {ranks.rank()}"),
        "everyones": ranks.everyones(ranks.rank()),
        "by_first": ranks.by_first(lambda: f"made by {ranks.rank()}"),
        "joined": ranks.joined(torch.arange(ranks.rank(), dtype=torch.float64)).tolist(),
        "went": orders,
    }


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return on_two(as_one_of_two)


def test_two_workers_know_their_places_and_agree(two: list[dict[str, Any]]) -> None:
    assert [worker["place"] for worker in two] == [(0, 2, True), (1, 2, False)]
    for worker in two:
        assert (worker["agreed"], worker["by_first"]) == ("worker 0", "made by 0")
        assert (worker["everyones"], worker["joined"], worker["went"]) == ([0, 1], [0.0], ["went"])


def test_every_item_is_dealt_to_one_worker_and_comes_back_in_its_place(two: list[dict[str, Any]]) -> None:
    assert (two[0]["hands"][7, 2], two[1]["hands"][7, 2]) == ([0, 1, 4, 5], [2, 3, 6])
    for count, block in CASES:
        hands = [worker["hands"][count, block] for worker in two]
        assert sorted(hands[0] + hands[1]) == list(range(count))
        assert abs(len(hands[0]) - len(hands[1])) <= block
        assert [worker["whole"][count, block] for worker in two] == [[-n for n in range(count)]] * 2


def test_a_process_alone_is_a_run_of_one() -> None:
    assert (ranks.rank(), ranks.size(), ranks.first()) == (0, 1, True)
    assert ranks.collected(ranks.dealt([3, 1, 2], 2), 3, 2) == [3, 1, 2]
    assert (ranks.agreed(5), ranks.everyones(5), ranks.by_first(lambda: 5)) == (5, [5], 5)
    tracked = torch.ones(2, requires_grad=True)
    assert not ranks.joined(tracked).requires_grad
