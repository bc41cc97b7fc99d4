"""The `search:` block: its ranges, its bounds and its settings.

Knows neither the rest of the schema nor Optuna.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PlainSerializer, PlainValidator, field_validator

from phasegpt.config_types import Count, Part, Problems, refused

Scalar = float | int | str | bool | None
Value = Scalar | tuple[Scalar, ...]
"""A plain value, or one list of those: of a key whose value is a list, such as model.phase_layer_idx."""

Kind = Literal["uniform", "loguniform", "quniform", "randint", "choice", "grid"]

WRITTEN: dict[str, str] = {
    "uniform": "[low, high] with low < high",
    "loguniform": "[low, high] with 0 < low < high",
    "quniform": "[low, high, step] with low < high and 0 < step <= high - low",
    "randint": "[low, high], whole numbers with low < high, both included",
    "choice": "a list of one or more values, each a plain one or a list of plain ones",
    "grid": "a list of one or more values, each a plain one or a list of plain ones",
}
"""How each kind of range is written."""


@dataclass(frozen=True)
class Distribution:
    """Where a parameter's values come from.

    `values` by kind: uniform and loguniform (low, high); quniform (low, high, step); randint (low, high), both
    included; choice and grid the values themselves. A wrong shape is a ValueError.
    """

    kind: Kind
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.kind not in WRITTEN or not _fits(self.kind, self.values):
            raise ValueError(f"expected {self.kind}: {WRITTEN.get(self.kind)}, found {list(self.values)}")

    @classmethod
    def parse(cls, written: Any) -> Self:
        """`{loguniform: [0.01, 1.0]}` as a Distribution."""
        if isinstance(written, cls):
            return written
        if not isinstance(written, dict) or len(written) != 1 or not WRITTEN.keys() >= written.keys():
            raise ValueError(
                f"expected exactly one of {', '.join(WRITTEN)}, as in {{loguniform: [0.01, 1.0]}}, found {written!r}"
            )
        ((kind, values),) = written.items()
        if not isinstance(values, list | tuple):
            raise ValueError(f"expected {kind}: {WRITTEN[kind]}, found {values!r}")
        as_floats = kind in ("uniform", "loguniform", "quniform") and all(map(_is_number, values))
        frozen = (tuple(value) if isinstance(value, list) else value for value in values)
        return cls(kind, tuple(float(value) for value in values) if as_floats else tuple(frozen))

    def written(self) -> dict[str, list[Any]]:
        """The YAML form that `parse` reads."""
        return {self.kind: self.plain()}

    def plain(self) -> list[Any]:
        """The values as a config holds them: a list is a list."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]

    def edges(self) -> tuple[Any, ...]:
        """The values that must suit the key if all between them are to: both ends, or every choice."""
        return tuple(self.plain() if self.kind in ("choice", "grid") else self.values[:2])


def _fits(kind: str, values: tuple[Any, ...]) -> bool:
    if kind in ("choice", "grid"):
        return bool(values) and all(map(_is_plain, values))
    if not all(map(_is_number, values)) or len(values) != (3 if kind == "quniform" else 2) or values[0] >= values[1]:
        return False
    if kind == "randint":
        return all(isinstance(value, int) for value in values)
    if kind == "quniform":
        return bool(0 < values[2] <= values[1] - values[0])
    return kind == "uniform" or bool(values[0] > 0)


def _is_plain(value: Any) -> bool:
    """Whether a value is a scalar or one list of scalars."""
    members = value if isinstance(value, tuple) else (value,)
    return all(isinstance(member, get_args(Scalar)) for member in members)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        if not match or not _is_number(factor := _float(match[2])):
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


class Finalists(Part):
    """How many of the best run again, on how many fresh seeds each."""

    count: Count = 2
    seeds: Count = 2


class Search(Part):
    """What a search looks for, where, and how long."""

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
        if self.sampler == "grid" and any(d.kind not in ("grid", "choice") for d in self.parameters.values()):
            yield "sampler", "grid needs every parameter to be a grid or a choice"
