"""Components: what dialectical movement leaves behind in words, each counted in [0, 1]. Standard library only.

Nothing here understands a text; each count is kept so that one more marker word buys nothing. A turn or a term counts
only in a clause that has content of its own, in a sentence that brings something new. Knows no weights.

| component   | what it counts                                                                                     |
|-------------|----------------------------------------------------------------------------------------------------|
| movement    | kinds of turn (denial, appearance, outcome, ...), each in two sentences at most                    |
| opposition  | pushback: sentences on the position's topic x new content x contrast                               |
| return      | content words that come back in a later sentence, short of going in circles                        |
| integration | a late sentence that holds content of the position *and* of what pushed back                       |
| economy     | freedom from lists, from unnamed sources, and from hedges that stand in place of an end            |

Their sister `order` has a file of its own, and so has what is made of them all. `soundness` is a gate, not a term.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from phasegpt.metrics.words import (
    ANAPHORS,
    BINDING_WORDS,
    CONNECTIVES,
    DETERMINERS,
    HEDGE_FORMULAS,
    LEANING_OPENERS,
    LISTING,
    MARKERS,
    NEVER_AFTER_DETERMINER,
    TERMINOLOGY,
    TURNS,
    VAGUE_SOURCES,
    Sentence,
    content_stems,
    sentences_of,
)

VERSION = "1.0"  # raise it with any change here or in order.py: stored scores are compared only within a version
PUSHES_FROM = 0.125  # a sentence that pushes back less is not read as pushback


@dataclass(frozen=True)
class Reading:
    """A text as the components read it. Indices count sentences from 0; stems are of content words."""

    sentences: tuple[Sentence, ...]

    @classmethod
    def of(cls, text: str) -> "Reading":
        """The reading of a text."""
        return cls(sentences_of(text))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words in order."""
        return tuple(word for sentence in self.sentences for word in sentence.words)

    @cached_property
    def content(self) -> tuple[frozenset[str], ...]:
        """For each sentence the stems of its content words, those of clauses that say nothing left out."""
        return tuple(frozenset[str]().union(*map(content_stems, each.clauses)) for each in self.sentences)

    @cached_property
    def fresh(self) -> tuple[frozenset[str], ...]:
        """For each sentence the stems that no earlier sentence holds."""
        return tuple(stems - self.stems(0, i) for i, stems in enumerate(self.content))

    @cached_property
    def turns(self) -> tuple[Mapping[str, frozenset[str]], ...]:
        """For each sentence the kinds of turn in it and their words; none where it brings nothing new."""
        return tuple(_turns(each) if fresh else {} for each, fresh in zip(self.sentences, self.fresh, strict=True))

    @cached_property
    def terms(self) -> tuple[frozenset[str], ...]:
        """For each sentence the dialectical terms in it; none where it brings nothing new."""
        return tuple(
            frozenset(word for clause in each.clauses if fresh for word in clause) & TERMINOLOGY
            for each, fresh in zip(self.sentences, self.fresh, strict=True)
        )

    @property
    def opening(self) -> int:
        """How many sentences at the start are read as the position: about a third, at least one."""
        return max(1, round(0.3 * len(self.sentences)))

    @cached_property
    def synthesis(self) -> tuple[int | None, float]:
        """The sentence in the second half that holds most content of both sides, and how much.

        √(a·b) with a = 1 − ½^(stems shared with the position) and b likewise with what lies between the position and
        it: one side alone gives 0, and so does a sentence without a new word, which only repeats.
        """
        count = len(self.sentences)
        late = range(max(self.opening + 1, count // 2), count)
        return _strongest({i: _held(self, i) for i in late if self.fresh[i]})

    @cached_property
    def pushes(self) -> Mapping[int, float]:
        """The sentences between the position and the synthesis (without one: the end), and how much each pushes back.

        Half as much where the text opens on a word that leans on something before it: no position, nothing to push.
        """
        stop = len(self.sentences) if self.synthesis[0] is None else self.synthesis[0]
        leans = bool(self.sentences) and self.sentences[0].words[0] in LEANING_OPENERS
        return {i: _push(self, i) * (0.5 if leans else 1) for i in range(self.opening, stop)}

    @property
    def position(self) -> list[int]:
        """The sentences read as the position."""
        return list(range(min(self.opening, len(self.sentences))))

    @property
    def pushback(self) -> list[int]:
        """The sentences that push back enough to be read as pushback."""
        return [i for i, push in self.pushes.items() if push >= PUSHES_FROM]

    def stems(self, start: int, stop: int) -> frozenset[str]:
        """Stems of the sentences start <= i < stop."""
        return frozenset[str]().union(*self.content[start:stop])


def components(reading: Reading) -> dict[str, float]:
    """The components of a text by name, each in [0, 1]; higher is more."""
    return {
        "movement": _turning(reading),
        "opposition": 1 - math.prod(1 - push / 2 for push in reading.pushes.values()),
        "return": _return(reading),
        "integration": reading.synthesis[1],
        "economy": _economy(reading),
    }


def _turns(sentence: Sentence) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for clause in sentence.clauses:
        line = " ".join(clause)
        for kind, pattern in TURNS.items():
            if match := pattern.search(line):
                found.setdefault(kind, set()).add(match.group(0))
    return {kind: frozenset(words) for kind, words in found.items()}


def _turning(reading: Reading) -> float:
    """Turns of different kinds: each kind counts in two sentences at most, relative to (number of sentences)^¾.

    Plain counts favour long texts and shares favour short ones; ¾ keeps two flat texts set end to end about even.
    The same words twice count once. Terms are one more kind, from the second on: one alone is a stray.
    """
    counts = Counter(kind for turns in reading.turns for kind in turns)
    earned = 0
    for kind, count in counts.items():
        different = frozenset[str]().union(*(turns.get(kind, frozenset()) for turns in reading.turns))
        earned += min(2, count, len(different))
    terms = frozenset[str]().union(*reading.terms)
    earned += max(0, min(2, len(terms) - 1, sum(map(bool, reading.terms)) - 1))
    return min(1.0, 0.56 * earned / math.pow(max(3, len(reading.sentences)), 0.75))


def _push(reading: Reading, i: int) -> float:
    """How much sentence i pushes back: topic · new content · contrast.

    Topic is 1 − ½^(shared stems), a pronoun being half a stem. Contrast is 1 − ½^(kinds of turn), a connective being
    a fifth of a kind, since it announces a contrast that the content must then bring.
    """
    words, stems = reading.sentences[i].words, reading.content[i]
    shared = len(stems & reading.stems(0, i)) + 0.5 * (not ANAPHORS.isdisjoint(words))
    new = min(1.0, 2 * len(reading.fresh[i]) / max(1, len(stems)))
    kinds = len(reading.turns[i].keys() - {"cause"}) + 0.2 * (not CONNECTIVES.isdisjoint(words))
    return (1 - math.pow(0.5, shared)) * new * (1 - math.pow(0.5, kinds))


def _strongest(strengths: Mapping[int, float]) -> tuple[int | None, float]:
    """The first sentence of greatest strength and that strength; None and 0 where there is none above 0."""
    best = max(strengths, key=strengths.__getitem__, default=None)
    return (None, 0.0) if best is None or strengths[best] == 0 else (best, strengths[best])


def _held(reading: Reading, i: int) -> float:
    """How much sentence i holds of both sides; see `Reading.synthesis`."""
    position = reading.stems(0, reading.opening)
    other = reading.stems(reading.opening, i) - position
    ours, theirs = len(reading.content[i] & position), len(reading.content[i] & other)
    return math.sqrt((1 - math.pow(0.5, ours)) * (1 - math.pow(0.5, theirs)))


def _return(reading: Reading) -> float:
    """Share of content words that come back in a later sentence: full at a tenth, in 100 words, and none again at 35 %.

    Too much return is going in circles. Chance returns grow with length, so the share is taken per √(words / 100).
    """
    counts = Counter(stem for stems in reading.content for stem in stems)
    share = sum(count > 1 for count in counts.values()) / max(1, len(counts))
    share /= math.sqrt(max(0.5, len(reading.words) / 100))
    return _ramp(share, 0, 0.1) * (1 - _ramp(share, 0.15, 0.35))


def _economy(reading: Reading) -> float:
    """1 less the share of sentences spent on listing, on vague sources and, at triple price, on hedging formulas."""
    texts = [sentence.text.lower() for sentence in reading.sentences]
    spent = sum(
        0.5 * bool(LISTING.search(text))
        + 0.5 * bool(VAGUE_SOURCES.search(text))
        + 3 * bool(HEDGE_FORMULAS.search(text))
        for text in texts
    )
    return max(0.0, 1 - spent / max(1, len(texts)))


def soundness(reading: Reading) -> dict[str, float]:
    """The gate: factors that are 1 for any ordinary text of 40 words or more and fall to 0 as it breaks."""
    words = reading.words
    stems = [stem for sentence in reading.sentences for stem in sentence.stems]
    return {
        "length": _ramp(len(words), 15, 40) * _ramp(len(reading.sentences), 1, 3),
        "distinct_sentences": _distinct(reading) ** 2,
        "distinct_phrases": 1 - _ramp(_repeated_phrases(reading), 0.05, 0.25),
        "distinct_words": _ramp(len(set(stems)) / max(1, len(stems)), 0.35, 0.6),
        "grammar": _grammar(reading),
        "plain_speech": _plain_speech(reading),
    }


def _plain_speech(reading: Reading) -> float:
    """Whether the words that mark or turn stay few: the three ways of stuffing them, each with its limit.

    Markers up to 7 % of the words, turns up to 12 %, and either at the head (four words) of two sentences in three.
    """
    words = max(1, len(reading.words))
    lines = [" ".join(sentence.words) for sentence in reading.sentences]
    marked = sum(word in MARKERS for word in reading.words) / words
    turned = sum(len(pattern.findall(line)) for line in lines for pattern in TURNS.values()) / words
    headed = sum(_is_headed(sentence) for sentence in reading.sentences) / max(1, len(reading.sentences))
    return (1 - _ramp(marked, 0.07, 0.14)) * (1 - _ramp(turned, 0.12, 0.16)) * (1 - _ramp(headed, 0.65, 0.95))


def _is_headed(sentence: Sentence) -> bool:
    """Whether a marker or a turn stands among the first four words."""
    head = sentence.words[:4]
    return not MARKERS.isdisjoint(head) or any(pattern.search(" ".join(head)) for pattern in TURNS.values())


def _distinct(reading: Reading) -> float:
    """Share of sentences that do not repeat an earlier one (three in five of their different words the same)."""
    bags = [frozenset(sentence.words) for sentence in reading.sentences]
    repeated = sum(any(len(bag & old) > 0.6 * len(bag | old) for old in bags[:i]) for i, bag in enumerate(bags))
    return 1 - repeated / max(1, len(bags))


def _repeated_phrases(reading: Reading) -> float:
    """Share of the runs of three words that have occurred before."""
    words = reading.words
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / max(1, len(runs))


def _grammar(reading: Reading) -> float:
    """Whether words stand in a possible order: a determiner before a preposition or a verb, or no function words."""
    pairs = [pair for sentence in reading.sentences for pair in zip(sentence.words, sentence.words[1:], strict=False)]
    after = [word for determiner, word in pairs if determiner in DETERMINERS]
    broken = sum(word in NEVER_AFTER_DETERMINER for word in after) / max(1, len(after))
    share = _binding_share(reading)
    return (1 - _ramp(broken, 0.05, 0.25)) * _ramp(share, 0.25, 0.4) * (1 - _ramp(share, 0.75, 0.85))


def _binding_share(reading: Reading) -> float:
    """Share of function words; connectives are left out, since they are what gets stuffed."""
    return sum(word in BINDING_WORDS for word in reading.words) / max(1, len(reading.words))


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to low, 1 from high on, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
