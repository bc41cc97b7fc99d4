"""Order: how well the sentences of a text stand in their places, by a small model whose weights are a readable table.

    order = σ(advantage),   advantage = ln(n · P(first)) + ln(n · P(last)) + Σ ln(r · P(next))

P(first) is the chance that, of the n sentences of the text, the one that opens it would be chosen to open it; P(last)
likewise for the end; P(next) the chance that, of the r sentences which are still to come, the one that follows would
be chosen to follow. Each is a softmax over the sentences of the *same* text, so the level of a text's style, length or
topic cancels, and a text in chance order gets about 0.5. Knows nothing of dialectic.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phasegpt.metrics.words import LEANING_OPENERS, PLACE_CLASSES, PLACE_WORDS, TURNS, Sentence

Cues = Mapping[str, float]
TERMINAL = (".", "!", "?", '"', "”", "'", "’", ")")


@dataclass(frozen=True)
class Places:
    """The weights of the cues: for the opening sentence, for the last one, and for one that follows another."""

    first: Mapping[str, float]
    last: Mapping[str, float]
    next: Mapping[str, float]


def order(sentences: Sequence[Sentence], places: Places) -> float:
    """How well the sentences stand in their places: 0 to 1, about 0.5 by chance; 0.5 for fewer than three.

    Words that say nothing ("still,", "it turned out that") may speak against the sentence that opens or ends the text,
    never for it nor against the others: a stray "but" anywhere would flatter the opening.
    """
    if len(sentences) < 3:
        return 0.5
    told, said = place_cues(sentences, told=True), place_cues(sentences)
    advantage = _advantage(told, 0, places.first, said[0])
    if is_complete(sentences):
        advantage += _advantage(told, -1, places.last, said[-1])
    advantage += sum(_advantage(choice, 0, places.next) for choice in next_cues(sentences))
    return 1 / (1 + math.exp(-advantage))


def is_complete(sentences: Sequence[Sentence]) -> bool:
    """Whether the last sentence ends; one that was cut off is no end to judge."""
    return sentences[-1].text.endswith(TERMINAL)


def place_cues(sentences: Sequence[Sentence], told: bool = False) -> list[Cues]:
    """For each sentence what speaks for or against its opening or ending the text, by all its words or the told.

    Its function words and their classes, whether it opens on a word that leans on something before it, its turns, its
    punctuation, whether it holds numbers and names, how long it is beside the others (log ratio), and how much of its
    content comes back in others. Cues that many sentences have count double, so that the ridge shrinks them less.
    """
    counts = Counter(stem for sentence in sentences for stem in sentence.stems)
    length = sum(math.log(len(sentence.told)) for sentence in sentences) / len(sentences)
    return [
        _word_cues(sentence.told if told else sentence.words)
        | _sentence_cues(sentence, counts, math.log(len(sentence.told)) - length)
        for sentence in sentences
    ]


def _word_cues(words: tuple[str, ...]) -> dict[str, float]:
    line = " ".join(words)
    present = [
        *(f"word {word}" for word in PLACE_WORDS.intersection(words)),
        *(f"turn {kind}" for kind, pattern in TURNS.items() if pattern.search(line)),
        *(["number"] if any(word[0].isdigit() for word in words) else []),
    ]
    common = [
        *(f"class {name}" for name, members in PLACE_CLASSES.items() if not members.isdisjoint(words)),
        *(["leans"] if words[0] in LEANING_OPENERS else []),
    ]
    return dict.fromkeys(present, 1.0) | dict.fromkeys(common, 2.0)


def _sentence_cues(sentence: Sentence, counts: Mapping[str, int], length: float) -> dict[str, float]:
    present = [
        *(f"mark {mark}" for mark in "?:;" if mark in sentence.text),
        *(["name"] if sentence.names else []),
    ]
    shared = sum(counts[stem] > 1 for stem in sentence.stems) / max(1, len(sentence.stems))
    again = sum(counts[stem] - 1 for stem in sentence.stems)
    return dict.fromkeys(present, 1.0) | {"length": 2 * length, "shared": 2 * shared, "again": again / 2}


def next_cues(sentences: Sequence[Sentence]) -> list[list[Cues]]:
    """For each sentence between the first and the last the cues of all that could stand there, the true one first.

    Content shared with the sentence before, content shared with anything before, names shared with the sentence before,
    and persons (he or she, they, I, ...) kept from it, taken up from earlier, or new.
    """
    choices = []
    stems: frozenset[str] = frozenset()
    persons: frozenset[str] = frozenset()
    for i in range(1, len(sentences) - 1):
        stems |= sentences[i - 1].stems
        persons |= sentences[i - 1].persons
        choices.append([_next_cues(sentence, sentences[i - 1], stems, persons) for sentence in sentences[i:]])
    return choices


def _next_cues(sentence: Sentence, before: Sentence, stems: frozenset[str], persons: frozenset[str]) -> Cues:
    return {
        "shared with the last": len(sentence.stems & before.stems),
        "shared with any": len(sentence.stems & stems),
        "name shared with the last": len(sentence.names & before.names),
        "person kept": len(sentence.persons & before.persons),
        "person from earlier": len((sentence.persons & persons) - before.persons),
        "person new": len(sentence.persons - persons),
    }


def _advantage(choices: Sequence[Cues], true: int, weights: Mapping[str, float], said: Cues | None = None) -> float:
    """ln(n · P(true one)) under the softmax of the n choices' weighted cues; at least ln(n · 1e-6).

    With `said`, other cues of the true one: the worse of its two values counts.
    """
    values = [_value(cues, weights) for cues in choices]
    if said is not None:
        values[true] = min(values[true], _value(said, weights))
    top = max(values)
    share = math.exp(values[true] - top) / sum(math.exp(value - top) for value in values)
    return math.log(len(values) * max(share, 1e-6))


def _value(cues: Cues, weights: Mapping[str, float]) -> float:
    return sum(weights.get(cue, 0.0) * value for cue, value in cues.items())
