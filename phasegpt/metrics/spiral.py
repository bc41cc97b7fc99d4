"""Spiral Score: whether a text moves dialectically. Lexical and structural, deterministic, standard library only.

A text moves when it takes up a position, lets something push back that shares its topic and brings content of its own,
and arrives at something made of both. Nothing here understands a text: each component is a count of what such movement
leaves behind in words, kept so that one more marker word buys almost nothing. Knows nothing of models or prompts.

    spiral_score = soundness · σ(bias + Σ weight · component)

| component   | what it counts                                                                                  |
|-------------|-------------------------------------------------------------------------------------------------|
| movement    | kinds of turn (denial, appearance, outcome, ...) x content that returns; turns alone: a quarter |
| opposition  | the strongest pushback: on topic x new content x contrast                                       |
| return      | content words that come back in a later sentence                                                |
| integration | a late sentence that holds content of the position *and* of what pushed back                    |
| binding     | share of words that relate rather than name                                                     |
| economy     | freedom from lists, from unnamed sources, and from hedges that stand in place of an end         |
| soundness   | a gate, not a term: length, repetition, word salad, stuffing                                    |
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

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
    TURNS,
    VAGUE_SOURCES,
    Sentence,
    sentences_of,
)

VERSION = "0.1"  # raise it with any change here or in the word lists: stored scores are compared only within a version
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "bias": -5.3,
        "movement": 4.8,
        "opposition": 0.8,
        "return": 1.6,
        "integration": 1.0,
        "binding": 1.4,
        "economy": 2.2,
    }
)


@dataclass(frozen=True)
class Reading:
    """A text as the components read it. Indices count sentences from 0; stems are of content words."""

    sentences: tuple[Sentence, ...]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words in order."""
        return tuple(word for sentence in self.sentences for word in sentence.words)

    @cached_property
    def fresh(self) -> tuple[frozenset[str], ...]:
        """For each sentence the stems that no earlier sentence holds."""
        seen: set[str] = set()
        fresh = []
        for sentence in self.sentences:
            fresh.append(sentence.stems - seen)
            seen |= sentence.stems
        return tuple(fresh)

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The sentences in lower case without punctuation: what the patterns search."""
        return tuple(" ".join(sentence.words) for sentence in self.sentences)

    @cached_property
    def turns(self) -> tuple[frozenset[str], ...]:
        """For each sentence the kinds of turn in it; none where it brings no content of its own."""
        return tuple(
            frozenset(kind for kind, pattern in TURNS.items() if fresh and pattern.search(line))
            for line, fresh in zip(self.lines, self.fresh, strict=True)
        )

    @property
    def opening(self) -> int:
        """How many sentences at the start are read as the position: about a third, at least one."""
        return max(1, round(0.3 * len(self.sentences)))

    def stems(self, start: int, stop: int) -> frozenset[str]:
        """Stems of the sentences start <= i < stop."""
        return frozenset[str]().union(*(sentence.stems for sentence in self.sentences[start:stop]))


def spiral_score(text: str) -> float:
    """How far a text moves dialectically: 0 (flat, empty, broken) to 1. Higher is better; per text; no unit."""
    return float(explain(text)["score"])


def explain(text: str) -> dict[str, Any]:
    """The score of a text and all that it was made of.

    `sentences` (as cut), `position`, `pushback`, `synthesis` (lists of sentence indices, empty where none was found),
    `components` (the weighted ones, each in [0, 1]), `soundness` with its own parts, `score`, `version`.
    """
    reading = Reading(sentences_of(text))
    close, integration = _synthesis(reading)
    push, opposition = _pushback(reading, close)
    returned = _return(reading)
    components = {
        "movement": _turning(reading) * (0.25 + 0.75 * returned),
        "opposition": opposition,
        "return": returned,
        "integration": integration,
        "binding": _binding(reading),
        "economy": _economy(reading),
    }
    soundness = _soundness(reading)
    return {
        "score": math.prod(soundness.values()) * _combined(components),
        "sentences": [sentence.text for sentence in reading.sentences],
        "position": list(range(min(reading.opening, len(reading.sentences)))),
        "pushback": [] if push is None else [push],
        "synthesis": [] if close is None else [close],
        "components": components,
        "soundness": soundness,
        "version": VERSION,
    }


def weights_hash() -> str:
    """Twelve hex digits that name the version and the weights; recorded beside every published score."""
    table = json.dumps({"version": VERSION, "weights": dict(WEIGHTS)}, sort_keys=True)
    return hashlib.sha256(table.encode()).hexdigest()[:12]


def _combined(components: Mapping[str, float]) -> float:
    """σ(bias + Σ weight · component)."""
    z = WEIGHTS["bias"] + sum(WEIGHTS[name] * value for name, value in components.items())
    return 1 / (1 + math.exp(-z))


def _turning(reading: Reading) -> float:
    """Turns of different kinds: each kind counts in two sentences at most, relative to (number of sentences)^¾.

    Plain counts favour long texts and shares favour short ones; ¾ keeps two flat texts set end to end about even.
    """
    counts = Counter(kind for kinds in reading.turns for kind in kinds)
    earned = sum(min(2, count) for count in counts.values())
    return min(1.0, 0.56 * earned / math.pow(max(3, len(reading.sentences)), 0.75))


def _pushback(reading: Reading, synthesis: int | None) -> tuple[int | None, float]:
    """The sentence between the position and the synthesis (without one: the end) that pushes back most; how much.

    Half as much where the text opens on a word that leans on something before it: no position, nothing to push.
    """
    stop = len(reading.sentences) if synthesis is None else synthesis
    best, strength = _strongest({i: _push(reading, i) for i in range(reading.opening, stop)})
    leans = best is not None and reading.sentences[0].words[0] in LEANING_OPENERS
    return best, strength / 2 if leans else strength


def _push(reading: Reading, i: int) -> float:
    """How much sentence i pushes back: topic · new content · contrast.

    Topic is 1 − ½^(shared stems), a pronoun being half a stem. Contrast is 1 − ½^(kinds of turn), a connective being
    a fifth of a kind, since it announces a contrast that the content must then bring.
    """
    sentence = reading.sentences[i]
    shared = len(sentence.stems & reading.stems(0, i)) + 0.5 * (not ANAPHORS.isdisjoint(sentence.words))
    new = min(1.0, 2 * len(reading.fresh[i]) / max(1, len(sentence.stems)))
    kinds = len(reading.turns[i] - {"cause"}) + 0.2 * (not CONNECTIVES.isdisjoint(sentence.words))
    return (1 - math.pow(0.5, shared)) * new * (1 - math.pow(0.5, kinds))


def _synthesis(reading: Reading) -> tuple[int | None, float]:
    """The sentence in the second half that holds most content of both sides, and how much.

    √(a·b) with a = 1 − ½^(stems shared with the position) and b likewise with what lies between the position and it:
    one side alone gives 0, and so does a sentence without a new word, which only repeats.
    """
    count = len(reading.sentences)
    late = range(max(reading.opening + 1, count // 2), count)
    return _strongest({i: _held(reading, i) for i in late if reading.fresh[i]})


def _strongest(strengths: Mapping[int, float]) -> tuple[int | None, float]:
    """The first sentence of greatest strength and that strength; None and 0 where there is none above 0."""
    best = max(strengths, key=strengths.__getitem__, default=None)
    return (None, 0.0) if best is None or strengths[best] == 0 else (best, strengths[best])


def _held(reading: Reading, i: int) -> float:
    """How much sentence i holds of both sides; see `_synthesis`."""
    position = reading.stems(0, reading.opening)
    other = reading.stems(reading.opening, i) - position
    stems = reading.sentences[i].stems
    return math.sqrt((1 - math.pow(0.5, len(stems & position))) * (1 - math.pow(0.5, len(stems & other))))


def _return(reading: Reading) -> float:
    """Share of content words that come back in a later sentence; in 100 words, full at one in seven.

    Chance returns grow with length, so the share is taken per √(words / 100).
    """
    counts = Counter(stem for sentence in reading.sentences for stem in sentence.stems)
    share = sum(count > 1 for count in counts.values()) / max(1, len(counts))
    return min(1.0, 7 * share / math.sqrt(max(0.5, len(reading.words) / 100)))


def _binding(reading: Reading) -> float:
    """Share of function words: 0 at 45 % (a catalogue of nouns), 1 at 65 %."""
    return _ramp(_binding_share(reading), 0.45, 0.65)


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


def _soundness(reading: Reading) -> dict[str, float]:
    """The gate: factors that are 1 for any ordinary text of 40 words or more and fall to 0 as it breaks."""
    words = reading.words
    stems = [stem for sentence in reading.sentences for stem in sentence.stems]
    return {
        "length": _ramp(len(words), 15, 40) * _ramp(len(reading.sentences), 1, 3),
        "distinct_sentences": _distinct(reading) ** 2,
        "distinct_words": _ramp(len(set(stems)) / max(1, len(stems)), 0.35, 0.6),
        "grammar": _grammar(reading),
        "plain_speech": _plain_speech(reading),
    }


def _plain_speech(reading: Reading) -> float:
    """Whether the words that mark or turn stay few: the three ways of stuffing them, each with its limit.

    Markers up to 7 % of the words, turns up to 12 %, and either at the head (four words) of two sentences in three.
    """
    words = max(1, len(reading.words))
    marked = sum(word in MARKERS for word in reading.words) / words
    turned = sum(len(pattern.findall(text)) for text in reading.lines for pattern in TURNS.values()) / words
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
