"""Phase-coupled attention: a causal Kuramoto branch whose output is added to the attention output of chosen layers.

Every oscillator of a token follows the Kuramoto model (Kuramoto 1975; Acebrón et al. 2005, Rev. Mod. Phys. 77, eq. 2)
    dθ_i/dt = ω + K · mean_{j ≤ i} sin(θ_j − θ_i),
where j runs over the visible, unpadded tokens up to i. The mean equals S_i cos θ_i − C_i sin θ_i with the running means
S and C of sin θ and cos θ, which makes a step linear in the number of tokens. Their sums are all that is needed of
earlier tokens: `phase_state` keeps them with the key-value cache.

It knows nothing of configs, adapters or training. Decoders of transformers are reached by hooks, none of their code is
copied.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from phasegpt.packed_attention import PACKING
from phasegpt.phase_state import PhaseAttentionError, PhaseState, state_on

SUPPORTED_DECODERS = ("LlamaModel", "Qwen2Model", "Qwen3Model")
DECODER_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "past_key_values")  # their order in all of these
BRANCH = "phase_branch"  # the branch's name as a submodule of the attention module
MASK = "phase_mask"  # the keyword that carries the mask from the decoder down to the attention modules
PHASE_SPREAD = 2.5  # radians; on most of SmolLM2's layers the order parameter then starts between 0.3 and 0.6


class KuramotoBranch(nn.Module):
    """Hidden states [B, T, d] -> phases [B, T, N] -> `n_sync_steps` Euler steps of length `dt` -> [B, T, d].

    Hidden states are scaled to unit RMS, since without it the small norm gains of real decoders synchronise all phases
    (R > 0.97 on SmolLM2). The gate, one number a channel, starts at zero: so does the output. Trainable: projections,
    ω (`natural_freq`, radians per unit of time, one for each oscillator), K (`coupling_strength`), gate. ω turns all
    tokens alike and K sees only differences, so the phase projection needs no bias.
    Computes in float32, or in float64 for float64 input, under autocast too; returns the dtype of its input.
    """

    def __init__(
        self,
        hidden_size: int,
        num_oscillators: int = 32,
        coupling_strength: float = 1.0,
        natural_freq: float = 1.0,
        dt: float = 0.1,
        n_sync_steps: int = 5,
    ) -> None:
        super().__init__()
        self.dt = dt
        self.n_sync_steps = n_sync_steps
        # bare parameters, not nn.Linear: PEFT's "all-linear" would put adapters on those
        self.phase_weight = nn.Parameter(torch.randn(num_oscillators, hidden_size) * (PHASE_SPREAD / hidden_size**0.5))
        self.natural_freq = nn.Parameter(torch.full((num_oscillators,), float(natural_freq)))
        self.coupling = nn.Parameter(torch.full((1,), float(coupling_strength)))  # [1]: FSDP refuses 0-d parameters
        self.output_weight = nn.Parameter(torch.randn(hidden_size, 2 * num_oscillators) / (2 * num_oscillators) ** 0.5)
        self.gate = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, state: PhaseState | None = None) -> Tensor:
        """The branch's output [B, T, d] for `hidden` [B, T, d]; `attention_mask` [B, T] is 0 at padding, or None.

        With a `state` the tokens follow those that it has seen, and it has seen them too afterwards.
        """
        phases = self.phases(hidden, attention_mask, state)
        features = torch.cat([phases.sin(), phases.cos()], dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            output = F.linear(features, self.output_weight.to(features.dtype)) * self.gate.to(features.dtype)
        return output.to(hidden.dtype)

    def phases(self, hidden: Tensor, attention_mask: Tensor | None = None, state: PhaseState | None = None) -> Tensor:
        """Phases [B, T, N] in radians, not wrapped, after the last Euler step; arguments as `forward`."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        visible = visible_tokens(attention_mask, hidden)
        shown = hidden.to(dtype).masked_fill(~visible, 0)  # padding may hold anything, NaN included
        with torch.autocast(hidden.device.type, enabled=False):
            phases = F.linear(F.rms_norm(shown, hidden.shape[-1:]), self.phase_weight.to(dtype))
        omega, coupling = self.natural_freq.to(dtype), self.coupling.to(dtype)
        earlier = self.start(hidden) if state is None else state
        count, ends = earlier.visible[:, None, None] + visible.cumsum(1), []
        for step in range(self.n_sync_steps):
            pull, end = mean_field(phases, visible, count, earlier.sums[:, step])
            phases = phases + self.dt * (omega + coupling * pull)
            ends.append(end)
        if state is not None:
            state.sums, state.visible = torch.stack(ends, 1), count[:, -1, 0]
            state.tokens += hidden.shape[1]
        return phases

    def start(self, hidden: Tensor) -> PhaseState:
        """The state before the first token of `hidden` [B, T, d]."""
        rows, (oscillators, _) = len(hidden), self.phase_weight.shape
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        sums = hidden.new_zeros(rows, self.n_sync_steps, 2, oscillators, dtype=dtype)
        return PhaseState(sums, hidden.new_zeros(rows, dtype=torch.long))


