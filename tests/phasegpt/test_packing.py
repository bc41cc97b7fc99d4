"""Packed batches: each token's output and gradient are those of its own sequence alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from phasegpt.adapters import PhaseSettings
from phasegpt.base_model import ModelError
from phasegpt.encoding import Group
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base
from phasegpt.packed_attention import (
    attend_at_once,
    attend_in_turn,
    check_packable,
    packed_arguments,
    packed_attention,
)
from phasegpt.packing import Packing, pack
from tests.phasegpt.decoders import FAMILIES, SIZES, tiny

pytestmark = pytest.mark.usefixtures("one_thread", "exact_norms")

GROUPS: list[Group] = [
    ((1, 2, 3), (4, 5), (6, 7, 8, 9)),
    ((10,), (11, 12, 13)),
    ((14, 15), (16,), (17, 18, 19), (20, 21)),
]


def sequences() -> list[list[int]]:
    return [[*prompt, *completion] for prompt, *completions in GROUPS for completion in completions]


def packed_states(decoder: Any, groups: list[Group] = GROUPS) -> tuple[Tensor, Packing]:
    batch = pack(groups)
    packing = Packing(batch["lengths"])
    like = next(decoder.parameters())
    return decoder(input_ids=batch["input_ids"][None], **packed_arguments(packing, like)).last_hidden_state[0], packing


def test_a_row_holds_group_after_group_and_says_where_everything_is() -> None:
    batch = pack(GROUPS)
    packing = Packing(batch["lengths"])
    assert batch["input_ids"].tolist() == list(range(1, 22))
    assert batch["lengths"].tolist() == [[3, 2, 4, 0], [1, 3, 0, 0], [2, 1, 3, 2]]
    assert packing.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2, 3, 0, 1, 2, 2, 3, 4, 2, 3]]
    assert packing.sequences == 6
    assert packing.completion_tokens.tolist() == [2, 4, 3, 1, 3, 2]
    ids = batch["input_ids"]
    assert ids[packing.targets].tolist() == [t for _, *completions in GROUPS for c in completions for t in c]
    assert ids[packing.predictors].tolist() == [3, 4, 3, 6, 7, 8, 10, 11, 12, 15, 15, 17, 18, 15, 20]
    assert packing.rows.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 4, 4, 5, 5]


def test_unpacked_rows_are_the_sequences_and_packing_again_gives_the_row() -> None:
    batch = pack(GROUPS)
    packing = Packing(batch["lengths"])
    rows = packing.unpack(batch["input_ids"])
    assert [row[mask.bool()].tolist() for row, mask in zip(rows, packing.mask, strict=True)] == sequences()
    assert torch.equal(packing.repack(rows), batch["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_states_and_gradients_are_those_of_each_sequence_alone(family: str, checkpointing: bool) -> None:
    torch.manual_seed(0)
    model: Any = tiny(family).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    packed, packing = packed_states(model.model)
    found = packed[packing.predictors]
    expected = torch.cat([predicting(model.model, prompt, c) for prompt, *completions in GROUPS for c in completions])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = list(model.model.parameters())
    gradients = [torch.autograd.grad((weights * states).sum(), parameters) for states in (found, expected)]
    for own, plain in zip(*gradients, strict=True):
        assert (own - plain).norm() <= 1e-11 * plain.norm()
        assert plain.norm() > 0


def predicting(decoder: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """The states that predict a completion, from its sequence alone."""
    states: Tensor = decoder(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).last_hidden_state
    return states[0, len(prompt) - 1 : -1]


def test_no_token_sees_another_sequence() -> None:
    torch.manual_seed(0)
    model: Any = tiny("llama")
    with torch.no_grad():
        before, packing = packed_states(model.model)
        changed = [(GROUPS[0][0], (31, 30), GROUPS[0][2]), *GROUPS[1:]]
        after, _ = packed_states(model.model, changed)
    moved = (before - after).abs().amax(1) > 0
    assert moved.nonzero()[:, 0].tolist() == list(packing.spans[0].completion)


def policy_with(base: Base, layers: tuple[int, ...] | None, phase: PhaseSettings | None) -> Policy:
    policy = attach_policy(base, LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"), layers), seed=0, phase=phase)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data.normal_(0, 0.1, generator=generator)
    return policy


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_a_phase_branch_reads_each_sequence_of_a_packed_row_alone(toy_model_dir: Path, checkpointing: bool) -> None:
    base = load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)
    policy = policy_with(base, None, PhaseSettings((1, 2), 8, 1.0, 1.0, 0.1, 3))
    if checkpointing:
        policy.model.train()
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    batch = pack(GROUPS)
    packing = Packing(batch["lengths"])
    found = policy.states(batch["input_ids"], packing)[packing.predictors]
    expected = torch.cat([predicting(policy.decoder, prompt, c) for prompt, *others in GROUPS for c in others])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = list(policy.trainable().values())
    gradients = [torch.autograd.grad((weights * states).sum(), parameters) for states in (found, expected)]
    for own, plain in zip(*gradients, strict=True):
        assert (own - plain).norm() <= 1e-11 * plain.norm()
    policy.detach()


def test_attention_of_all_sequences_at_once_is_that_of_each_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    packing = Packing(pack(GROUPS)["lengths"])
    states = [torch.randn(1, heads, 21, 8, dtype=torch.float64, generator=generator) for heads in (4, 2, 2)]
    weights = torch.randn(1, 21, 4, 8, dtype=torch.float64, generator=generator)
    found: list[list[Tensor]] = []
    for attend in (attend_at_once, attend_in_turn):
        own = [each.clone().requires_grad_() for each in states]
        attended = attend(*own, packing, 0.0, None)
        found.append([attended, *torch.autograd.grad((weights * attended).sum(), own)])
    for at_once, in_turn in zip(*found, strict=True):
        torch.testing.assert_close(at_once, in_turn, rtol=1e-12, atol=1e-12)
        assert in_turn.norm() > 0


def test_attention_dropout_and_scaling_reach_every_sequence() -> None:
    generator = torch.Generator().manual_seed(0)
    packing = Packing(pack(GROUPS)["lengths"])
    query, key, value = (torch.randn(1, heads, 21, 8, generator=generator) for heads in (4, 2, 2))
    plain = packed_attention(query, key, value, packing)
    assert torch.equal(packed_attention(query, key, value, packing, scaling=8**-0.5), plain)
    assert not torch.allclose(packed_attention(query, key, value, packing, scaling=1.0), plain)
    assert not torch.allclose(packed_attention(query, key, value, packing, dropout=0.5), plain)


def test_a_sliding_window_shorter_than_a_sequence_is_refused_and_a_longer_one_changes_nothing() -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=0)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).double()
    states, packing = packed_states(model.model)
    alone = torch.cat([predicting(model.model, prompt, c) for prompt, *others in GROUPS for c in others])
    torch.testing.assert_close(states[packing.predictors], alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ModelError, match=r"sliding window of 7 tokens.*sequences of 8; set training.max_length"):
        packed_states(model.model, [((1, 2, 3), (4, 5, 6, 7, 8))])


def test_layers_through_which_sequences_would_mix_are_refused() -> None:
    config = Qwen2Config(**SIZES)
    check_packable(config)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="has layers of the kind linear_attention"):
        check_packable(config)


def test_a_model_called_without_a_packing_attends_as_ever(toy_model_dir: Path) -> None:
    ids, mask = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    sdpa, eager = (
        AutoModelForCausalLM.from_pretrained(toy_model_dir, attn_implementation=name, dtype=torch.float64)
        for name in ("sdpa", "eager")
    )
    with torch.no_grad():
        found, expected = (model(input_ids=ids, attention_mask=mask).logits for model in (sdpa, eager))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
