"""How far the text metrics can be believed, on texts that no weight was fitted on.

Which kind of judge to take was decided with earlier figures of these texts in view (docs/metrics.md tells which).

Held out are the artistic pairs and the hand-written cases of tests/phasegpt/metrics/cases/, among them answers of
SmolLM2 that were labelled by hand before anything scored them. AUC is the chance that a text of set A scores above one
of set B (ties count half), with a 95 % interval from 1,000 bootstrap resamples of both sets (seed 0); *in order* is the
share of texts that score above their own counterpart. Two baselines stand beside the scores: length in words, and the
count of marker words. Some minutes on two cores: `python tests/benchmarks/metric_validation.py`; docs/metrics.md quotes
what it prints.
"""

import json
import random
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from phasegpt import shortcuts
from phasegpt.metrics.damage import shuffled
from phasegpt.metrics.spiral import spiral_lexical, spiral_score
from phasegpt.metrics.subtlety import subtlety
from phasegpt.metrics.words import MARKERS, words_of
from phasegpt.pairs import SUBTLETIES, Pair, read_pairs

ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "data" / "preferences_v14_100pairs.jsonl"
OTHER_PAIRS = ROOT / "data" / "preferences_v13_10pairs.jsonl"
CASES = ROOT / "tests" / "phasegpt" / "metrics" / "cases"
DOMAINS = ("philosophy", "science", "social", "artistic")
HELD_OUT = "artistic"
FLAT = ("flat", "list", "hedged")
CONDITIONS = ("plain", "both", "shown", "asked", "tuned", "overtuned", "turns", "more")
RESAMPLES = 1000
SEED = 0

Score = Callable[[str], float]


def words(text: str) -> float:
    """How long a text is."""
    return float(len(words_of(text)))


def letters_a_word(text: str) -> float:
    """How long its words are."""
    return fmean(map(len, words_of(text)))


def markers(text: str) -> float:
    """How many marker words it holds."""
    return float(sum(word in MARKERS for word in words_of(text)))


SCORES: Mapping[str, Score] = {
    "spiral_score": cache(spiral_score),
    "spiral_lexical": cache(spiral_lexical),
    "length": words,
    "markers": markers,
}


def auc(a: Sequence[float], b: Sequence[float]) -> float:
    """The chance that a value of `a` lies above one of `b`; ties count half."""
    found = shortcuts.auc(a, b)
    if found is None:
        raise ValueError("an AUC needs scores on both sides, found none on one")
    return found.value


def interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the AUC, both sets resampled."""
    draw = random.Random(SEED)  # noqa: S311 - statistics, not secrets
    found = sorted(auc(draw.choices(a, k=len(a)), draw.choices(b, k=len(b))) for _ in range(RESAMPLES))
    return found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1]


def in_order(a: Sequence[float], b: Sequence[float]) -> float:
    """The share of values above their own counterpart."""
    return fmean(0.5 if x == y else float(x > y) for x, y in zip(a, b, strict=True))


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank."""
    a, b = _ranks(xs), _ranks(ys)
    mean_a, mean_b = fmean(a), fmean(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return float(covariance / spread**0.5)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]


def cases(name: str) -> list[dict[str, Any]]:
    """The rows of one file of hand-written cases."""
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def held_out_pairs() -> list[Pair]:
    """The artistic pairs of both files: 27 and 2."""
    return [p for file in (PAIRS, OTHER_PAIRS) for p in read_pairs(file, DOMAINS) if p.domain == HELD_OUT]


def movement() -> list[dict[str, str]]:
    """24 topics outside the four domains, each with a text of every kind."""
    return cases("movement_1") + cases("movement_2")


def genuine() -> list[str]:
    """Every held-out text that moves: 29 chosen answers and 72 cases."""
    return [p.chosen for p in held_out_pairs()] + [row[level] for row in movement() for level in SUBTLETIES]


def row(name: str, a: Sequence[str], b: Sequence[str]) -> str:
    """One line of the table: each score's AUC of texts `a` over texts `b`, with intervals for the two that are ours."""
    cells = []
    for score_name, score in SCORES.items():
        x, y = [*map(score, a)], [*map(score, b)]
        low_high = " [{:.2f}, {:.2f}]".format(*interval(x, y)) if score_name.startswith("spiral") else ""
        cells.append(f"{auc(x, y):.2f}{low_high}")
    score = SCORES["spiral_score"]
    means = f"{fmean(map(score, a)):.2f}  {fmean(map(score, b)):.2f}"
    return f"{name:44} {len(a):3} {len(b):4}  {cells[0]:17}  {cells[1]:17}  {cells[2]:>6}  {cells[3]:>7}  {means}"


HEAD = f"{'A over B':44} {'n A':>3} {'n B':>4}  {'spiral_score':17}  {'spiral_lexical':17}  length  markers  mean A, B"


def pair_rows(pairs: Sequence[Pair], name: str) -> Iterator[str]:
    """Chosen over rejected, all and by level."""
    yield row(name, [p.chosen for p in pairs], [p.rejected for p in pairs])
    for level in SUBTLETIES:
        of_level = [p for p in pairs if p.subtlety == level]
        yield row(f"  {level}", [p.chosen for p in of_level], [p.rejected for p in of_level])


