"""By how much a shortcut alone tells wanted answers from unwanted ones.

A shortcut is a feature that needs no reading: length, or which marker words (but, however, tension) occur. A model
learns a shortcut sooner than the thing meant. Strength is an AUC: the chance that a wanted answer scores above an
unwanted one, 0.5 where the shortcut tells nothing. Knows nothing of files and findings.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from phasegpt.metrics.words import MARKERS, words_of

FOLDS = 10


@dataclass(frozen=True)
class Answer:
    """One answer as the checks see it: whether it is wanted, its prompt, and where it stands."""

    line: int
    name: str
    prompt: str
    text: str
    wanted: bool
    subtlety: str | None = None


@dataclass(frozen=True)
class Auc:
    """The chance that a wanted answer scores above an unwanted one, and its standard error were there no difference.

    The error is that of the Mann-Whitney statistic: sqrt((a + b + 1) / (12 a b)) for a wanted and b unwanted answers.
    """

    value: float
    error: float

    def tells(self, bar: float) -> bool:
        """Whether it lies above `bar`, or as far below one half, by more than chance (two standard errors)."""
        distance = abs(self.value - 0.5)
        return distance > bar - 0.5 and distance > 2 * self.error


def auc(wanted: Sequence[float], unwanted: Sequence[float]) -> Auc | None:
    """The AUC of two sets of scores; ties count half. None where a set is empty."""
    if not wanted or not unwanted:
        return None
    ordered = sorted(unwanted)
    above = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in wanted)
    a, b = len(wanted), len(unwanted)
    return Auc(above / (2 * a * b), math.sqrt((a + b + 1) / (12 * a * b)))


def _auc_of(answers: Sequence[Answer], scores: Sequence[float]) -> Auc | None:
    both = list(zip(answers, scores, strict=True))
    return auc([s for answer, s in both if answer.wanted], [s for answer, s in both if not answer.wanted])


def words(text: str) -> int:
    """How many words a text has, cut at white space."""
    return len(text.split())


def length_auc(answers: Sequence[Answer]) -> Auc | None:
    """By how much length in words alone tells."""
    return _auc_of(answers, [words(answer.text) for answer in answers])


def marker_aucs(answers: Sequence[Answer]) -> dict[str, Auc]:
    """By how much the bag of marker words alone tells: in "all" answers, and in those of each subtlety.

    A naive Bayes model over which markers occur scores each answer, after training on the other nine tenths of the
    prompts, so either direction counts and nothing is scored by what it was trained on.
    """
    scores = marker_scores(answers)
    groups: dict[str, list[int]] = {"all": list(range(len(answers)))}
    for number, answer in enumerate(answers):
        if answer.subtlety is not None:
            groups.setdefault(answer.subtlety, []).append(number)
    found = {name: _auc_of([answers[i] for i in group], [scores[i] for i in group]) for name, group in groups.items()}
    return {name: value for name, value in found.items() if value is not None}


def marker_scores(answers: Sequence[Answer]) -> list[float]:
    """The log-odds that each answer is wanted, by its marker words, from a model that has not seen its prompt."""
    import numpy as np

    vocabulary = sorted(MARKERS)
    bags = [MARKERS.intersection(words_of(answer.text)) for answer in answers]
    has = np.array([[marker in bag for marker in vocabulary] for bag in bags], dtype=float).reshape(-1, len(vocabulary))
    wanted = np.array([answer.wanted for answer in answers], dtype=bool)
    folds = np.array(_folds([answer.prompt for answer in answers]))
    scores = np.zeros(len(answers))
    for fold in range(FOLDS):
        seen, held = folds != fold, folds == fold
        rates = [(has[seen & side].sum(0) + 1) / ((seen & side).sum() + 2) for side in (wanted, ~wanted)]
        present, absent = np.log(rates[0] / rates[1]), np.log((1 - rates[0]) / (1 - rates[1]))
        scores[held] = has[held] @ present + (1 - has[held]) @ absent
    return [float(score) for score in scores]


def _folds(prompts: Sequence[str]) -> list[int]:
    """The fold of each prompt; equal prompts share one."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return [numbers[prompt] % FOLDS for prompt in prompts]
