"""Log-probs of completions: those of full logits of each sequence alone, whatever the batch and its order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phasegpt.adapters import PhaseSettings
from phasegpt.answers import answers_of
from phasegpt.divergences import KINDS, divergence
from phasegpt.encoding import EncodedPair, encode_pair
from phasegpt.examples import AnswerExamples
from phasegpt.forward import AnswerModel, PairModel, packed_completions, sum_by_row
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base
from phasegpt.packing import pack
from phasegpt.pairs import read_pairs
from phasegpt.shared_store import Lengths, SharedStore, prepare
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_exact(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.fixture(scope="module")
def policy(toy_model_dir: Path) -> Iterator[Policy]:
    """A trained-looking policy in float64, where nothing but rounding at 1e-15 may differ."""
    base = load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)
    policy = attach_policy(base, LoraSettings(4, 8, 0.0, ("q_proj", "v_proj")), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    yield policy
    policy.detach()


@pytest.fixture(scope="module")
def pairs(policy: Policy, toy_pairs_file: Path) -> list[EncodedPair]:
    return [encode_pair(policy.base.tokenizer, pair, 512, 256) for pair in read_pairs(toy_pairs_file, DOMAINS)[:4]]


def batch_of(policy: Policy, pairs: list[EncodedPair]) -> dict[str, Tensor]:
    batch = pack([pair.group for pair in pairs])
    return {**batch, "reference_logps": torch.zeros(2 * len(pairs), dtype=torch.float64)}


def logps_of(policy: Policy, pairs: list[EncodedPair]) -> Tensor:
    """[B, 2]: chosen and rejected of each pair."""
    with torch.no_grad():
        outputs = PairModel(policy)(batch_of(policy, pairs))
    return torch.stack([outputs.policy_chosen_logps, outputs.policy_rejected_logps], dim=1)


def logits_of(policy: Policy, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """[completion tokens, V]: plain logits of one unpadded sequence."""
    with torch.no_grad():
        logits: Tensor = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits
    return logits[0, len(prompt) - 1 : -1]


def test_the_log_probs_are_the_sums_over_full_logits(policy: Policy, pairs: list[EncodedPair]) -> None:
    for pair, found in zip(pairs, logps_of(policy, pairs), strict=True):
        for completion, logp in zip((pair.chosen, pair.rejected), found, strict=True):
            log_probs = torch.log_softmax(logits_of(policy, pair.prompt, completion), dim=-1)
            expected = log_probs.gather(1, torch.tensor(completion)[:, None]).sum()
            assert_exact(logp, expected)


def test_the_batch_and_its_order_change_no_log_prob(policy: Policy, pairs: list[EncodedPair]) -> None:
    together = logps_of(policy, pairs)
    alone = torch.cat([logps_of(policy, [pair]) for pair in pairs])
    turned = logps_of(policy, pairs[::-1]).flip(0)
    assert_exact(alone, together)
    assert_exact(turned, together)
    assert len({len(pair.prompt) + len(pair.chosen) for pair in pairs}) > 1


def test_without_hidden_states_in_the_batch_the_reference_is_asked_live(
    policy: Policy, pairs: list[EncodedPair]
) -> None:
    batch = batch_of(policy, pairs)
    with policy.as_reference():
        stored = {**batch, "reference_hidden": packed_completions(policy, batch).hidden}
    live, found = (PairModel(policy)(given, with_divergence=True) for given in (batch, stored))
    assert live.divergences is not None
    assert live.divergences.requires_grad
    assert_exact(live.divergences, found.divergences)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequences_divergence_is_the_mean_over_its_completion_tokens(
    policy: Policy, pairs: list[EncodedPair], kind: str
) -> None:
    batch = batch_of(policy, pairs)
    with policy.as_reference():
        batch["reference_hidden"] = packed_completions(policy, batch).hidden
    with torch.no_grad():
        outputs = PairModel(policy, kind, temperature=1.5)(batch, with_divergence=True)
    completions = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    assert outputs.divergences is not None
    assert outputs.completion_tokens.tolist() == [len(completion) for _, completion in completions]
    for found, (prompt, completion) in zip(outputs.divergences, completions, strict=True):
        own = logits_of(policy, prompt, completion)
        with policy.as_reference():
            reference = logits_of(policy, prompt, completion)
        assert_exact(found, divergence(own, reference, kind, 1.5).mean())
        assert found > 1e-4


def test_the_reference_of_the_batch_is_handed_on(policy: Policy, pairs: list[EncodedPair]) -> None:
    batch = batch_of(policy, pairs)
    batch["reference_logps"] = torch.arange(8, dtype=torch.float32)
    outputs = PairModel(policy)(batch)
    assert outputs.reference_chosen_logps.tolist() == [0, 2, 4, 6]
    assert outputs.reference_rejected_logps.tolist() == [1, 3, 5, 7]
    assert outputs.divergences is None


def test_answers_have_a_gradient_on_a_reference_with_a_branch(
    toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path
) -> None:
    base = load_base(str(toy_model_dir), tmp_path)
    lora, phase = LoraSettings(4, 8, 0.0, ("q_proj",), (2, 3)), PhaseSettings((3,), 8, 1.0, 1.0, 0.1, 3)
    reference = attach_policy(base, lora, seed=1, phase=phase)
    for parameter in reference.trainable().values():
        parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    reference.save(tmp_path / "reference")
    reference.detach()
    policy = attach_policy(base, lora, seed=3, reference_adapter=tmp_path / "reference", phase=phase)
    rows = read_pairs(toy_pairs_file, DOMAINS)[:2]
    shared = prepare(SharedStore(tmp_path / "store"), policy, rows, Lengths(256, 64))
    outputs = AnswerModel(policy)(AnswerExamples(shared, answers_of(rows), 256).batch(range(4)))
    outputs.policy_logps.sum().backward()
    gradients = {name: parameter.grad for name, parameter in policy.trainable().items()}
    assert any(found is not None and found.any() for name, found in gradients.items() if ".phase_branch." in name)
    assert len(outputs.mismatched_logratios) > 0
    assert outputs.mismatched_logratios.tolist() == pytest.approx([0.0] * len(outputs.mismatched_logratios), abs=1e-4)


def test_values_are_summed_into_their_rows() -> None:
    assert sum_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 4).tolist() == [2, 0, 5, 0]
