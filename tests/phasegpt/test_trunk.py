"""The frozen trunk: starting above the layers that nothing trains changes no number."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phasegpt.adapters import PhaseSettings
from phasegpt.forward import PairModel
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base, load_policy
from phasegpt.objectives import PairOutputs
from phasegpt.packing import Packing
from phasegpt.pairs import read_pairs
from phasegpt.shared_store import Lengths, SharedStore, prepare
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"), layers=(2, 3))
PHASE = PhaseSettings((3,), 8, 1.0, 1.0, 0.1, 3)


def moved(policy: Policy) -> Policy:
    """The policy away from the reference, by a seeded draw."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data.normal_(0, 0.1, generator=generator)
    return policy


def losses_and_gradients(policy: Policy, batch: dict[str, Tensor]) -> tuple[PairOutputs, dict[str, Tensor]]:
    policy.model.zero_grad()
    outputs = PairModel(policy)(batch, with_divergence=True)
    assert outputs.divergences is not None
    (outputs.policy_chosen_logps.sum() / 100 + outputs.divergences.sum()).backward()
    return outputs, {name: p.grad.clone() for name, p in policy.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_losses_and_gradients_are_those_of_the_whole_forward_pass(
    phase: PhaseSettings | None, toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path
) -> None:
    pairs = read_pairs(toy_pairs_file, DOMAINS)
    base = load_base(str(toy_model_dir), tmp_path)
    policy = moved(attach_policy(base, LORA, seed=0, phase=phase))
    shared = prepare(SharedStore(tmp_path), policy, pairs, Lengths(256, 64))
    batch = shared.batch([pair.id for pair in pairs[:6]], with_hidden=True)
    fast, fast_gradients = losses_and_gradients(policy, batch)
    plain, gradients = losses_and_gradients(policy, {name: value for name, value in batch.items() if name != "trunk"})
    assert "trunk" in batch
    torch.testing.assert_close(fast.policy_chosen_logps, plain.policy_chosen_logps, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(fast.policy_rejected_logps, plain.policy_rejected_logps, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(fast.divergences, plain.divergences, rtol=1e-4, atol=1e-7)
    assert gradients.keys() == fast_gradients.keys() != set()
    for name, gradient in gradients.items():
        assert (fast_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_goes_on_from_its_stored_trunk(
    dtype: torch.dtype, toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path
) -> None:
    """What is stored in float32 came out of half precision, and goes back into it without a change."""
    pairs = read_pairs(toy_pairs_file, DOMAINS)[:4]
    policy = moved(attach_policy(load_base(str(toy_model_dir), tmp_path, dtype), LORA, seed=0))
    shared = prepare(SharedStore(tmp_path), policy, pairs, Lengths(256, 64))
    batch = shared.batch([pair.id for pair in pairs], with_hidden=False)
    packing = Packing(batch["lengths"])
    with torch.no_grad():
        found, whole = policy.above_trunk(batch["trunk"], packing), policy.states(batch["input_ids"], packing)
    assert batch["trunk"].dtype == torch.float32
    assert found.dtype == dtype
    assert torch.equal(found, whole)


def test_a_policy_that_trains_in_the_lowest_layer_has_no_trunk(
    toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path
) -> None:
    base = load_base(str(toy_model_dir), tmp_path)
    policy = attach_policy(base, LoraSettings(4, 8, 0.0, ("q_proj",), None), seed=0)
    pairs = read_pairs(toy_pairs_file, DOMAINS)[:3]
    shared = prepare(SharedStore(tmp_path), policy, pairs, Lengths(256, 64))
    assert policy.trunk_depth == 0
    assert "trunk" not in shared.batch([pairs[0].id], with_hidden=False)


def test_a_saved_policy_with_a_branch_above_its_adapters_is_judged_as_it_was_trained(
    toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path
) -> None:
    """Adapters on all four layers, the branch on the last: starting above the third would leave three adapters out."""
    pairs = read_pairs(toy_pairs_file, DOMAINS)[:3]
    base = load_base(str(toy_model_dir), tmp_path)

    def judged(policy: Policy) -> PairOutputs:
        shared = prepare(SharedStore(tmp_path), policy, pairs, Lengths(256, 64))
        with torch.no_grad():
            return PairModel(policy)(shared.batch([p.id for p in pairs], with_hidden=True), with_divergence=True)

    policy = moved(attach_policy(base, replace(LORA, layers=None), seed=0, phase=PHASE))
    expected = judged(policy)
    policy.save(tmp_path / "adapter")
    policy.detach()
    loaded = load_policy(base, tmp_path / "adapter")
    found = judged(loaded)
    assert loaded.trunk_depth == 0
    assert not loaded.trainable()
    torch.testing.assert_close(found.policy_chosen_logps, expected.policy_chosen_logps)
    torch.testing.assert_close(found.policy_rejected_logps, expected.policy_rejected_logps)
    torch.testing.assert_close(found.divergences, expected.divergences)


def test_a_branch_below_the_adapters_lowers_the_trunk(toy_model_dir: Path, tmp_path: Path) -> None:
    base = load_base(str(toy_model_dir), tmp_path)
    policy = attach_policy(base, LORA, seed=0, phase=PhaseSettings((1,), 8, 1.0, 1.0, 0.1, 3))
    assert policy.trunk_depth == 1


def test_the_decoder_has_all_its_layers_again_after_an_error(toy_model_dir: Path, tmp_path: Path) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), tmp_path), LORA, seed=0)
    with pytest.raises(RuntimeError):
        policy.above_trunk(torch.zeros(3, 63), Packing(torch.tensor([[1, 2]])))
    assert len(policy.decoder.layers) == 4  # type: ignore[arg-type]
