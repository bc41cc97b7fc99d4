"""Two judged models side by side: what B gains over A in each metric, how sure that is, and the answers themselves.

Pure functions of what was judged. The unit is the prompt, or the pair; intervals are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from phasegpt.judged import Judged
from phasegpt.metrics.declared import Direction
from phasegpt.statistics import Interval, Wins, paired_interval, paired_wins

Side = Literal["a", "b"]


@dataclass(frozen=True)
class Difference:
    """One metric of A and B on the same prompts or pairs: their means, and B − A with its paired interval.

    `wins` is how often B is better on the same prompt, in the metric's direction. Both are None for a metric that is
    one number, and where fewer than two prompts are shared.
    """

    metric: str
    better: Direction | None
    a: float
    b: float
    interval: Interval | None
    wins: Wins | None

    @property
    def mean(self) -> float:
        """B − A."""
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """What may be said: a side is better where the whole interval lies on its side of zero."""
        if self.interval is None:
            return "one number, no interval"
        if self.interval.low <= 0 <= self.interval.high:
            return "not distinguishable"
        if self.better is None:
            return "B is higher" if self.interval.low > 0 else "B is lower"
        return "B is better" if (self.interval.low > 0) == (self.better == "max") else "A is better"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "better": self.better,
            "difference": self.mean,
            "interval": None if self.interval is None else self.interval.as_dict(),
            "wins": None if self.wins is None else vars(self.wins),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class SideBySide:
    """A prompt with both answers and both scores in each metric of answers; `first` is the side that stands first."""

    id: str
    domain: str
    prompt: str
    a: str
    b: str
    scores: Mapping[str, tuple[float, float]]
    first: Side = "a"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same terms. `half` of the prompts; `notes` are sentences for the reader."""

    a: Judged
    b: Judged
    half: str
    differences: tuple[Difference, ...]
    prompts: tuple[SideBySide, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{name: _about(side) for name, side in (("a", self.a), ("b", self.b))},
            "half": self.half,
            "metrics": {difference.metric: difference.as_dict() for difference in self.differences},
            "prompts": [vars(prompt) for prompt in self.prompts],
            "notes": list(self.notes),
        }


def _about(side: Judged) -> dict[str, Any]:
    return {"address": side.address, "base_model": side.base_model, "stored": list(side.stored)}


def compare(a: Judged, b: Judged, half: str, notes: Sequence[str] = (), seed: int | None = None) -> Comparison:
    """Compare what was judged on the same terms. With a `seed`, A and B change places in every other prompt by draw."""
    shared = [name for name in a.summary if name in b.summary]
    prompts = _side_by_side(a, b, _first_sides(len(a.answers), seed))
    return Comparison(a, b, half, tuple(_difference(a, b, name) for name in shared), prompts, tuple(notes))


def _difference(a: Judged, b: Judged, metric: str) -> Difference:
    left, right, better = a.scores(metric), b.scores(metric), b.direction(metric)
    means = a.summary[metric], b.summary[metric]
    if len(left.keys() & right.keys()) < 2:
        return Difference(metric, better, *means, None, None)
    wins = paired_wins([left], [right]) if better == "min" else paired_wins([right], [left])
    return Difference(metric, better, *means, paired_interval([right], [left]), wins)


def _first_sides(count: int, seed: int | None) -> list[Side]:
    """Which side stands first in each of `count` prompts: A everywhere, or by draw B in half of them."""
    if seed is None:
        return ["a"] * count
    places = np.random.default_rng(seed).permutation(count)
    return ["b" if place < count // 2 else "a" for place in places]


def _side_by_side(a: Judged, b: Judged, first: Sequence[Side]) -> tuple[SideBySide, ...]:
    return tuple(
        SideBySide(
            id=str(ours["id"]),
            domain=str(ours["domain"]),
            prompt=str(ours["prompt"]),
            a=str(ours["answer"]),
            b=str(theirs["answer"]),
            scores={n: (float(v), float(theirs[n])) for n, v in ours.items() if not isinstance(v, str)},
            first=side,
        )
        for ours, theirs, side in zip(a.answers, b.answers, first, strict=True)
    )
