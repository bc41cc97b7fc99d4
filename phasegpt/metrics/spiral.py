"""Spiral Score: whether a text moves dialectically. Deterministic.

A text moves when it takes up a position, lets something push back that shares its topic and brings content of its own,
and arrives at something made of both.

    spiral_score = soundness · σ(bias + Σ weight · component)

The components are counts over words, defined in components.py and order.py, and `kinship`, which the frozen bundled
model finds (kinship.py); soundness is the product of the factors that gate broken texts; the weights are those of
weights.json, which fit_weights.py fitted. `spiral_lexical` is the same by words alone: quicker, and less often right.
Knows nothing of prompts or of the model that wrote the text.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from phasegpt.metrics import words
from phasegpt.metrics.components import VERSION, Reading, components, soundness
from phasegpt.metrics.kinship import kinship
from phasegpt.metrics.order import Places, order

__all__ = [
    "VERSION",
    "combine",
    "explain",
    "explain_lexical",
    "spiral_lexical",
    "spiral_score",
    "weights",
    "weights_hash",
]

_FILE = Path(__file__).with_name("weights.json")


def spiral_score(text: str) -> float:
    """How far a text moves dialectically: 0 (flat, empty, broken) to 1. Higher is better; per text; no unit."""
    return float(explain(text)["score"])


def spiral_lexical(text: str) -> float:
    """The Spiral Score by words and structure alone: standard library only, under 5 ms a text."""
    return float(explain_lexical(text)["score"])


def explain(text: str) -> dict[str, Any]:
    """The score of a text and all that it was made of.

    `sentences` (as cut), `position`, `pushback`, `synthesis` (lists of sentence indices, empty where none was found),
    `components` (the weighted ones, each in [0, 1]), `soundness` with its own parts, `score`, `version`. The judge is
    not asked, and kinship is 0, where soundness is 0: the score is 0 whatever it would say. Raises ModelError where
    the bundled model cannot be had.
    """
    found = explain_lexical(text)
    sound = math.prod(found["soundness"].values())
    kin = kinship(text, _table()["kinship"]) if sound > 0 else 0.0
    everything = found["components"] | {"kinship": kin}
    return found | {"score": sound * combine(everything, weights("judged")), "components": everything}


def explain_lexical(text: str) -> dict[str, Any]:
    """What `explain` gives, by words and structure alone."""
    reading = Reading.of(text)
    found = components(reading) | {"order": order(reading.sentences, _places())}
    sound = soundness(reading)
    close = reading.synthesis[0]
    return {
        "score": math.prod(sound.values()) * combine(found, weights("lexical")),
        "sentences": [sentence.text for sentence in reading.sentences],
        "position": reading.position,
        "pushback": reading.pushback,
        "synthesis": [] if close is None else [close],
        "components": found,
        "soundness": sound,
        "version": VERSION,
    }


def combine(values: Mapping[str, float], named: Mapping[str, float]) -> float:
    """σ(bias + Σ weight · component). Every weight needs its component; KeyError names one that is missing."""
    z = sum(weight * (1.0 if name == "bias" else values[name]) for name, weight in named.items())
    return 1 / (1 + math.exp(-z))


def weights(name: str) -> Mapping[str, float]:
    """A set of weights of weights.json by its name, "bias" among them. Raises KeyError for an unknown set."""
    found: Mapping[str, float] = _table()[name]
    return found


def weights_hash() -> str:
    """Twelve hex digits that name the version, the weights and the word lists; recorded beside every score."""
    lists = {name: _plain(value) for name, value in vars(words).items() if name.isupper()}
    everything = json.dumps([VERSION, _table(), lists], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """A word list as JSON has it."""
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return sorted(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


@cache
def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return table


@cache
def _places() -> Places:
    return Places(**_table()["order"])