def case_rows() -> Iterator[str]:
    """Hand-written texts that move over those that do not, by level and by kind."""
    flat = [text[kind] for text in movement() for kind in FLAT]
    yield row("cases: moving over flat, list, hedged", [t[level] for t in movement() for level in SUBTLETIES], flat)
    for level in SUBTLETIES:
        yield row(f"  {level}", [text[level] for text in movement()], flat)
    for kind in FLAT:
        moving = [text[level] for text in movement() for level in SUBTLETIES]
        yield row(f"  all levels over {kind}", moving, [text[kind] for text in movement()])


def broken_rows() -> Iterator[str]:
    """Genuine texts over those that only look or sound like movement."""
    for kind in ("stuffed", "repeated", "nonsense", "tiny"):
        yield row(f"genuine over {kind}", genuine(), [text["text"] for text in cases("broken") if text["kind"] == kind])


def paired_rows() -> Iterator[str]:
    """How often a text scores above its own counterpart, for both scores, with the mean difference of the first."""
    lengths = cases("length")
    short_long = {kind: [t for t in lengths if t["kind"] == kind] for kind in ("dialectical", "flat")}
    sets = {
        "a text over itself shuffled, five times": (
            [text for text in genuine() for _ in range(5)],
            [shuffled(text, seed) for text in genuine() for seed in range(5)],
        ),
        "a flat text over itself with a stray marker": _columns(cases("stray"), "flat", "stray"),
        "an end of both sides over an end of one side": _ends("both", "one_side"),
        "an end of both sides over a foreign end": _ends("both", "foreign"),
        "a dialectical text over its short version": _columns(short_long["dialectical"], "long", "short"),
        "a flat text over its short version": _columns(short_long["flat"], "long", "short"),
    }
    for name, (a, b) in sets.items():
        found = [([*map(SCORES[n], a)], [*map(SCORES[n], b)]) for n in ("spiral_score", "spiral_lexical")]
        gaps = [x - y for x, y in zip(*found[0], strict=True)]
        shares = "  ".join(f"{in_order(x, y):17.2f}" for x, y in found)
        spread = f"mean gap {fmean(gaps):+.3f}, from {min(gaps):+.2f} to {max(gaps):+.2f}"
        yield f"{name:44} {len(a):3}       {shares}  {spread}"


def _columns(rows: Sequence[Mapping[str, str]], a: str, b: str) -> tuple[list[str], list[str]]:
    return [text[a] for text in rows], [text[b] for text in rows]


def _ends(a: str, b: str) -> tuple[list[str], list[str]]:
    rows = cases("synthesis")
    return [f"{t['opening']} {t[a]}" for t in rows], [f"{t['opening']} {t[b]}" for t in rows]


def model_rows() -> Iterator[str]:
    """Answers of SmolLM2: those that a reader found to move over the others, and the mean score by condition."""
    answers = cases("smollm2")
    yield row(
        "SmolLM2: moves over does not",
        [a["answer"] for a in answers if a["moves"]],
        [a["answer"] for a in answers if not a["moves"]],
    )
    contrast = [a["answer"] for a in answers if min(a["labels"]) >= 1]
    yield row("SmolLM2: contrast or more over none", contrast, [a["answer"] for a in answers if max(a["labels"]) < 1])
    for condition in CONDITIONS:
        own = [a for a in answers if a["condition"] == condition]
        means = [fmean(SCORES[name](a["answer"]) for a in own) for name in ("spiral_score", "spiral_lexical")]
        moving = sum(a["moves"] for a in own)
        yield f"  {condition:42} {moving:3} {len(own) - moving:4}  {means[0]:17.2f}  {means[1]:17.2f}  (mean scores)"


def subtlety_rows() -> Iterator[str]:
    """Whether subtlety puts explicit below moderate below implicit, on texts that move."""
    chosen = [(SUBTLETIES.index(p.subtlety), p.chosen) for p in held_out_pairs() if p.subtlety]
    written = [(SUBTLETIES.index(level), text[level]) for text in movement() for level in SUBTLETIES]
    for name, texts in (("artistic chosen answers", chosen), ("cases", written)):
        found = [subtlety(text) for _, text in texts]
        means = {
            level: fmean(v for v, (i, _) in zip(found, texts, strict=True) if SUBTLETIES[i] == level)
            for level in SUBTLETIES
        }
        shown = ", ".join(f"{level} {mean:.2f}" for level, mean in means.items())
        yield f"subtlety: {name:34} {len(texts):3}       Spearman {spearman([i for i, _ in texts], found):.2f}; {shown}"
    flat = [text[kind] for text in movement() for kind in FLAT]
    yield f"subtlety: flat, list and hedged cases       {len(flat):4}       mean {fmean(map(subtlety, flat)):.2f}"


def blocks() -> Iterator[tuple[str, Iterator[str]]]:
    """The table's parts: a heading and its rows."""
    fitted = [p for p in read_pairs(PAIRS, DOMAINS) if p.domain != HELD_OUT]
    yield "Held out", pair_rows(held_out_pairs(), "artistic: chosen over rejected")
    yield "", case_rows()
    yield "", broken_rows()
    yield "A text and its counterpart: share in order", paired_rows()
    yield "Answers of a small model", model_rows()
    yield "Subtlety", subtlety_rows()
    yield "Not held out: the weights were fitted on these", pair_rows(fitted, "chosen over rejected")


def table() -> str:
    """The whole table."""
    parts = [HEAD]
    for heading, rows in blocks():
        sys.stderr.write(f"{heading or '...'}\n")
        parts.append("\n".join([*([heading] if heading else []), *rows]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(table())
