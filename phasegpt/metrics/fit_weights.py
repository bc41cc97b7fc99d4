"""Fit the Spiral Score: `python -m phasegpt.metrics.fit_weights` writes weights.json. Deterministic; a minute or two.

1. The places (`order.Places`): three conditional logits with ridge (McFadden 1974: which of a text's own sentences
   opens it, ends it, comes next), on all answers of the training domains.
2. The combination: logistic regression with ridge and weights >= 0 on chosen (1) and rejected (0) answers, on answers
   of a small model labelled by hand, on flat answers stuffed with markers or turns and on glued nonsense (0), and on
   comparisons of good answers with damaged copies of themselves; the bias then on chosen and rejected answers alone.
   The order of an answer is read with places fitted without it, so that it is not flattered.
3. The same with the judge: the direction of `kinship` (on answers, stuffed flat ones and glued nonsense), then a
   combination that has it as one more component, read with a direction fitted without the answer's fold.

The domain on which the metric is validated is refused by name.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasegpt.files import write_text
from phasegpt.metrics.components import VERSION, Reading, components
from phasegpt.metrics.damage import MARKER_OPENINGS, TURN_OPENINGS, glued, shuffled, stuffed, with_foreign_ends
from phasegpt.metrics.kinship import Example, Vectors, chance, fit_direction
from phasegpt.metrics.order import Cues, Places, is_complete, next_cues, order, place_cues
from phasegpt.metrics.words import sentences_of

HELD_OUT = "artistic"
DOMAINS = ("philosophy", "science", "social")
PAIR_FILES = ("data/preferences_v14_100pairs.jsonl", "data/preferences_v13_10pairs.jsonl")
ANSWER_FILE = "data/spiral_fit_answers.jsonl"
WEIGHT_FILE = Path(__file__).with_name("weights.json")
MOVES_FROM = 2  # labels 0 to 3 of the hand-labelled answers: from here on an answer moves
RIDGE_PLACES = 2.0
RIDGE = 0.1
RARE = 8  # a cue that fewer texts have gets no weight
FOLDS = 5
FOREIGN_END, LABELLED, LABELLED_MOVES = 1.0, 0.3, 0.9  # weights beside a chosen or rejected answer's 1
SHUFFLES = 3
MOVES_BY_LABEL = (0.0, 0.3, 0.8, 1.0)  # how far a hand-labelled answer moves, where kinship is fitted
STUFFED_KIN, GLUED_KIN = 0.5, 1.0  # weights there

Read = Callable[[str], Mapping[str, float]]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Spoiled:
    """How much damaged texts of a kind weigh in a combination beside a chosen or rejected answer."""

    shuffled: float
    stuffed: float
    glued: float


BY_WORDS = Spoiled(3.0, 0.2, 0.3)  # more costs chosen over rejected: 0.84 where shuffles were plain negatives
JUDGED = Spoiled(6.0, 1.0, 1.0)  # with kinship there is room: 0.974, not 0.981, for shuffles 0.787 and glued 0.905


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer."""

    chosen: str
    rejected: str


@dataclass(frozen=True)
class Labelled:
    """An answer of a small model and its label, 0 to 3."""

    text: str
    label: int

    @property
    def moves(self) -> bool:
        """Whether it counts as movement."""
        return self.label >= MOVES_FROM


@dataclass(frozen=True)
class Material:
    """All that the weights are fitted on."""

    pairs: tuple[Pair, ...]
    answers: tuple[Labelled, ...]

    @classmethod
    def read(cls, root: Path, domains: Sequence[str] = DOMAINS) -> "Material":
        """The pairs and answers of the domains under a project root. Raises ValueError for the held-out domain."""
        if HELD_OUT in domains:
            raise ValueError(f"domain {HELD_OUT!r} is held out to validate the metric; leave it out of {list(domains)}")
        pairs = [row for name in PAIR_FILES for row in _rows(root / name) if row["domain"] in domains]
        answers = [row for row in _rows(root / ANSWER_FILE) if row["domain"] in domains]
        return cls(
            tuple(Pair(row["chosen"], row["rejected"]) for row in pairs),
            tuple(Labelled(row["answer"], row["label"]) for row in answers),
        )

    def texts(self, without_fold: int | None = None) -> list[str]:
        """All answers in their true order of sentences; those of one fold of pairs may be left out."""
        kept = [pair for i, pair in enumerate(self.pairs) if i % FOLDS != without_fold]
        return [text for pair in kept for text in (pair.chosen, pair.rejected)] + [a.text for a in self.answers]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


@dataclass(frozen=True)
class Row:
    """One line of evidence for the combination, of weight `weight`.

    A text with its label (`against` is None), or two versions of one text of which the first must score higher: only
    the difference of their components counts then, so that damage done to good answers teaches nothing but the damage.
    """

    components: Mapping[str, float]
    label: int
    weight: float
    against: Mapping[str, float] | None = None

    def vector(self, names: Sequence[str]) -> list[float]:
        """The constant (1 for a text, 0 for a comparison) and the components or their differences."""
        if self.against is None:
            return [1.0, *(self.components[name] for name in names)]
        return [0.0, *(self.components[name] - self.against[name] for name in names)]


