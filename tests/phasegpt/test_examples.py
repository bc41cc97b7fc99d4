"""Batches of pairs and of answers, and what the mismatched pairs of a batch are worth."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phasegpt.answers import answers_of
from phasegpt.examples import AnswerExamples, PairExamples
from phasegpt.forward import AnswerModel, completion_statistics
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base
from phasegpt.packing import Packing
from phasegpt.pairs import Pair, UnpairedRow, read_pairs
from phasegpt.shared_store import Lengths, SharedStore, prepare
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = Lengths(512, 256)


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:4]


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


def moved_policy(base: Base, layers: tuple[int, ...] | None = None) -> Policy:
    """A policy away from the reference, by a seeded draw."""
    policy = attach_policy(base, LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"), layers=layers), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data.normal_(0, 0.2, generator=generator)
    return policy


@pytest.fixture
def policy(base: Base) -> Iterator[Policy]:
    policy = moved_policy(base)
    yield policy
    policy.detach()


def examples_of(
    policy: Policy, pairs: tuple[Pair, ...], folder: Path, lengths: Lengths = LENGTHS
) -> tuple[AnswerExamples, tuple[UnpairedRow, ...]]:
    """Examples of the answers of `pairs`, and these: chosen and rejected in turn."""
    answers = answers_of(pairs)
    shared = prepare(SharedStore(folder), policy, pairs, lengths)
    return AnswerExamples(shared, answers, lengths.max_length), answers


def mismatched(batch: dict[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of each mismatched pair of a batch."""
    ids, packing = batch["mismatched_input_ids"].tolist(), Packing(batch["mismatched_lengths"])
    return [([ids[n] for n in span.prompt], [ids[n] for n in span.completion]) for span in packing.spans]


def test_each_prompt_gets_the_answer_of_the_row_before_it(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    examples, answers = examples_of(policy, pairs, tmp_path)
    sequences = [examples.shared.sequence(row.id) for row in answers]
    batch = examples.batch([0, 3, 4])
    assert batch["desirable"].tolist() == [True, False, True]
    assert mismatched(batch) == [
        (list(sequences[prompt][0]), list(sequences[completion][1])) for prompt, completion in ((0, 4), (3, 0), (4, 3))
    ]


def test_an_answer_to_the_same_prompt_is_no_mismatch(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    examples, answers = examples_of(policy, pairs, tmp_path)
    sequences = [examples.shared.sequence(row.id) for row in answers]
    found = mismatched(examples.batch([0, 1, 2]))  # 0 and 1 answer one prompt
    assert found == [(list(sequences[0][0]), list(sequences[2][1])), (list(sequences[2][0]), list(sequences[1][1]))]


@pytest.mark.parametrize("numbers", [[0, 1], [5]], ids=["one prompt", "one row"])
def test_a_batch_of_one_prompt_has_no_mismatched_pairs(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, numbers: list[int]
) -> None:
    examples, _ = examples_of(policy, pairs, tmp_path)
    batch = examples.batch(numbers)
    assert not any(name.startswith("mismatched") for name in batch)
    assert AnswerModel(policy)(batch).mismatched_logratios.shape == (0,)


def test_a_mismatched_pair_keeps_to_the_longest_sequence(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    examples, _ = examples_of(policy, pairs, tmp_path, Lengths(40, 20))
    batch = examples.batch([0, 2, 4, 6])
    assert all(len(prompt) + len(completion) <= 40 for prompt, completion in mismatched(batch))
    assert all(len(completion) > 0 for _, completion in mismatched(batch))


@pytest.mark.parametrize("layers", [None, (2, 3)], ids=["all layers", "frozen trunk"])
def test_the_mismatched_log_ratios_are_those_of_plain_passes_without_gradient(
    base: Base, pairs: tuple[Pair, ...], tmp_path: Path, layers: tuple[int, ...] | None
) -> None:
    policy = moved_policy(base, layers)
    examples, _ = examples_of(policy, pairs, tmp_path)
    batch = examples.batch([0, 3, 4, 7])
    outputs = AnswerModel(policy)(batch)
    plain = {name: batch[f"mismatched_{name}"] for name in ("input_ids", "lengths")}
    with torch.no_grad():
        own = completion_statistics(policy, plain).logps
    with policy.as_reference():
        reference = completion_statistics(policy, plain).logps
    assert ("trunk" in batch) == (layers is not None)
    assert not outputs.mismatched_logratios.requires_grad
    assert outputs.policy_logps.requires_grad
    assert outputs.mismatched_logratios.abs().max() > 0.1
    torch.testing.assert_close(outputs.mismatched_logratios, own - reference, rtol=1e-5, atol=1e-4)
    policy.detach()


def test_the_reference_of_an_answer_is_that_of_the_shared_work(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    examples, answers = examples_of(policy, pairs, tmp_path)
    outputs = examples.outputs(AnswerModel(policy), examples.batch([5, 2]))
    batch = examples.shared.answers([answers[5].id, answers[2].id], with_hidden=False)
    with policy.as_reference():
        reference = completion_statistics(policy, batch).logps
    torch.testing.assert_close(outputs.reference_logps, reference, rtol=1e-5, atol=1e-4)


def test_sequences_are_named_as_they_lie_in_a_batch(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    examples, _ = examples_of(policy, pairs, tmp_path)
    assert len(examples) == 8
    assert examples.names([3, 0]) == [f"answer {pairs[1].id}-rejected", f"answer {pairs[0].id}-chosen"]
    by_pairs = PairExamples(examples.shared, [pair.id for pair in pairs], with_divergence=False)
    assert len(by_pairs) == 4
    assert by_pairs.names([2, 0]) == [
        f"the {kind} answer of pair {pairs[number].id}" for kind in ("chosen", "rejected") for number in (2, 0)
    ]
    assert "reference_hidden" not in by_pairs.batch([2, 0])
    with_states = PairExamples(examples.shared, by_pairs.ids, with_divergence=True)
    assert "reference_hidden" in with_states.batch([2, 0])
