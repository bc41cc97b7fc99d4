"""What is wrong with a config, one line a problem: `file:line: key: what was expected, what was found; the cure`.

Knows how to say things; knows neither the schema nor where files lie.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phasegpt.key_paths import KeyPath, show

EXPECTED = {
    "missing": "a value for this required key",
    "model_type": "a section of keys",
    "dict_type": "a section of keys",
    "tuple_type": "a list",
    "string_type": "text",
    "string_unicode": "text of whole characters",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "literal_error": "{expected}",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "too_short": "{min_length} or more entries",
}
"""Pydantic's kinds of error in the words of a user of YAML."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: the key's path (empty: the whole file), where it was written, and what to do about it.

    As text it is one line: line breaks and other unprintable characters are escaped.
    """

    path: KeyPath
    place: str
    message: str

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.place, show(self.path), self.message) if part)
        return one_line(text)


def one_line(text: str) -> str:
    """`text` with line breaks and other unprintable characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class ConfigError(ValueError):
    """A config that cannot run. Holds every problem at once, in the order of the lines; as text one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=_file_and_line))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def _file_and_line(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.place.rpartition(":")
    return (file, int(line)) if line.isdecimal() and len(line) < 10 else (problem.place, 0)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the likeliest of `known`, or an empty text when nothing is like it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def describe(error: Mapping[str, Any], known: Collection[str]) -> str:
    """The message for one entry of pydantic's `ValidationError.errors()`; `known` are all key paths of the schema."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(show(error["loc"]), known)
    if kind in ("combination", "value_error"):
        return str(context.get("message") or context["error"])
    found = "nothing" if kind == "missing" else found_text(error["input"])
    if kind not in EXPECTED:
        return f"{error['msg']}, found {found}"
    expected = EXPECTED[kind].format(**context)
    return f"expected {expected}, found {found}{_cure(kind, error['input'], expected)}"


def found_text(value: Any) -> str:
    """A value as an error shows it: short, on one line, with its kind where that is not plain."""
    if isinstance(value, Mapping):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"the text {text}" if isinstance(value, str) else text


def _unknown_key(key: str, known: Collection[str]) -> str:
    section, _, name = key.rpartition(".")
    prefix = f"{section}." if section else ""
    beside = {path.removeprefix(prefix).split(".")[0] for path in known if path.startswith(prefix)}
    if hint := nearest(name, beside):
        return f"no such key{hint}"
    if elsewhere := [path for path in known if path.endswith(f".{name}")]:
        return f"no such key here; did you mean {elsewhere[0]}?"
    return f"no such key; known here: {', '.join(sorted(beside)) or 'none'}"


def _cure(kind: str, value: Any, expected: str) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        return "; write it without quotes" if value.lower() in ("true", "false") or _is_number(value) else ""
    if isinstance(value, str) and kind == "literal_error":
        return nearest(value, re.findall(r"'(\w+)'", expected))
    if isinstance(value, str) and kind == "tuple_type":
        return f"; write [{value}]"
    if value is None and kind != "missing":
        return "; give a value or remove the line"
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
