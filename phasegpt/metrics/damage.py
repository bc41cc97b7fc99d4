"""Damage: ways to spoil a text that a metric of movement must notice. Deterministic; knows no metric."""

import random
from collections.abc import Sequence

from phasegpt.metrics.words import sentences_of

TURN_OPENINGS = (
    "It turned out that ",
    "Nothing was as it seemed, and ",
    "Until then, not exactly, ",
    "What nobody expected was that ",
    "It was no longer so simple: ",
    "Only then, instead, ",
)
MARKER_OPENINGS = (
    "However, ",
    "But ",
    "Yet ",
    "On the other hand, ",
    "The antithesis is that ",
    "Still, ",
    "In synthesis, ",
    "Nevertheless, ",
    "The contradiction is that ",
)


def shuffled(text: str, seed: int) -> str:
    """The sentences in another order; a text of fewer than two different sentences comes back as it is."""
    sentences = split(text)
    if len(set(sentences)) < 2:
        return text
    chance, other = random.Random(f"{seed} {text}"), list(sentences)  # noqa: S311 - damage needs no secrecy
    while other == sentences:
        chance.shuffle(other)
    return " ".join(other)


def with_foreign_ends(texts: Sequence[str]) -> list[str]:
    """Each text with its last quarter of sentences replaced by that of the text seven further on."""
    cut = [split(text) for text in texts]
    ends = [sentences[-(len(sentences) // 4 or 1) :] for sentences in cut]
    return [
        " ".join([*sentences[: -(len(sentences) // 4 or 1)], *ends[(i + 7) % len(ends)]])
        for i, sentences in enumerate(cut)
    ]


def stuffed(text: str, openings: Sequence[str], every: int) -> str:
    """Every n-th sentence behind one of the openings, in turn."""
    sentences = split(text)
    for place in range(every - 1, len(sentences), every):
        opening, sentence = openings[place // every % len(openings)], sentences[place]
        sentences[place] = opening + sentence[:1].lower() + sentence[1:]
    return " ".join(sentences)


def glued(texts: Sequence[str], seed: int) -> str:
    """Seven sentences, each of a different text: grammar without sense. Needs at least seven texts."""
    chance = random.Random(seed)  # noqa: S311
    return " ".join(chance.choice(split(text)) for text in chance.sample(list(texts), 7))


def split(text: str) -> list[str]:
    """The sentences as they stand."""
    return [sentence.text for sentence in sentences_of(text)]
