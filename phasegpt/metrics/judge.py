"""What the frozen bundled model makes of a text: a fixed judge, whatever model is being tuned.

A text is read sentence by sentence, each for itself, and stands as one vector: the mean over its tokens of the states
after LAYER of SmolLM2's 30 layers (sentence representations in the sense of arXiv 1905.06316). The order of sentences
plays no part, since `order` measures that. Knows nothing of what the vector is compared with.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from phasegpt.base_model import BUNDLED
from phasegpt.encoding import pad
from phasegpt.metrics.words import sentences_of
from phasegpt.models import Base, load_base

LAYER = 18  # of 30; 6 to 26 were tried on the training domains
START = "\n"  # stands before every sentence and is left out of the mean: a first token's state says little
LIMIT = 128  # tokens of a sentence that are read
BATCH = 32
KNOWN = 8192  # sentences kept, about 40 MB: one answer is often scored by several metrics

Vector = NDArray[np.float64]


class Judge:
    """Vectors of texts by the lower layers of a frozen model: float32, no gradient, the same every time."""

    def __init__(self, base: Base, layer: int = LAYER) -> None:
        decoder = base.model.model
        decoder.layers, decoder.norm = decoder.layers[:layer], nn.Identity()
        self._decoder, self._tokenizer = decoder.eval(), base.tokenizer
        self._known: dict[str, tuple[Vector, int]] = {}

    def vector(self, text: str) -> Vector:
        """[d] mean state over all tokens of a text; zeros for a text without words."""
        sentences = [sentence.text for sentence in sentences_of(text)]
        self._read([each for each in dict.fromkeys(sentences) if each not in self._known])
        total, tokens = np.zeros(self._decoder.config.hidden_size), 0
        for each in sentences:
            total, tokens = total + self._known[each][0], tokens + self._known[each][1]
        if len(self._known) > KNOWN:
            self._known.clear()
        return total / max(1, tokens)

    @torch.no_grad()
    def _read(self, sentences: Sequence[str]) -> None:
        """Note of each sentence the sum of its tokens' states [d] and how many there are."""
        for begin in range(0, len(sentences), BATCH):
            batch = sentences[begin : begin + BATCH]
            encoded = [self._tokenizer(START + each, add_special_tokens=False)["input_ids"][:LIMIT] for each in batch]
            ids, attention = pad(encoded, 0)
            hidden = self._decoder(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
            own = attention[:, 1:]
            sums = (hidden[:, 1:] * own[:, :, None]).sum(1, dtype=torch.float64).numpy()
            self._known.update(zip(batch, zip(sums, own.sum(1).tolist(), strict=True), strict=True))


@lru_cache(maxsize=1)
def judge() -> Judge:
    """The bundled model as judge, loaded once a process, on the CPU. Raises ModelError where it cannot be had."""
    return Judge(load_base(BUNDLED, Path()))
