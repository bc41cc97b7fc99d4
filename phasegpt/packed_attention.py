"""The attention of packed rows: each token sees its own sequence alone, and the output is that of the sequence alone.

transformers looks an attention up by name; the ones named in ATTENTIONS learn here to read a packed row when the
decoder is called with `packing=`, and do what they always did when it is not. Knows nothing of adapters or losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phasegpt.base_model import ModelError
from phasegpt.packing import Packing

PACKING = "packing"  # the keyword that carries the packing from the decoder down to the attention modules
ATTENTIONS = ("sdpa", "flash_attention_2")
LAYER_TYPES = {"full_attention", "sliding_attention"}
LOGIT_CHANGES = ("softcap", "s_aux", "position_bias")  # what a packed row's attention does not do to its logits


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float = 0.0, scaling: float | None = None
) -> Tensor:
    """Causal attention within each sequence: query [1, H, N, h], key and value [1, K, N, h] -> [1, N, H, h].

    A prompt's queries run again with every further completion and are dropped there: dearer by few products than a
    mask, which would keep torch from its fastest kernels. On a GPU what costs is the number of calls: there all
    sequences go at once, in padded rows.
    """
    attend = attend_at_once if query.is_cuda else attend_in_turn
    return attend(query, key, value, packing, dropout, scaling)


def attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float, scaling: float | None
) -> Tensor:
    """`packed_attention` in one call: a row for each sequence, padded behind its end, where no query looks."""
    heads = [query.shape[1], key.shape[1], value.shape[1]]
    rows = packing.unpack(torch.cat([query, key, value], dim=1)[0].transpose(0, 1)).transpose(1, 2)
    attended = _causal(torch.split(rows, heads, dim=1), dropout, scaling)
    return packing.repack(attended.transpose(1, 2))[None]


def attend_in_turn(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float, scaling: float | None
) -> Tensor:
    """`packed_attention` in a call for each sequence, without padding."""
    sizes = [size for prompt, first, *others in packing.groups for size in (prompt + first, *others)]
    parts = zip(*(torch.split(states, sizes, dim=2) for states in (query, key, value)), strict=True)
    attended: list[Tensor] = []
    for prompt, _, *others in packing.groups:
        first = next(parts)
        attended.append(_causal(first, dropout, scaling))
        for _ in others:
            rest = next(parts)
            whole = [torch.cat([head[:, :, :prompt], tail], 2) for head, tail in zip(first, rest, strict=True)]
            attended.append(_causal(whole, dropout, scaling)[:, :, prompt:])
    return torch.cat([part.transpose(1, 2) for part in attended], dim=1)


def _causal(states: Sequence[Tensor], dropout: float, scaling: float | None) -> Tensor:
    query, key, value = states
    if query.is_cuda and query.dtype == torch.float32:  # torch's one fast kernel for it wants as many keys as queries
        key, value = (heads.repeat_interleave(query.shape[1] // heads.shape[1], dim=1) for heads in (key, value))
    return scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _packed_or(plain: Callable[..., Any]) -> Callable[..., Any]:
    """An attention as transformers calls it, which reads a packed row where there is one."""

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> Any:
        packing = options.pop(PACKING, None)
        if packing is None:
            return plain(module, query, key, value, attention_mask, **options)
        _check_options(packing, options)
        dropout, scaling = options.get("dropout", 0.0), options.get("scaling")
        return packed_attention(query, key, value, packing, dropout, scaling), None

    return attention


def _check_options(packing: Packing, options: dict[str, Any]) -> None:
    """Raises ModelError where a layer wants what a packed row's attention does not do."""
    if odd := [name for name in LOGIT_CHANGES if options.get(name) is not None]:
        raise ModelError(f"the attention of this model uses {', '.join(odd)}, which packed batches cannot do")
    window, longest = options.get("sliding_window"), max(len(span.places) for span in packing.spans)
    if window is not None and longest > window:
        raise ModelError(
            f"this model attends within a sliding window of {window} tokens, which packed batches cannot do for "
            f"sequences of {longest}; set training.max_length to at most {window}"
        )


for _name in ATTENTIONS:
    ALL_ATTENTION_FUNCTIONS.register(_name, _packed_or(ALL_ATTENTION_FUNCTIONS[_name]))


def check_packable(config: PreTrainedConfig) -> None:
    """Raises ModelError for a model in which tokens reach each other by other ways than attention."""
    kinds = set(getattr(config, "layer_types", None) or LAYER_TYPES)
    if odd := sorted(kinds - LAYER_TYPES):
        raise ModelError(
            f"model.base_model: {config.model_type} has layers of the kind {', '.join(odd)}, through which the "
            f"sequences of a packed batch would mix; take a model whose layers are all attention, such as Llama"
        )


def packed_arguments(packing: Packing, like: Tensor) -> dict[str, Any]:
    """What a decoder is called with beside the tokens of a packed row; `like` is any tensor on its device.

    A mask of four dimensions is handed through by transformers as it is; this one says nothing and is read by no one.
    """
    return {
        "position_ids": packing.position_ids,
        "attention_mask": like.new_empty(1, 1, 0, 0),
        "use_cache": False,
        PACKING: packing,
    }
