"""How far the text metrics can be believed: spiral_score and subtlety on the shipped pairs, and on damaged texts.

Each row asks how often a text of set A scores above a text of set B (AUC; ties count half), with a 95 % interval from
1,000 bootstrap resamples of the pairs (seed 0), and how often A is above B within its own pair. Plain Python, no model,
a few seconds: `python tests/benchmarks/metric_validation.py`. docs/metrics.md quotes what it prints.
"""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from statistics import fmean

from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.subtlety import explicitness, subtlety
from phasegpt.metrics.words import MARKERS, sentences_of, words_of
from phasegpt.pairs import SUBTLETIES, Pair, read_pairs

PAIRS = Path(__file__).parents[2] / "data" / "preferences_v14_100pairs.jsonl"
DOMAINS = ("philosophy", "science", "social", "artistic")
RESAMPLES = 1000
BOOTSTRAP_SEED = 0
SHUFFLE_SEED = 0
MARKER_OPENINGS = ("However,", "But", "On the other hand,", "The antithesis is that", "In synthesis,")
TURN_OPENINGS = ("It turned out that", "Nothing was as it seemed, and", "Until then, not exactly,")

Score = Callable[[str], float]
spiral = cache(spiral_score)


@dataclass(frozen=True)
class Row:
    """One line of the table; `means` are those of A and of B."""

    name: str
    n: int
    auc: float
    low: float
    high: float
    in_order: float
    means: tuple[float, float]

    def __str__(self) -> str:
        span = f"{self.auc:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.name:50} {self.n:4} {span:>18} {self.in_order:9.2f} {self.means[0]:7.2f} {self.means[1]:7.2f}"


HEAD = f"{'A over B':50} {'n':>4} {'AUC [95 %]':>18} {'in order':>9} {'mean A':>7} {'mean B':>7}"


def auc(a: Sequence[float], b: Sequence[float]) -> float:
    """The chance that a value of `a` lies above one of `b`; ties count half."""
    ordered = sorted(b)
    above = sum(bisect_left(ordered, x) + bisect_right(ordered, x) for x in a)
    return above / (2 * len(a) * len(b))


def compare(name: str, a: Sequence[float], b: Sequence[float]) -> Row:
    """The row of two sets of scores of the same pairs, in the same order."""
    draw = random.Random(BOOTSTRAP_SEED)  # noqa: S311 - statistics, not secrets
    rows = range(len(a))
    samples = [draw.choices(rows, k=len(a)) for _ in range(RESAMPLES)]
    values = sorted(auc([a[i] for i in sample], [b[i] for i in sample]) for sample in samples)
    in_order = fmean(0.5 if x == y else float(x > y) for x, y in zip(a, b, strict=True))
    low, high = values[int(0.025 * RESAMPLES)], values[int(0.975 * RESAMPLES) - 1]
    return Row(name, len(a), auc(a, b), low, high, in_order, (fmean(a), fmean(b)))


def words(text: str) -> float:
    """How long a text is."""
    return float(len(words_of(text)))


def letters_a_word(text: str) -> float:
    """How long its words are."""
    return fmean(map(len, words_of(text)))


def markers(text: str) -> float:
    """How many marker words it holds."""
    return float(sum(word in MARKERS for word in words_of(text)))


def shuffled(text: str) -> str:
    """Its sentences in another order."""
    parts = [sentence.text for sentence in sentences_of(text)]
    order = list(parts)
    draw = random.Random(SHUFFLE_SEED)  # noqa: S311
    while order == parts and len(parts) > 1:
        draw.shuffle(order)
    return " ".join(order)


def opened(text: str, openings: Sequence[str], every: int) -> str:
    """Its sentences, one in `every` with the next of `openings` put before it."""
    turn = cycle(openings)
    parts = [sentence.text for sentence in sentences_of(text)]
    return " ".join(
        f"{next(turn)} {part[0].lower()}{part[1:]}" if i % every == every - 1 else part for i, part in enumerate(parts)
    )


