"""Texts that share much of their wording, found by counting the word 3-grams that they share. Knows nothing of pairs.

Exact: an index tells for each 3-gram which texts have it. Only a text that is like no earlier one is indexed, and only
3-grams that two texts have, so that neither a file of one template nor a large one costs more than any other.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NGRAM = 3
ALIKE = 0.5
WORD_BITS = 21
"""Two million different words have a number of their own; three of them make a code of 63 bits."""
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:[.,]\d+)*")
"""A word or number in any script; of English text the words that the metrics read."""
Codes = NDArray[np.int64]
"""The n-grams of a text as numbers, each once."""


@dataclass(frozen=True)
class Text:
    """A text and the line of the row it is in."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Likeness:
    """`text` shares the part `share` (0.5 to 1) of the shorter one's n-grams with `earlier`, of another row."""

    text: Text
    earlier: Text
    share: float


def likenesses(texts: Iterable[Text]) -> Iterator[Likeness]:
    """Each text that is like an earlier one of another row, with the one it is most like, in order."""
    worded = [text for text in texts if _WORD.search(text.text)]
    if not worded:
        return
    codes = _coded([text.text for text in worded])
    known = _in_two_or_more(codes)
    index = _Index(len(known))
    for text, own in zip(worded, codes, strict=True):
        places = _places(known, own)
        found = index.most_alike(text, places, len(own))
        if found is not None and found.share >= ALIKE:
            yield found
        else:
            index.add(text, places, len(own))


class _Index:
    """Which of the texts that were added have which of `count` n-grams; a text may have `size` in all, others too."""

    def __init__(self, count: int) -> None:
        self._having = [array("I") for _ in range(count)]
        self._texts: list[Text] = []
        self._lines, self._sizes = array("q"), array("q")

    def add(self, text: Text, places: Sequence[int], size: int) -> None:
        """A text with its n-grams, for those to come."""
        for place in places:
            self._having[place].append(len(self._texts))
        self._texts.append(text)
        self._lines.append(text.line)
        self._sizes.append(size)

    def most_alike(self, text: Text, places: Sequence[int], size: int) -> Likeness | None:
        """The first of those of other rows that share the largest part; None before there is a text."""
        if not self._texts:
            return None
        having = [np.zeros(0, np.uint32), *(_view(self._having[place], np.uint32) for place in places)]
        shared = np.bincount(np.concatenate(having), minlength=len(self._texts))
        shares = shared / np.minimum(_view(self._sizes, np.int64), size)
        shares[_view(self._lines, np.int64) == text.line] = 0.0
        best = int(shares.argmax())
        return Likeness(text, self._texts[best], float(shares[best]))


def _view(values: "array[int]", kind: type[Any]) -> NDArray[Any]:
    """The same memory as numbers of numpy; to be let go before the array grows."""
    return np.frombuffer(values, kind)


def _places(known: Codes, codes: Codes) -> list[int]:
    """Where those of `codes` that are among `known`, which ascends, stand there."""
    places = np.searchsorted(known, codes)
    inside = places < len(known)
    places, codes = places[inside], codes[inside]
    found: list[int] = places[known[places] == codes].tolist()
    return found


def _in_two_or_more(codes: Sequence[Codes]) -> Codes:
    values, counts = np.unique(np.concatenate(codes), return_counts=True)
    return values[counts > 1]


def _coded(texts: Sequence[str]) -> list[Codes]:
    numbers: dict[str, int] = {}

    def code(gram: tuple[str, ...]) -> int:
        whole = 0
        for word in gram:
            whole = whole << WORD_BITS | numbers.setdefault(word, len(numbers) + 1) % (1 << WORD_BITS)
        return whole

    return [np.array([code(gram) for gram in ngrams(text)], np.int64) for text in texts]


def ngrams(text: str, length: int = NGRAM) -> set[tuple[str, ...]]:
    """The word n-grams of a text; a text of fewer words has one, itself, and one without words none."""
    words = tuple(_WORD.findall(text.replace("’", "'").lower()))
    return set(zip(*(words[start:] for start in range(length)), strict=False)) or ({words} if words else set())
