"""What a model came to on given terms: its rows, and the numbers they add up to. Plain values; imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phasegpt.metrics.declared import DECLARED, Direction

if TYPE_CHECKING:
    from phasegpt.evaluate import Row


@dataclass(frozen=True)
class Judged:
    """One model on the terms: a row a prompt (`answers`) and a pair (`pairs`), and its perplexity where it was wanted.

    `stored` names the parts that were read from the result of its run and not run again; `better` says of the user's
    own metrics which way is better, where they say it.
    """

    address: str
    base_model: str
    answers: tuple["Row", ...] = ()
    pairs: tuple["Row", ...] = ()
    perplexity: float | None = None
    stored: tuple[str, ...] = ()
    better: Mapping[str, Direction] = field(default_factory=dict)

    def scores(self, metric: str) -> dict[str, float]:
        """{prompt or pair id: value}; empty for a metric without rows."""
        rows = (*self.answers, *self.pairs)
        return {str(row["id"]): float(row[metric]) for row in rows if metric in row}

    @property
    def summary(self) -> dict[str, float]:
        """{metric: mean over its prompts or pairs}, in the order of the rows."""
        names = [n for row in (*self.answers, *self.pairs) for n, value in row.items() if not isinstance(value, str)]
        means = {name: _mean(list(self.scores(name).values())) for name in dict.fromkeys(names)}
        return means if self.perplexity is None else {**means, "perplexity": self.perplexity}

    def direction(self, metric: str) -> Direction | None:
        """Which way a metric is better; None where a metric of the user's own does not say it."""
        return DECLARED[metric].better if metric in DECLARED else self.better.get(metric)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
