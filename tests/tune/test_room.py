"""How many trials fit on machines that can be counted by hand, and what the machine says of itself."""

from pathlib import Path

import pytest

from tune.capacity import Ask
from tune.machine import Machine, cores, free_disk, free_memory
from tune.memory import Memory
from tune.room import room_of

GB = 1e9
TRIAL = Memory(weights=2 * GB, adapters=0, activations=1 * GB, working=0, reference=0, process=1 * GB)


def test_two_cores_a_trial_or_as_many_as_are_asked_for() -> None:
    machine = Machine(16, 100 * GB)
    room = room_of(machine, Ask(), None, TRIAL)
    assert (room.count, room.limit, room.cpus, room.share, room.by_memory) == (8, "cores", 2.0, 0.125, 25)
    fewer = room_of(machine, Ask(), 2, TRIAL)
    assert (fewer.count, fewer.limit, fewer.cpus, fewer.share) == (2, "search.max_concurrent", 8.0, 0.5)


def test_a_gpu_a_trial_or_a_part_of_one() -> None:
    machine = Machine(16, 100 * GB, (24 * GB, 24 * GB))
    room = room_of(machine, Ask(), None, TRIAL)
    assert (room.count, room.limit, room.gpus, room.share, room.by_memory) == (2, "GPUs", 1.0, 1.0, 16)
    halves = room_of(machine, Ask(gpus=0.5), None, TRIAL)
    assert (halves.count, halves.share) == (4, 0.5)
    pairs = room_of(machine, Ask(workers=2), None, TRIAL)
    assert (pairs.count, pairs.share, pairs.by_memory) == (1, 2.0, 8)


def test_a_trial_that_fits_nowhere_is_refused_in_the_words_of_the_search() -> None:
    room = room_of(Machine(2, 100 * GB), Ask(workers=4), None, TRIAL)
    assert room.refusal.startswith("4 workers need 0 GPU and 1 CPU each; the cluster has a node with 0 GPU and 2 CPU")


def test_memory_is_unknown_where_the_model_the_machine_or_the_driver_says_nothing() -> None:
    machines = [(Machine(4, 1 * GB), None), (Machine(4, None), TRIAL), (Machine(4, 1 * GB, (0.0,)), TRIAL)]
    assert [room_of(machine, Ask(), None, memory).by_memory for machine, memory in machines] == [None] * 3


@pytest.mark.parametrize(("quota", "found"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_counts_and_is_rounded_up(tmp_path: Path, quota: str, found: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    every = cores(tmp_path / "none")
    assert cores(tmp_path / "cpu.max") == min(every, found or every)


def test_free_memory_is_what_new_processes_can_have(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:  2000 kB\n")
    assert free_memory(tmp_path / "meminfo") == 2000 * 1024
    assert free_memory(tmp_path / "none") is None


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_above_it(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(free_disk(tmp_path), rel=0.01)