def fit(material: Material) -> dict[str, Any]:
    """The lexical weights: `lexical` (bias and components) and `order` (first, last, next)."""
    places = fit_places(material.texts())
    by_fold = [_reader(fit_places(material.texts(without_fold=fold))) for fold in range(FOLDS)]
    lexical = _combination(material, by_fold, _reader(places), BY_WORDS)
    return {"lexical": lexical, "order": {"first": places.first, "last": places.last, "next": places.next}}


def fit_judged(material: Material, vectors: Vectors) -> dict[str, Any]:
    """The weights of the judged score: `kinship` (bias and direction) and `judged` (bias and components)."""
    whole, *folds = ([*_kin(material, vectors, without)] for without in (None, *range(FOLDS)))
    places = fit_places(material.texts())
    by_fold = [
        _reader(fit_places(material.texts(without_fold=fold)), fit_direction(kin), vectors)
        for fold, kin in enumerate(folds)
    ]
    answers_too = _reader(places, fit_direction(folds[0]), vectors)
    return {"kinship": fit_direction(whole), "judged": _combination(material, by_fold, answers_too, JUDGED)}


def _reader(places: Places, kin: Mapping[str, Any] | None = None, vectors: Vectors | None = None) -> Read:
    """How a text becomes components: by words, and by the judge where a direction is given."""
    if kin is None or vectors is None:
        return lambda text: read(text, places)
    return lambda text: read(text, places) | {"kinship": chance(vectors(text), kin["bias"], kin["direction"])}


def _kin(material: Material, vectors: Vectors, without_fold: int | None) -> Iterator[Example]:
    """What the direction is fitted on; one fold of pairs and of answers may be left out."""
    texts = material.texts()[: 2 * len(material.pairs)]
    for i, pair in enumerate(material.pairs):
        if i % FOLDS == without_fold:
            continue
        yield Example(vectors(pair.chosen), 1.0, 1.0)
        yield Example(vectors(pair.rejected), 0.0, 1.0)
        for place, openings in enumerate((TURN_OPENINGS, MARKER_OPENINGS)):
            yield Example(vectors(stuffed(pair.rejected, openings, 1 + (i + place) % 3)), 0.0, STUFFED_KIN)
        yield Example(vectors(glued(texts, seed=i)), 0.0, GLUED_KIN)
    for i, answer in enumerate(material.answers):
        if i % FOLDS != without_fold:
            yield Example(vectors(answer.text), MOVES_BY_LABEL[answer.label], 1.0)


def _combination(material: Material, by_fold: Sequence[Read], reader: Read, spoiled: Spoiled) -> dict[str, float]:
    whole = list(_pair_rows(material.pairs, by_fold))
    others = [*_damage_rows(material.pairs, by_fold, spoiled), *_answer_rows(material.answers, reader)]
    return calibrated(fit_combination([*whole, *others]), whole)


def _pair_rows(pairs: Sequence[Pair], by_fold: Sequence[Read]) -> Iterator[Row]:
    """Chosen and rejected answers, each read by the reader of its fold."""
    for i, pair in enumerate(pairs):
        yield Row(by_fold[i % FOLDS](pair.chosen), 1, 1.0)
        yield Row(by_fold[i % FOLDS](pair.rejected), 0, 1.0)


def _damage_rows(pairs: Sequence[Pair], by_fold: Sequence[Read], weights: Spoiled) -> Iterator[Row]:
    """What damage makes of the answers: good ones against themselves, flat ones and nonsense as not moving."""
    ends = with_foreign_ends([pair.chosen for pair in pairs])
    chosen = [pair.chosen for pair in pairs]
    for i, (pair, foreign) in enumerate(zip(pairs, ends, strict=True)):
        of_fold = by_fold[i % FOLDS]
        good = of_fold(pair.chosen)
        yield Row(good, 1, FOREIGN_END, of_fold(foreign))
        for seed in range(SHUFFLES):
            yield Row(good, 1, weights.shuffled / SHUFFLES, of_fold(shuffled(pair.chosen, seed)))
        for openings in (TURN_OPENINGS, MARKER_OPENINGS):
            yield Row(of_fold(stuffed(pair.rejected, openings, every=3)), 0, weights.stuffed)
        yield Row(of_fold(glued(chosen, seed=i)), 0, weights.glued)


def _answer_rows(answers: Sequence[Labelled], reader: Read) -> Iterator[Row]:
    for answer in answers:
        yield Row(reader(answer.text), int(answer.moves), LABELLED_MOVES if answer.moves else LABELLED)


def read(text: str, places: Places) -> dict[str, float]:
    """All lexical components of a text."""
    reading = Reading.of(text)
    return components(reading) | {"order": order(reading.sentences, places)}


