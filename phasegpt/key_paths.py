"""Key paths ("training.beta" and its parts) and nested plain values addressed by them."""

from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]

OPEN_SECTIONS = (("search", "objectives"), ("search", "constraints"), ("search", "parameters"))
"""Sections whose keys are names that may hold dots themselves."""


def split(key: str) -> KeyPath:
    """The parts of a key: training.beta has two; search.parameters.training.beta has three, the last training.beta."""
    parts = key.split(".", 2)
    return tuple(parts if tuple(parts[:2]) in OPEN_SECTIONS else key.split("."))


def show(path: KeyPath) -> str:
    """A path as users write it: ("training", "stages", 0, "name") -> training.stages[0].name."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def get(values: Mapping[str, Any], path: KeyPath) -> Any:
    """The value at `path`, or None when there is none."""
    found: Any = values
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def lay(values: dict[Any, Any], path: KeyPath, value: Any) -> None:
    """Set the value at `path` in place; sections on the way are made, and replace what is no section."""
    for part in path[:-1]:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[path[-1]] = value


def drop(values: dict[Any, Any], path: KeyPath) -> None:
    """Remove in place what lies at `path`, or else the nearest section or list around it, and sections left empty."""
    inner = values.get(path[0])
    if len(path) > 1 and isinstance(inner, dict) and path[1] in inner:
        drop(inner, path[1:])
        if inner:
            return
    values.pop(path[0], None)


def leaves(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every (path, value) below `values`; a range of search.parameters is one value."""
    for key, value in values.items():
        child = (*path, key)
        if isinstance(value, Mapping) and path != ("search", "parameters"):
            yield from leaves(value, child)
        else:
            yield child, value