def first_half(text: str) -> str:
    """The sentences up to the middle."""
    parts = [sentence.text for sentence in sentences_of(text)]
    return " ".join(parts[: (len(parts) + 1) // 2])


def _with_next_ends(texts: Sequence[str]) -> list[str]:
    """Each text with the last sentence of the one after it: as long, and no end of its own."""
    cut = [[sentence.text for sentence in sentences_of(text)] for text in texts]
    return [" ".join([*own[:-1], other[-1]]) for own, other in zip(cut, [*cut[1:], cut[0]], strict=True)]


def _chosen_over_rejected(name: str, score: Score, pairs: Sequence[Pair]) -> Row:
    return compare(name, [score(p.chosen) for p in pairs], [score(p.rejected) for p in pairs])


def spiral_rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    """spiral_score of chosen over rejected answers."""
    yield _chosen_over_rejected("spiral_score: chosen over rejected", spiral, pairs)
    for level in SUBTLETIES:
        yield _chosen_over_rejected(f"  {level}", spiral, [p for p in pairs if p.subtlety == level])
    for domain in DOMAINS:
        yield _chosen_over_rejected(f"  {domain}", spiral, [p for p in pairs if p.domain == domain])


def baseline_rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    """What would do as well as the metric if the data gave itself away."""
    yield _chosen_over_rejected("length in words: chosen over rejected", words, pairs)
    yield _chosen_over_rejected("letters a word: chosen over rejected", letters_a_word, pairs)
    yield _chosen_over_rejected("marker words: chosen over rejected", markers, pairs)
    for level in SUBTLETIES:
        yield _chosen_over_rejected(f"  {level}", markers, [p for p in pairs if p.subtlety == level])


def damage_rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    """Damage that a measure of movement should see, and stuffing that it should not fall for."""
    chosen, rejected = [p.chosen for p in pairs], [p.rejected for p in pairs]

    def row(name: str, a: Sequence[str], b: Sequence[str]) -> Row:
        return compare(name, [*map(spiral, a)], [*map(spiral, b)])

    yield row("chosen over itself, sentences shuffled", chosen, [shuffled(t) for t in chosen])
    yield row("chosen over its first half", chosen, [first_half(t) for t in chosen])
    yield row("first half of chosen over rejected", [first_half(t) for t in chosen], rejected)
    yield row("chosen over itself with another answer's end", chosen, _with_next_ends(chosen))
    for kind, openings in (("marker", MARKER_OPENINGS), ("turn", TURN_OPENINGS)):
        for every, often in ((1, "every sentence"), (3, "every third")):
            stuffed = [opened(t, openings, every) for t in rejected]
            yield row(f"chosen over rejected, a {kind} on {often}", chosen, stuffed)


def subtlety_rows(pairs: Sequence[Pair]) -> Iterator[Row]:
    """subtlety on the chosen answers of different levels, and of chosen over rejected."""
    by_level = {level: [p.chosen for p in pairs if p.subtlety == level] for level in SUBTLETIES}
    for quiet, loud in (("implicit", "moderate"), ("moderate", "explicit"), ("implicit", "explicit")):
        a, b = by_level[quiet], by_level[loud]
        yield compare(f"subtlety: {quiet} over {loud} (chosen)", [*map(subtlety, a)], [*map(subtlety, b)])
    explicit, implicit = by_level["explicit"], by_level["implicit"]
    loudness = [[explicitness(text) for text in texts] for texts in (explicit, implicit)]
    yield compare("explicitness: explicit over implicit (chosen)", *loudness)
    for level in SUBTLETIES:
        of_level = [p for p in pairs if p.subtlety == level]
        yield _chosen_over_rejected(f"subtlety: chosen over rejected, {level}", subtlety, of_level)


def table() -> str:
    """The whole table."""
    pairs = read_pairs(PAIRS, DOMAINS)
    blocks = (spiral_rows(pairs), baseline_rows(pairs), damage_rows(pairs), subtlety_rows(pairs))
    return "\n\n".join([HEAD, *("\n".join(map(str, block)) for block in blocks)])


if __name__ == "__main__":
    print(table())
