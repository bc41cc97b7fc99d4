"""Where the values of a searched parameter come from: one entry of `search.parameters`.

Knows neither the rest of the schema nor Optuna.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

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

LISTED = ("choice", "grid")
OR, WHEN, GRID = "or", "when", "grid"


@dataclass(frozen=True)
class Distribution:
    """Where a parameter's values come from.

    `values` by kind: uniform and loguniform (low, high); quniform (low, high, step); randint (low, high), both
    included; choice and grid the values themselves. `also` are single values beside a range, such as 0 beside a range
    of logarithms. `points` are what `--sampler grid` takes of a range. `when` maps other searched keys to the values
    under which this parameter is searched; elsewhere the key keeps the config's own. A wrong shape is a ValueError.
    """

    kind: Kind
    values: tuple[Value, ...]
    also: tuple[Value, ...] = ()
    points: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in WRITTEN or not _fits(self.kind, self.values):
            raise ValueError(f"expected {self.kind}: {WRITTEN.get(self.kind)}, found {list(self.values)}")
        if self.kind in LISTED and (self.also or self.points):
            raise ValueError(f"{OR} and {GRID} stand beside a range; add the values to {self.kind}")
        for name, extra in ((OR, self.also), (GRID, self.points)):
            if not all(map(_is_plain, extra)):
                raise ValueError(f"expected {name}: {WRITTEN[GRID]}, found {list(extra)}")

    @classmethod
    def parse(cls, written: Any) -> Self:
        """`{loguniform: [0.01, 1.0]}`, perhaps with `or`, `grid` and `when` beside it, as a Distribution."""
        if isinstance(written, cls):
            return written
        kind = _kind_of(written)
        values, also = _frozen(kind, written[kind]), _frozen(OR, written.get(OR, []))
        points = _frozen(GRID, written.get(GRID, [])) if kind != GRID else ()
        as_floats = kind in ("uniform", "loguniform", "quniform") and all(map(_is_number, values))
        if as_floats:
            values = tuple(float(value) for value in values)  # type: ignore[arg-type]
        return cls(kind, values, also, points, _condition(written.get(WHEN, {})))

    def written(self) -> dict[str, Any]:
        """The YAML form that `parse` reads."""
        form: dict[str, Any] = {self.kind: self.plain()}
        form |= {name: _thawed(extra) for name, extra in ((OR, self.also), (GRID, self.points)) if extra}
        return form | ({WHEN: {key: _thawed(values) for key, values in self.when.items()}} if self.when else {})

    def plain(self) -> list[Any]:
        """The values as a config holds them: a list is a list."""
        return _thawed(self.values)

    def singles(self) -> list[Any]:
        """Every single value as a config holds it: all of a choice, or those beside a range."""
        return _thawed(self.values if self.kind in LISTED else self.also)

    def grid(self) -> list[Any]:
        """What `--sampler grid` takes: all of a choice, the points of a range; empty for a range without any."""
        return _thawed(self.values if self.kind in LISTED else self.points)

    def edges(self) -> tuple[Any, ...]:
        """The values that must suit the key if all between them are to: both ends, or every choice."""
        ends = () if self.kind in LISTED else self.values[:2]
        return (*ends, *self.singles(), *_thawed(self.points))


def in_order(parameters: Mapping[str, Distribution]) -> list[str]:
    """The keys of searched parameters, those that others depend on first."""
    return sorted(parameters, key=lambda key: bool(parameters[key].when))


def holds(distribution: Distribution, values: Mapping[str, Any]) -> bool:
    """Whether a parameter counts beside these values of the others."""
    return all(_frozen(WHEN, [values[key]])[0] in allowed for key, allowed in distribution.when.items())


def active(parameters: Mapping[str, Distribution], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a value for every parameter those that count, in the parameters' order."""
    return {key: values[key] for key, distribution in parameters.items() if holds(distribution, values)}


def _kind_of(written: Any) -> Kind:
    """The key that says the kind: the only one of the kinds, or the one beside `grid`."""
    kinds = [key for key in written if key in WRITTEN] if isinstance(written, dict) else []
    ranges = [key for key in kinds if key not in LISTED]
    found = ranges if len(ranges) == 1 and set(kinds) <= {ranges[0], GRID} else kinds
    if len(found) != 1 or not {*WRITTEN, OR, WHEN} >= written.keys():
        raise ValueError(
            f"expected exactly one of {', '.join(WRITTEN)}, as in {{loguniform: [0.01, 1.0]}}, perhaps with {OR}, "
            f"{WHEN} or, beside a range, {GRID}; found {written!r}"
        )
    kind: Kind = found[0]
    return kind


def _frozen(name: str, values: Any) -> tuple[Value, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"expected {name}: {WRITTEN.get(name, WRITTEN[GRID])}, found {values!r}")
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _thawed(values: tuple[Value, ...]) -> list[Any]:
    return [list(value) if isinstance(value, tuple) else value for value in values]


def _condition(written: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(written, dict):
        raise ValueError(f"expected {WHEN}: {{other searched key: value or list of values}}, found {written!r}")
    return {str(key): _frozen(WHEN, value if isinstance(value, list) else [value]) for key, value in written.items()}


def _fits(kind: str, values: tuple[Any, ...]) -> bool:
    if kind in LISTED:
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
