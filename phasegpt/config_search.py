"""The `search:` block: its bounds and its settings; what a range looks like stands in `config_ranges`.

Knows neither the rest of the schema nor Optuna.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, field_validator

from phasegpt.config_ranges import LISTED, Distribution
from phasegpt.config_types import Count, Part, Positive, Problems, refused


@dataclass(frozen=True)
class Constraint:
    """A bound that a trial's metric must keep.

    `op` is "<=" or ">="; the limit is `factor` itself, or `factor` times the untuned model's value when `relative`.
    """

    metric: str
    op: Literal["<=", ">="]
    factor: float
    relative: bool

    @classmethod
    def parse(cls, metric: str, text: Any) -> Self:
        """`<= 2.0` or `<= 1.05 * baseline` as a Constraint; anything else is a ValueError."""
        match = re.fullmatch(r"\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\*\s*baseline)?\s*", str(text))
        if not match or not math.isfinite(factor := _float(match[2])):
            raise ValueError(f'expected text like "<= 2.0" or "<= 1.05 * baseline", found {text!r}')
        return cls(metric, "<=" if match[1] == "<=" else ">=", factor, bool(match[3]))

    def __str__(self) -> str:
        return f"{self.op} {self.factor}{' * baseline' if self.relative else ''}"

    def limit(self, baseline_value: float) -> float:
        """The number to keep to; `baseline_value` (the untuned model's metric) counts only when relative."""
        return self.factor * baseline_value if self.relative else self.factor

    def violation(self, value: float, baseline: float) -> float:
        """How far `value` lies beyond the limit, in the metric's unit: positive is violated, zero or less is kept.

        A NaN on either side counts as violated without bound.
        """
        beyond = value - self.limit(baseline) if self.op == "<=" else self.limit(baseline) - value
        return math.inf if math.isnan(beyond) else beyond


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


Keep = Literal["finalists", "all"]


class Finalists(Part):
    """How many of the best run again, on how many fresh seeds each."""

    count: Count = 2
    seeds: Count = 2


class Search(Part):
    """What a search looks for, where, how long, and what it keeps of its checkpoints.

    `weights` belong to `pick: weights`, one for each objective.
    """

    objectives: dict[str, Literal["max", "min"]] = Field(default={"spiral_score": "max"}, min_length=1)
    constraints: dict[str, Annotated[Constraint, PlainSerializer(str)]] = Field(default={})
    parameters: dict[
        str, Annotated[Distribution, PlainValidator(Distribution.parse), PlainSerializer(Distribution.written)]
    ] = Field(default={})
    sampler: Literal["tpe", "random", "grid", "nsga2"] = "tpe"
    scheduler: Literal["asha", "halving", "none"] = "none"
    trials: Count = 8
    max_concurrent: Count | None = None
    finalists: Finalists = Finalists()
    pick: Literal["knee", "lexicographic", "weights"] = "lexicographic"
    weights: dict[str, Positive] = Field(default={})
    keep: Keep = "finalists"

    @field_validator("constraints", mode="before")
    @classmethod
    def _parse_constraints(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        parsed, problems = dict(value), []
        for metric, text in value.items():
            try:
                parsed[metric] = text if isinstance(text, Constraint) else Constraint.parse(metric, text)
            except ValueError as error:
                problems.append((metric, str(error)))
        if problems:
            raise refused("constraints", problems)
        return parsed

    def problems(self) -> Problems:
        if self.sampler == "grid" and self.parameters and not any(d.grid() for d in self.parameters.values()):
            yield (
                "sampler",
                "grid needs a parameter with points: a grid, a choice, or a range with grid: [...] beside it",
            )
        if self.pick == "weights" and self.weights.keys() != self.objectives.keys():
            yield "weights", f"pick: weights needs a weight for each of {', '.join(self.objectives)} and nothing else"
        elif self.pick != "weights" and self.weights:
            yield "weights", f"unused with pick: {self.pick}; take pick: weights or leave them out"
        for key, distribution in self.parameters.items():
            yield from self._condition_problems(key, distribution)

    def _condition_problems(self, key: str, distribution: Distribution) -> Problems:
        for other, values in distribution.when.items():
            switch = self.parameters.get(other)
            if switch is None or switch.kind not in LISTED or switch.when:
                yield (
                    ("parameters", key),
                    f"when: {other} has to be searched itself, as a choice without a condition; "
                    f"if its value is fixed, leave the condition out",
                )
            elif unknown := [value for value in values if value not in switch.values]:
                yield ("parameters", key), f"when: {other} never takes {unknown[0]!r}; it takes {switch.plain()}"
