"""What fits on a cluster: jobs, cores and GPUs of workers, and the refusal of what never could."""

import argparse
from collections.abc import Sequence

import pytest

from tune.capacity import OPTIONS, Ask, ClusterError, Node, Slots, add_options, bundles, chosen, shared_by, slots

LAPTOP: Sequence[Node] = ({"CPU": 2.0},)
BOX: Sequence[Node] = ({"CPU": 16.0, "GPU": 4.0, "accelerator_type:A100": 1.0},)
PAIR: Sequence[Node] = (
    {"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 1.0},
    {"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0},
)


@pytest.mark.parametrize(
    ("nodes", "ask", "most", "expected"),
    [
        (LAPTOP, Ask(), None, Slots(1, 2, 0)),
        (({"CPU": 1.0},), Ask(), None, Slots(1, 1, 0)),
        (({"CPU": 8.0},), Ask(), None, Slots(4, 2, 0)),
        (({"CPU": 8.0},), Ask(), 1, Slots(1, 8, 0)),
        (({"CPU": 8.0},), Ask(cpus=3), None, Slots(2, 3, 0)),
        (BOX, Ask(), None, Slots(4, 4, 1)),
        (BOX, Ask(gpus=0.5), None, Slots(8, 2, 0.5)),
        (BOX, Ask(gpus=0.0), None, Slots(8, 2, 0)),
        (LAPTOP, Ask(2), None, Slots(1, 1, 0, 2)),
        (({"CPU": 8.0},), Ask(2), None, Slots(2, 2, 0, 2)),
        (({"CPU": 8.0},), Ask(2), 1, Slots(1, 4, 0, 2)),
        (({"CPU": 3.0},), Ask(2), None, Slots(1, 1, 0, 2)),
        (BOX, Ask(2), None, Slots(2, 4, 1, 2)),
        (BOX, Ask(2, gpus=0.5), None, Slots(4, 2, 0.5, 2)),
        (BOX, Ask(2, gpus=2), None, Slots(1, 8, 2, 2)),
        (PAIR, Ask(2), None, Slots(1, 8, 1, 2)),
        (PAIR, Ask(2, placement="STRICT_SPREAD"), None, Slots(1, 8, 1, 2)),
        (PAIR, Ask(2, gpus=0.25, placement="STRICT_PACK"), None, Slots(4, 2, 0.25, 2)),
        (PAIR, Ask(1, accelerator_type="H100"), None, Slots(1, 8, 1)),
        (LAPTOP, Ask(2, cpus=2, least=1), None, Slots(1, 2, 0, 2)),
    ],
)
def test_as_many_jobs_as_fit_share_the_cores_out(
    nodes: Sequence[Node], ask: Ask, most: int | None, expected: Slots
) -> None:
    found = slots(nodes, ask, most)
    assert found == expected
    if ask.least is None:
        used = found.count * found.workers
        assert used * found.cpus <= sum(node["CPU"] for node in nodes)
        assert used * found.gpus <= sum(node.get("GPU", 0.0) for node in nodes)


@pytest.mark.parametrize(
    ("nodes", "ask", "said"),
    [
        (LAPTOP, Ask(gpus=1), "a trial needs 1 GPU and 1 CPU; the cluster has a node with 0 GPU and 2 CPU; add nodes"),
        (LAPTOP, Ask(3), "3 workers need 0 GPU and 1 CPU each; the cluster has a node with 0 GPU and 2 CPU"),
        (LAPTOP, Ask(2, cpus=2), "2 workers need 0 GPU and 2 CPU each"),
        (LAPTOP, Ask(4, cpus=2, least=2), "2 workers need 0 GPU and 2 CPU each"),
        (PAIR, Ask(1, cpus=12), "a node with 1 GPU (H100) and 8 CPU; a node with 1 GPU (T4) and 8 CPU"),
        (PAIR, Ask(2, gpus=2), "2 workers need 2 GPU"),
        (PAIR, Ask(2, placement="STRICT_PACK"), "placed STRICT_PACK"),
        (PAIR, Ask(3, gpus=0.5, placement="STRICT_SPREAD"), "placed STRICT_SPREAD"),
        (PAIR, Ask(2, accelerator_type="H100"), "on nodes with H100"),
        (PAIR, Ask(1, accelerator_type="B200"), "on nodes with B200"),
        ((), Ask(), "the cluster has no node"),
    ],
)
def test_what_can_never_fit_is_refused_with_what_there_is(nodes: Sequence[Node], ask: Ask, said: str) -> None:
    with pytest.raises(ClusterError) as caught:
        slots(nodes, ask)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "ask", "expected"),
    [
        ((), Ask(), [{"CPU": 1.0}]),
        (({"CPU": 0.0},), Ask(gpus=0.5), [{"CPU": 1.0, "GPU": 0.5}]),
        (BOX, Ask(2, cpus=3), [{"CPU": 3, "GPU": 1.0}] * 2),
        ((), Ask(4, least=2), [{"CPU": 1.0}] * 2),
        ((), Ask(gpus=1, accelerator_type="H100"), [{"CPU": 1.0, "GPU": 1, "accelerator_type:H100": 0.001}]),
    ],
)
def test_each_worker_has_a_bundle_of_what_it_needs_at_least(
    nodes: Sequence[Node], ask: Ask, expected: list[dict[str, float]]
) -> None:
    assert bundles(nodes, ask) == expected


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(words)


def test_options_become_what_is_asked_and_words_again() -> None:
    words = "--gpus-per-worker 0.5 --cpus-per-worker 3.0 --min-workers 2 --accelerator-type H100 --placement SPREAD"
    given = options(*words.split())
    assert Ask.of(4, given) == Ask(4, 0.5, 3.0, 2, "H100", "SPREAD")
    assert chosen(given) == words.split()
    assert len(OPTIONS) == 5
    assert Ask.of(1, options()) == Ask()
    assert chosen(options()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpus-per-worker 1.5", "a whole number, or a fraction of one GPU"),
        ("--gpus-per-worker -1", "a whole number, or a fraction of one GPU"),
        ("--cpus-per-worker 0", "--cpus-per-worker 0: expected a number above 0"),
        ("--min-workers 3", "expected at most the number of workers, 2"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_starts(words: str, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        Ask.of(2, options(*words.split()))


def test_the_number_of_workers_is_a_key_of_the_config() -> None:
    assert shared_by(None, "--num-workers") == []
    assert [(key, value) for key, value, _ in shared_by(2, "--num-workers")] == [
        ("training.distributed.num_gpus", 2),
        ("training.distributed.enabled", True),
    ]
    assert shared_by(1, "--num-workers")[1][1] is False
