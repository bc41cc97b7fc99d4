"""The branch under a key-value cache: in pieces as in one pass, whatever the cache goes through on the way."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, Qwen2Config, Qwen2ForCausalLM

from phasegpt.phase_attention import KuramotoBranch, attach_phase_branch
from phasegpt.phase_state import PhaseAttentionError, PhaseCacheLayer
from tests.phasegpt.decoders import FAMILIES, IDS, SIZES, logits, open_gates, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
LEFT = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
RIGHT = torch.tensor([[1] * 5 + [0] * 2, [1] * 7])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.fixture(params=FAMILIES)
def decoder_model(request: pytest.FixtureRequest) -> nn.Module:
    """A tiny float64 model of each supported family with open branches at layers 0 and 2."""
    model = tiny(request.param)
    open_gates(attach_phase_branch(model, [0, 2], num_oscillators=4))
    return model


@pytest.fixture
def toy(toy_model_dir: Path) -> Any:
    """The toy model in float64 with open branches at layers 1 and 3."""
    model = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float64).eval()
    open_gates(attach_phase_branch(model, [1, 3], num_oscillators=4))
    return model


@torch.no_grad()
def in_pieces(model: nn.Module, ids: Tensor, mask: Tensor, sizes: list[int], cache: DynamicCache) -> Tensor:
    """Logits of pieces of these sizes, one after another."""
    found, begin = [], int(cache.get_seq_length())
    for size in sizes:
        piece = ids[:, begin : begin + size]
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, begin : begin + size]
        begin += size
        out = model(input_ids=piece, attention_mask=mask[:, :begin], position_ids=position, past_key_values=cache)
        found.append(out.logits)
    return torch.cat(found, 1)


def whole(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    position = (mask.cumsum(1) - 1).clamp(min=0)
    output: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False).logits
    return output


def layers_of(cache: DynamicCache) -> dict[int, PhaseCacheLayer]:
    return {index: layer for index, layer in enumerate(cache.layers) if isinstance(layer, PhaseCacheLayer)}


# --- the branch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [[1] * 40, [17, 1, 1, 20, 1], [40]], ids=["one by one", "pieces", "one piece"])
def test_tokens_in_pieces_give_what_they_give_in_one_pass(dtype: torch.dtype, bound: float, sizes: list[int]) -> None:
    branch, hidden = KuramotoBranch(6, 4, coupling_strength=3.0).to(dtype), torch.randn(3, 40, 6, dtype=dtype)
    nn.init.normal_(branch.gate)
    mask = torch.ones(3, 40)
    mask[1, :19], mask[2, 30:] = 0, 0
    state, pieces = branch.start(hidden), []
    for piece, visible in zip(hidden.split(sizes, 1), mask.split(sizes, 1), strict=True):
        pieces.append(branch(piece, visible, state))
    expected = branch(hidden, mask)
    assert (torch.cat(pieces, 1) - expected)[mask.bool()].abs().max() < bound
    assert state.visible.tolist() == [40, 21, 30]
    assert state.tokens == 40
    assert expected.dtype == state.sums.dtype == dtype


def test_the_state_has_one_size_however_many_tokens_it_has_seen() -> None:
    branch = KuramotoBranch(6, 4, n_sync_steps=3)
    state = branch.start(torch.zeros(2, 1, 6))
    shapes = set()
    for length in (1, 5, 200):
        branch(torch.randn(2, length, 6), None, state)
        shapes.add((tuple(state.sums.shape), tuple(state.visible.shape), state.sums.untyped_storage().nbytes()))
    assert shapes == {((2, 3, 2, 4), (2,), 2 * 3 * 2 * 4 * 4)}


def test_half_precision_keeps_its_state_in_float32() -> None:
    branch, hidden = KuramotoBranch(6, 4), torch.randn(1, 3, 6, dtype=torch.bfloat16)
    state = branch.start(hidden)
    branch(hidden, None, state)
    assert state.sums.dtype == torch.float32


# --- inside real decoders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [[1] * 7, [4, 1, 2]], ids=["one by one", "pieces"])
@pytest.mark.parametrize("mask", [torch.ones(2, 7, dtype=torch.long), LEFT, RIGHT], ids=["plain", "left", "right"])
def test_cached_decoding_equals_the_full_forward(
    decoder_model: nn.Module, dtype: torch.dtype, bound: float, sizes: list[int], mask: Tensor
) -> None:
    decoder_model.to(dtype)
    cache = DynamicCache(config=decoder_model.config)
    cached, full = in_pieces(decoder_model, IDS, mask, sizes, cache), whole(decoder_model, IDS, mask)
    assert (cached - full)[mask.bool()].abs().max() < bound
    assert list(layers_of(cache)) == [0, 2]


def test_a_cache_that_makes_its_layers_on_the_way_carries_the_state_too(decoder_model: nn.Module) -> None:
    mask = torch.ones_like(IDS)
    cached = in_pieces(decoder_model, IDS, mask, [3, 1, 3], DynamicCache())
    assert torch.allclose(cached, whole(decoder_model, IDS, mask), atol=1e-12, rtol=0)


def test_a_layer_with_a_sliding_window_is_followed_beyond_its_window() -> None:
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1))
    open_gates(attach_phase_branch(model.double().eval(), [2], num_oscillators=4))
    cache = DynamicCache(config=model.config)
    assert cache.is_sliding == [False, True, True]
    mask = torch.ones_like(IDS)
    cached = in_pieces(model, IDS, mask, [2, 1, 1, 1, 1, 1], cache)
    assert torch.allclose(cached, whole(model, IDS, mask), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 4}, {"prefill_chunk_size": 2}], ids=["greedy", "beams", "chunks"]
)
def test_generation_with_a_cache_writes_what_it_writes_without(decoder_model: Any, options: dict[str, int]) -> None:
    ask = {"input_ids": IDS, "attention_mask": LEFT, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    without = {name: value for name, value in options.items() if name != "prefill_chunk_size"}
    expected = decoder_model.generate(**ask, **without, use_cache=False)
    assert torch.equal(decoder_model.generate(**ask, **options, use_cache=True), expected)
    assert len(set(expected[:, 7:].flatten().tolist())) > 4


def test_generation_with_a_cache_equals_a_greedy_loop(toy: Any) -> None:
    expected = IDS
    for _ in range(6):
        expected = torch.cat([expected, logits(toy, expected)[:, -1:].argmax(-1)], 1)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": True}
    assert torch.equal(toy.generate(IDS, attention_mask=torch.ones_like(IDS), **options), expected)


@pytest.mark.parametrize("how", ["reorder", "select", "repeat"])
def test_the_state_goes_with_the_rows_of_its_cache(toy: Any, how: str) -> None:
    cache = DynamicCache(config=toy.config)
    in_pieces(toy, IDS, LEFT, [4], cache)
    if how == "reorder":
        rows = torch.tensor([1, 1])
        cache.reorder_cache(rows)
    elif how == "select":
        rows = torch.tensor([1])
        cache.batch_select_indices(rows)
    else:
        rows = torch.tensor([0, 0, 0, 1, 1, 1])
        cache.batch_repeat_interleave(3)
    cached = in_pieces(toy, IDS[rows], LEFT[rows], [1, 2], cache)
    assert torch.allclose(cached, whole(toy, IDS, LEFT)[rows, 4:], atol=1e-12, rtol=0)


def test_two_caches_side_by_side_do_not_mix_and_a_copy_goes_on_by_itself(toy: Any) -> None:
    ones, other = torch.ones_like(IDS), IDS.flip(1)
    first, second = DynamicCache(config=toy.config), DynamicCache(config=toy.config)
    in_pieces(toy, IDS, ones, [3], first)
    in_pieces(toy, other, ones, [5], second)
    kept = copy.deepcopy(first)
    expected = whole(toy, IDS, ones)[:, 3:]
    assert torch.allclose(in_pieces(toy, IDS, ones, [4], first), expected, atol=1e-12, rtol=0)
    assert torch.allclose(in_pieces(toy, IDS, ones, [1] * 4, kept), expected, atol=1e-12, rtol=0)
    rest = in_pieces(toy, other, ones, [2], second)
    assert torch.allclose(rest, whole(toy, other, ones)[:, 5:], atol=1e-12, rtol=0)


def test_a_reset_cache_begins_anew(toy: Any) -> None:
    ones, cache = torch.ones_like(IDS), DynamicCache(config=toy.config)
    in_pieces(toy, IDS.flip(1), ones, [6], cache)
    cache.reset()
    assert torch.allclose(in_pieces(toy, IDS, ones, [7], cache), whole(toy, IDS, ones), atol=1e-12, rtol=0)


# --- what cannot be followed -----------------------------------------------------------------------------------------


def test_a_cache_cannot_be_cropped_with_the_cure(toy: Any) -> None:
    cache = DynamicCache(config=toy.config)
    in_pieces(toy, IDS, LEFT, [5], cache)
    assert not cache.is_croppable
    cache.crop(0)
    with pytest.raises(PhaseAttentionError, match=r"last 2 tokens .* without an assistant or prompt lookup"):
        cache.crop(-2)


def test_generation_by_prompt_lookup_is_refused(toy: Any) -> None:
    ids = torch.tensor([[5, 9, 5, 9, 5, 9, 5]])
    with pytest.raises(PhaseAttentionError, match="prompt lookup"):
        toy.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, prompt_lookup_num_tokens=3)


def test_a_cache_that_was_filled_without_the_branch_is_refused(toy_model_dir: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float64).eval()
    handles, cache = attach_phase_branch(model, [1], num_oscillators=4), DynamicCache(config=model.config)
    with handles.disabled():
        in_pieces(model, IDS, LEFT, [3, 1], cache)
    with pytest.raises(PhaseAttentionError, match="holds 4 earlier tokens, of which the phase branch has seen 0"):
        in_pieces(model, IDS, LEFT, [2], cache)


def test_a_cache_of_fixed_size_is_refused_with_the_cure(toy: Any) -> None:
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 3, "do_sample": False}
    with pytest.raises(PhaseAttentionError, match="leave out cache_implementation"):
        toy.generate(IDS, **options, cache_implementation="static")


def test_a_mask_of_the_new_tokens_alone_is_refused(toy: Any) -> None:
    cache = DynamicCache(config=toy.config)
    in_pieces(toy, IDS, LEFT, [4], cache)
    with pytest.raises(PhaseAttentionError, match="that of the tokens in the key-value cache included"):
        toy(input_ids=IDS[:, 4:], attention_mask=LEFT[:, 4:], past_key_values=cache)