def mean_field(phases: Tensor, visible: Tensor, count: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """mean_{j ≤ i} sin(θ_j − θ_i) [B, T, N] over visible j, 0 where there is none; and the sums after the last token.

    Phases [B, T, N]; bool `visible` [B, T, 1]; `count` [B, T, 1], the visible tokens up to each, earlier ones included;
    `earlier` [B, 2, N], the sums of sin θ and cos θ over those.
    """
    waves = torch.stack([phases.sin(), phases.cos()], dim=2)
    sums = earlier[:, None] + (visible[..., None] * waves).cumsum(1)
    mean_sin, mean_cos = (sums / count.clamp(min=1)[..., None]).unbind(2)
    sin, cos = waves.unbind(2)
    return mean_sin * cos - mean_cos * sin, sums[:, -1]


def visible_tokens(attention_mask: Tensor | None, values: Tensor) -> Tensor:
    """Bool [B, T, 1] for values [B, T, …]; raises PhaseAttentionError for a mask other than [B, T] or None."""
    if attention_mask is None:
        return values.new_ones((*values.shape[:2], 1), dtype=torch.bool)
    shape = getattr(attention_mask, "shape", None)  # generation with a static cache hands a dictionary of 4-D masks
    if shape != values.shape[:2]:
        raise PhaseAttentionError(
            f"the phase branch needs an attention mask of [batch, tokens] = {list(values.shape[:2])}, "
            f"found {shape or type(attention_mask).__name__}; pass the tokenizer's mask, that of the tokens in the "
            "key-value cache included, not a prepared 4-D one"
        )
    return (attention_mask != 0)[..., None]


def layer_indices(spec: Sequence[int | str], num_layers: int) -> tuple[int, ...]:
    """Layer indices, ascending, from integers or fractions of the depth as text: "0.3" of 24 layers is layer 7.

    A fraction f means layer floor(f · num_layers), 0 ≤ f < 1. Raises PhaseAttentionError outside the range or when one
    layer is named twice.
    """
    indices = sorted(_layer_index(item, num_layers) for item in spec)
    if len(set(indices)) != len(indices):
        raise PhaseAttentionError(f"phase_layer_idx {list(spec)} names a layer of {num_layers} twice: {indices}")
    return tuple(indices)


def _layer_index(item: int | str, num_layers: int) -> int:
    expected = f"expected 0 to {num_layers - 1}, or a fraction of the depth as text from 0 to below 1 such as '0.3'"
    try:  # Fraction, since 0.29 * 100 is 28.999… in floats
        index = item if isinstance(item, int) else math.floor(Fraction(item) * num_layers)
    except (ValueError, ZeroDivisionError) as error:
        raise PhaseAttentionError(f"phase_layer_idx {item!r}: {expected}") from error
    if not 0 <= index < num_layers:
        raise PhaseAttentionError(f"phase_layer_idx {item!r}: {expected}")
    return index


class PhaseHandles:
    """The branches attached to one decoder, by layer index, and the way to switch them off or take them away."""

    def __init__(self, decoder: nn.Module, branches: Mapping[int, KuramotoBranch]) -> None:
        self.branches = branches
        self._attentions = {index: _attention(decoder, index) for index in branches}
        self._enabled = True
        self._hooks = [decoder.register_forward_pre_hook(self._hand_mask_down, with_kwargs=True)]
        for index, attention in self._attentions.items():
            attention.add_module(BRANCH, branches[index])
            self._hooks.append(attention.register_forward_hook(self._add_branch, with_kwargs=True))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model computes exactly what it does without the branches."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def remove(self) -> None:
        """Take the branches off for good; the model is then what it was before. A second call does nothing."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._attentions:
            delattr(self._attentions.popitem()[1], BRANCH)

    def _hand_mask_down(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add the mask to the keywords that a decoder hands to its layers; gradient checkpointing replays them."""
        if not self._enabled or PACKING in kwargs:
            return None
        call = {**dict(zip(DECODER_ARGUMENTS, args, strict=False)), **kwargs}
        return args, {**kwargs, MASK: _of_new_tokens(call.get("attention_mask"), call.get("past_key_values"))}

    def _add_branch(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Add the branch to the first element of the attention module's output."""
        if not self._enabled:
            return None
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        attended, *rest = output
        added = _added(attention, hidden, kwargs)
        return (attended + added.to(attended.dtype), *rest)


def _added(attention: Any, hidden: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
    """What the branch of an attention module makes of its input [B, T, d]; of a packed row, of each sequence alone."""
    branch, cache = getattr(attention, BRANCH), kwargs.get("past_key_values")
    if (packing := kwargs.get(PACKING)) is not None:
        row: Tensor = packing.repack(branch(packing.unpack(hidden[0]), packing.mask))
        return row[None]
    if MASK not in kwargs:
        raise PhaseAttentionError(f"a layer with a phase branch was called without its decoder: pass {MASK}=[B, T]")
    state = None
    if cache is not None:
        state = state_on(cache.layers[attention.layer_idx], hidden.shape[1], lambda: branch.start(hidden))
    added: Tensor = branch(hidden, kwargs[MASK], state)
    return added


def _of_new_tokens(attention_mask: Any, cache: Any) -> Any:
    """The part [B, T] of a mask [B, earlier + T] that speaks of the tokens which a cache does not hold yet."""
    if cache is None or getattr(attention_mask, "ndim", 0) != 2:
        return attention_mask
    return attention_mask[:, cache.get_seq_length() :]


def attach_phase_branch(model: nn.Module, layers: Sequence[int | str], **branch: Any) -> PhaseHandles:
    """Add a KuramotoBranch(**branch), drawn from torch's global generator, to the attention output of `layers`.

    `model` is or contains a Llama, Qwen2 or Qwen3 decoder of transformers and may be wrapped by PEFT. Attach after
    `get_peft_model`, since PEFT freezes what it finds. PEFT's switches and files leave the branch alone: use
    `disabled()` and `phase_state_dict`. Rows must not pack several sequences.
    Raises PhaseAttentionError for another architecture, a layer out of range, or a layer that has a branch.
    """
    decoder = _decoder(model)
    indices = layer_indices(layers, len(decoder.layers))
    if taken := [index for index in indices if hasattr(_attention(decoder, index), BRANCH)]:
        raise PhaseAttentionError(f"layers {taken} have a phase branch already; remove() it first")
    branches = {index: _new_branch(_attention(decoder, index), decoder.config.hidden_size, branch) for index in indices}
    return PhaseHandles(decoder, branches)


def phase_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The branches' parameters as `layers.<index>.<name>`, copied to the CPU: the same names with PEFT and without."""
    return {name: parameter.detach().cpu().clone() for name, parameter in _phase_parameters(model).items()}


def load_phase_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved parameters into the attached branches; raises PhaseAttentionError where names or shapes differ."""
    own = _phase_parameters(model)
    if odd := sorted(own.keys() ^ tensors.keys()):
        raise PhaseAttentionError(f"saved phase branch and model differ in {odd}; use the saved run's phase_layer_idx")
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise PhaseAttentionError(
                f"{name}: the model has shape {list(parameter.shape)}, the file {list(tensors[name].shape)}; "
                "use the saved run's num_oscillators and base model"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _phase_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for index, layer in enumerate(_decoder(model).layers):
        if (branch := getattr(layer.self_attn, BRANCH, None)) is not None:
            found |= {f"layers.{index}.{name}": parameter for name, parameter in branch.named_parameters()}
    return found


def _decoder(model: nn.Module) -> Any:
    """The stack of decoder layers inside `model`, whatever wraps it."""
    for module in model.modules():
        if type(module).__name__ in SUPPORTED_DECODERS:
            return module
    raise PhaseAttentionError(
        f"{type(model).__name__} has no decoder that takes a phase branch; supported: {', '.join(SUPPORTED_DECODERS)}"
    )


def _attention(decoder: Any, index: int) -> nn.Module:
    return decoder.layers[index].self_attn  # type: ignore[no-any-return]


def _new_branch(attention: nn.Module, hidden_size: int, settings: Mapping[str, Any]) -> KuramotoBranch:
    """A branch on the device of `attention`, in its dtype but never below float32."""
    like = next(attention.parameters())
    dtype = torch.promote_types(like.dtype, torch.float32)
    return KuramotoBranch(hidden_size, **settings).to(device=like.device, dtype=dtype)
