"""The sizes of a decoder that decide what a run of it costs, read from its config.json. Imports no torch."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phasegpt.base_model import BUNDLED
from phasegpt.bundled import bundled_folder
from phasegpt.config import Config
from phasegpt.config_io import resolve


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that cost time and memory.

    `layer_parameters` are the weights of one layer, `inner` the width of its feed-forward part, `key_value` the width
    of its keys; `tied` says that the head is the embedding.
    """

    layers: int
    hidden: int
    vocabulary: int
    layer_parameters: int
    inner: int = 0
    key_value: int = 0
    tied: bool = True

    @property
    def parameters(self) -> int:
        """All that a token passes, tied embedding counted once."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden

    @property
    def size(self) -> int:
        """The same with a head that is not tied, as people tell how large a model is."""
        return self.parameters + (0 if self.tied else self.vocabulary * self.hidden)


def _qwen2(layers: int, hidden: int, inner: int, key_value: int) -> Shape:
    return Shape(layers, hidden, 151936, 2 * hidden * (hidden + key_value) + 3 * hidden * inner, inner, key_value)


KNOWN = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2(24, 896, 4864, 128),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen2(28, 1536, 8960, 256),
}
"""The tracks' own models, which a plan speaks of before they are fetched; from their config.json."""


def shape_of(config: Config) -> Shape | None:
    """The shape of a config's base model; None where it is not here yet and none of `KNOWN`."""
    name, path = config.model.base_model, shape_folder(config) / "config.json"
    if os.path.isfile(path):
        return read_shape(path)
    return KNOWN.get(name) or _of_hub(name)


def _of_hub(name: str) -> Shape | None:
    """The shape of a hub id by what lies in the hub's cache; None where nothing does. Asks no network."""
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return read_shape(Path(cached)) if isinstance(cached, str) else None


def shape_folder(config: Config) -> Path:
    """Where a config's base model lies once it is here: the bundled one's cache, or its folder."""
    name = config.model.base_model
    return bundled_folder() if name == BUNDLED else resolve(name)


def read_shape(path: Path) -> Shape:
    """The shape in a model's config.json."""
    sizes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    heads = sizes["num_attention_heads"]
    key_value = sizes.get("num_key_value_heads", heads) * (sizes.get("head_dim") or hidden // heads)
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner
    tied = sizes.get("tie_word_embeddings", True)
    return Shape(sizes["num_hidden_layers"], hidden, sizes["vocab_size"], layer, inner, key_value, tied)
