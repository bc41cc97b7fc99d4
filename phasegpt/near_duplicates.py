"""Texts that share much of their wording: found by MinHash, confirmed by counting. Knows nothing of pairs or files.

MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3) proposes, and the exact share of word 3-grams decides. Only a text that is like no earlier one is indexed, so
a file of one template costs no more than any other. Memory: about 5 KB an indexed text.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NGRAM = 3
PERMUTATIONS = 64
PROPOSED_FROM = 0.4  # Jaccard; below ALIKE, since MinHash proposes what lies near its threshold only half the time
ALIKE = 0.5
LOOKED_AT = 20
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:[.,]\d+)*")
"""A word or number in any script; of English text the words that the metrics read."""


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
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=PROPOSED_FROM, num_perm=PERMUTATIONS)
    kept: list[Text] = []
    for text in texts:
        grams = ngrams(text.text)
        if not grams:
            continue
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        sketch.update_batch([" ".join(gram).encode() for gram in grams])
        proposed = [kept[number] for number in sorted(index.query(sketch)) if kept[number].line != text.line]
        likes = (_compare(text, grams, earlier) for earlier in proposed[:LOOKED_AT])
        found = max(likes, key=lambda like: like.share, default=None)
        if found is not None and found.share >= ALIKE:
            yield found
        else:
            index.insert(len(kept), sketch)
            kept.append(text)


def ngrams(text: str, length: int = NGRAM) -> set[tuple[str, ...]]:
    """The word n-grams of a text; a text of fewer words has one, itself, and one without words none."""
    words = tuple(_WORD.findall(text.replace("’", "'").lower()))
    return set(zip(*(words[start:] for start in range(length)), strict=False)) or ({words} if words else set())


def _compare(text: Text, grams: set[tuple[str, ...]], earlier: Text) -> Likeness:
    others = ngrams(earlier.text)
    return Likeness(text, earlier, len(grams & others) / min(len(grams), len(others)))