def fit_places(texts: Sequence[str]) -> Places:
    """The weights of the cues for the opening, the last and the next sentence, from texts in their true order."""
    cut = [sentences for sentences in map(sentences_of, texts) if len(sentences) >= 3]
    places = [place_cues(sentences) for sentences in cut]
    following = [choice for sentences in cut for choice in next_cues(sentences)]
    frequent = {word for word, count in _document_counts(places).items() if count >= RARE}
    return Places(
        first=_conditional_logit(places, frequent),
        last=_conditional_logit([place_cues(s)[::-1] for s in cut if is_complete(s)], frequent),
        next=_conditional_logit(following, {cue for choice in following for cues in choice for cue in cues}),
    )


def _document_counts(places: Sequence[Sequence[Cues]]) -> Counter[str]:
    return Counter(cue for cues in places for cue in {name for sentence in cues for name in sentence})


def _conditional_logit(choices: Sequence[Sequence[Cues]], names: set[str]) -> dict[str, float]:
    """Weights of the named cues that make the first of each choice likeliest; ridge; Newton's method."""
    columns = {name: i for i, name in enumerate(sorted(names))}
    table = np.array([_row(cues, columns) for choice in choices for cues in choice])
    starts = np.cumsum([0, *map(len, choices)])[:-1]
    sizes = [len(choice) for choice in choices]
    weights = np.zeros(len(columns))
    for _ in range(30):
        powers = np.exp(table @ weights)
        shares = (powers / np.repeat(np.add.reduceat(powers, starts), sizes))[:, None]
        means = np.add.reduceat(shares * table, starts)
        gradient = (table[starts] - means).sum(axis=0) - RIDGE_PLACES * weights
        curvature = (shares * table).T @ table - means.T @ means + RIDGE_PLACES * np.eye(len(columns))
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-10:
            break
    return {name: round(float(weights[i]), 4) for name, i in columns.items()}


def _row(cues: Cues, columns: Mapping[str, int]) -> Vector:
    row = np.zeros(len(columns))
    for name, value in cues.items():
        if name in columns:
            row[columns[name]] = value
    return row


def fit_combination(rows: Sequence[Row]) -> dict[str, float]:
    """Bias and weights >= 0 of a logistic regression with ridge, one weight at a time by Newton's step."""
    names = list(rows[0].components)
    table = np.array([row.vector(names) for row in rows])
    label = np.array([row.label for row in rows], float)
    weight = np.array([row.weight for row in rows])
    ridge = np.array([0.0, *[RIDGE] * len(names)])
    beta = np.zeros(len(names) + 1)
    for _ in range(5000):
        before = beta.copy()
        for j in range(len(beta)):
            chance = 1 / (1 + np.exp(-table @ beta))
            slope = table[:, j] @ (weight * (label - chance)) - ridge[j] * beta[j]
            beta[j] += slope / (table[:, j] ** 2 @ (weight * chance * (1 - chance)) + ridge[j])
            beta[j] = beta[j] if j == 0 else max(0.0, beta[j])
        if np.abs(beta - before).max() < 1e-9:
            break
    return {name: round(float(value), 4) for name, value in zip(["bias", *names], beta, strict=True)}


def calibrated(weights: Mapping[str, float], rows: Sequence[Row]) -> dict[str, float]:
    """The weights with the bias at which, over these rows, the scores add up to the labels (by halving)."""
    names = [name for name in weights if name != "bias"]
    z = np.array([sum(weights[name] * row.components[name] for name in names) for row in rows])
    wanted, low, high = sum(row.label for row in rows), -50.0, 50.0
    for _ in range(60):
        bias = (low + high) / 2
        low, high = (low, bias) if np.sum(1 / (1 + np.exp(-z - bias))) > wanted else (bias, high)
    return {**weights, "bias": round(high, 4)}


def table(root: Path, vectors: Vectors | None = None) -> dict[str, Any]:
    """All of weights.json as it follows from the files under a project root; without vectors its lexical part."""
    material = Material.read(root)
    files = (*PAIR_FILES, ANSWER_FILE)
    fitted_on = {
        "domains": list(DOMAINS),
        "pairs": len(material.pairs),
        "answers": len(material.answers),
        "answers_that_move": sum(answer.moves for answer in material.answers),
        "sha256": {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files},
    }
    judged = {} if vectors is None else fit_judged(material, vectors)
    return {"version": VERSION, "fitted_on": fitted_on, **fit(material), **judged}


def judged_vectors() -> Vectors:
    """The bundled model's vectors, each text read once, with a count of them on the terminal."""
    from phasegpt.metrics.judge import judge

    known: dict[str, Vector] = {}

    def vector(text: str) -> Vector:
        if text not in known:
            known[text] = judge().vector(text)
            sys.stderr.write(f"\r{len(known)} texts read")
        return known[text]

    return vector


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description="Fit the weights of the Spiral Score and write weights.json.")
    parser.add_argument("--root", type=Path, default=Path(), help="the project root (default: here)")
    parser.add_argument("--out", type=Path, default=WEIGHT_FILE, help="where to write (default: the package's own)")
    given = parser.parse_args()
    made = table(given.root, judged_vectors())
    write_text(given.out, json.dumps(made, indent=1, sort_keys=False) + "\n")


if __name__ == "__main__":
    main()
