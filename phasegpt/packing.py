"""Packed batches: one row of tokens without padding, in which the answers to a prompt share it; and their attention.

A group is a prompt and its completions. The row holds group after group, each as prompt, first completion, second
completion and so on; every completion sees its own prompt and itself, at the positions that it has behind the prompt
alone. So a prompt is computed once for all its answers (prefix sharing, arXiv 2410.20305), nothing is spent on padding,
and each token's output is what the sequence of its own would give.

transformers looks an attention up by name; the ones named in ATTENTIONS learn here to read a packed row when the
decoder is called with `packing=`, and do what they always did when it is not. Knows nothing of adapters or losses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phasegpt.base_model import ModelError
from phasegpt.encoding import Group

PACKING = "packing"  # the keyword that carries the packing from the decoder down to the attention modules
ATTENTIONS = ("sdpa", "flash_attention_2")
LAYER_TYPES = {"full_attention", "sliding_attention"}
LOGIT_CHANGES = ("softcap", "s_aux", "position_bias")  # what a packed row's attention does not do to its logits


def pack(groups: Sequence[Group]) -> dict[str, Tensor]:
    """A packed batch: `input_ids` [N] and `lengths` [G, 1 + k], of each prompt and its completions, 0 for none."""
    width = max(len(group) for group in groups)
    lengths = [[*map(len, group), *[0] * (width - len(group))] for group in groups]
    tokens = [token for group in groups for part in group for token in part]
    return {"input_ids": torch.tensor(tokens), "lengths": torch.tensor(lengths)}


@dataclass(frozen=True)
class Span:
    """One sequence of a packed row: `prompt` and `completion` tokens at these places, behind each other or apart."""

    prompt: range
    completion: range

    @property
    def places(self) -> list[int]:
        """Where its tokens lie."""
        return [*self.prompt, *self.completion]


class Packing:
    """How a packed row is made up, from `lengths` as `pack` gives them; index tensors are made where those lie.

    S sequences, one a completion, in the order of the row; N tokens, C of them in completions.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.device = lengths.device
        self.groups = [tuple(length for length in row if length) for row in lengths.tolist()]
        self.spans = list(_spans(self.groups))

    @property
    def sequences(self) -> int:
        """S."""
        return len(self.spans)

    @cached_property
    def position_ids(self) -> Tensor:
        """[1, N]: each token's place in its own sequence."""
        return self._index([place for group in self.groups for place in _positions(group)])[None]

    @cached_property
    def completion_tokens(self) -> Tensor:
        """[S]: the lengths of the completions."""
        return self._index([len(span.completion) for span in self.spans])

    @cached_property
    def targets(self) -> Tensor:
        """[C]: where the tokens of the completions lie, sequence after sequence."""
        return self._index([place for span in self.spans for place in span.completion])

    @cached_property
    def predictors(self) -> Tensor:
        """[C]: where the states lie that predict them; all first ones of a group are predicted by its prompt's last."""
        return self._index([place for span in self.spans for place in (span.prompt[-1], *span.completion[:-1])])

    @cached_property
    def rows(self) -> Tensor:
        """[C]: the sequence of each completion token."""
        return torch.repeat_interleave(self.completion_tokens)

    @cached_property
    def mask(self) -> Tensor:
        """[S, T]: 1 at the tokens of `unpack`, 0 at its padding on the right."""
        lengths = self._index([len(span.places) for span in self.spans])
        return (torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]).long()

    @cached_property
    def _unpacked(self) -> Tensor:
        """[S, T] of places in the row; padding points at the first."""
        width = self.mask.shape[1]
        return self._index([[*span.places, *[0] * (width - len(span.places))] for span in self.spans])

    @cached_property
    def _packed(self) -> Tensor:
        """[N] of places in the flattened [S, T]: a prompt's in the first sequence that has it."""
        width, found = self.mask.shape[1], dict[int, int]()
        for row, span in enumerate(self.spans):
            for column, place in enumerate(span.places):
                found.setdefault(place, row * width + column)
        return self._index([found[place] for place in range(len(found))])

    def unpack(self, values: Tensor) -> Tensor:
        """[N, …] -> [S, T, …]: each sequence in a row of its own, its prompt repeated, whatever at the padding."""
        return values[self._unpacked]

    def repack(self, values: Tensor) -> Tensor:
        """[S, T, …] -> [N, …]: what `unpack` came from, where a prompt's rows agree."""
        return values.flatten(0, 1)[self._packed]

    def _index(self, places: Sequence[Any]) -> Tensor:
        return torch.tensor(places, dtype=torch.long, device=self.device)


def _positions(group: Sequence[int]) -> list[int]:
    prompt, *completions = group
    return [*range(prompt), *(prompt + place for length in completions for place in range(length))]


def _spans(groups: Sequence[Sequence[int]]) -> list[Span]:
    spans, begin = [], 0
    for prompt, *completions in groups:
        ends = list(accumulate(completions, initial=begin + prompt))
        of_prompt = range(begin, begin + prompt)
        spans += [Span(of_prompt, range(*ends[n : n + 2])) for n in range(len(completions))]
        begin = ends[-1]
    return spans


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float = 0.0, scaling: float | None = None
) -> Tensor:
    """Causal attention within each sequence: query [1, H, N, h], key and value [1, K, N, h] -> [1, N, H, h].

    A prompt's queries run again with every further completion and are dropped there: dearer by few products than a
    mask, which would keep torch from its fastest kernels.
    """
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
