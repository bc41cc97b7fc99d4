"""What a phase branch remembers of earlier tokens, and how it travels with the key-value cache of transformers.

The state lives on the cache's layer of the branch, so that a new cache begins anew, two generations never mix, and what
reorders or copies the cache does the same to the state. Knows neither decoders nor oscillators.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


class PhaseAttentionError(ValueError):
    """A phase branch that cannot be attached, loaded or run as asked; the message names the cure."""


@dataclass
class PhaseState:
    """Sums over the tokens that a branch has seen; its size does not depend on how many they were.

    `sums` [B, n_sync_steps, 2, N]: of sin θ and cos θ over visible tokens, as they were before each Euler step.
    `visible` [B]: how many tokens were no padding. `tokens`: how many they were, padding included.
    """

    sums: Tensor
    visible: Tensor
    tokens: int = 0

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the rows of the batch as `change` does to a tensor [B, …]."""
        self.sums, self.visible = change(self.sums), change(self.visible)


class PhaseCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """A cache layer that carries a PhaseState along: mixed in before the class that the layer had."""

    phase_state: PhaseState | None = None
    is_croppable = False

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.phase_state = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was: beam search goes on with its best beams."""
        super().reorder_cache(beam_idx)
        self._map_rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        super().batch_select_indices(indices)
        self._map_rows(lambda rows: rows[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self._map_rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing for 0 tokens; PhaseAttentionError for more, since a sum does not give back what went into it."""
        if tokens_to_remove:
            raise PhaseAttentionError(
                f"a phase branch cannot forget the last {abs(tokens_to_remove)} tokens of a key-value cache: its state "
                "is a sum; generate without an assistant or prompt lookup, or begin a new cache"
            )
        super().crop(tokens_to_remove)

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.phase_state is not None:
            self.phase_state.map_rows(change)


def state_on(cache_layer: Any, new_tokens: int, start: Callable[[], PhaseState]) -> PhaseState:
    """The state that travels with a cache layer into which `new_tokens` have just been written.

    Where there is none yet, `start` makes it. Raises PhaseAttentionError where the branch has not seen what the layer
    holds, and for a cache of fixed size.
    """
    if cache_layer.is_compileable:
        raise PhaseAttentionError(
            "a phase branch needs a key-value cache that grows, found one of fixed size; leave out cache_implementation"
        )
    if not isinstance(cache_layer, PhaseCacheLayer):
        cache_layer.__class__ = _carrying(type(cache_layer))  # type: ignore[arg-type]  # mypy: a class has no hash
    state: PhaseState = cache_layer.phase_state or start()
    cache_layer.phase_state = state
    held, seen = int(cache_layer.get_seq_length()) - new_tokens, state.tokens
    if held != seen:
        raise PhaseAttentionError(
            f"the key-value cache holds {held} earlier tokens, of which the phase branch has seen {seen}: they were "
            "computed without it or put there from elsewhere; begin a new cache"
        )
    return state


@cache
def _carrying(layer_class: type) -> type:
    """`layer_class` with a PhaseState; one class for each, so that its layers stay of one type."""
    return type(f"Phase{layer_class.__name__}", (PhaseCacheLayer, layer_class), {})
