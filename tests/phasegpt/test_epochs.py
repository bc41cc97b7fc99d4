"""The order of examples: of the seed and the epoch alone, over the examples of the epoch's lap."""

from phasegpt.epochs import SeededOrder
from phasegpt.schedule import Lap


def order(epoch: int, seed: int = 3, laps: tuple[Lap, ...] = (Lap("all", 2, 20),)) -> list[int]:
    sampler = SeededOrder(laps, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


def test_each_epoch_has_its_own_order_of_all_rows() -> None:
    assert order(0) == order(0)
    assert sorted(order(1)) == list(range(20))
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=4)), tuple(order(1, seed=4))}) == 4


def test_an_epoch_holds_the_first_rows_of_its_lap() -> None:
    laps = (Lap("easy", 2, 5), Lap("all", 1, 20))
    assert [sorted(order(epoch, laps=laps)) for epoch in range(3)] == [list(range(n)) for n in (5, 5, 20)]
    assert order(2, laps=laps) == order(2, laps=(Lap("all", 3, 20),))
