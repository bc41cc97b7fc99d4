"""YAML into plain values, with the place (file:line) of every key. Knows nothing of the schema.

Reads a small, safe part of YAML 1.2: sections, lists, text, numbers, true, false and null. Numbers follow the 1.2 core
schema, so 5e-5 is a number and yes, 010 or 1:30 hold no surprise. What would hide the values that run (anchors,
aliases, merge keys, tags) or repeats a key is a problem; no Python object is ever built from a tag.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from phasegpt.config_errors import ConfigError, Problem
from phasegpt.files import open_file
from phasegpt.key_paths import KeyPath

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_DIGITS = 40
WORDS = {"": None, "~": None} | {
    form: value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for form in (word, word.capitalize(), word.upper())
}
WHOLE = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

PlaceOfLine = Callable[[int], str]


@dataclass(frozen=True)
class Reading:
    """What a YAML text holds: its values, the place of each key path, and what was wrong with it."""

    values: Any
    places: dict[KeyPath, str]
    problems: tuple[Problem, ...]


def read_file(path: Path) -> Reading:
    """The YAML file at `path` (UTF-8, at most 1 MB); places are `path:line`. Unreadable is a ConfigError."""
    try:
        with open_file(path) as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read ({error.strerror}); give the path of a YAML file"
        raise ConfigError([Problem((), str(path), message)]) from error
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem((), str(path), f"expected at most {MAX_BYTES} bytes; is this a config?")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem((), f"{path}:{line}", "expected UTF-8 text; save the file as UTF-8")]) from error
    return read_text(text, lambda line: f"{path}:{line}")


def read_text(text: str, place: PlaceOfLine) -> Reading:
    """The YAML in `text`; `place` names a line, counted from 1. A syntax error is a ConfigError of one line."""
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader), place)
    try:
        values = reader.document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        context = f" {error.context}" if error.context else ""
        message = f"not valid YAML:{context} {error.problem}; check indentation, colons and quotes"
        raise ConfigError([Problem((), place(line), message)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([Problem((), place(line), "not valid YAML: a control character; remove it")]) from error
    return Reading(values, reader.places, tuple(reader.problems))


def plain_scalar(text: str) -> Any:
    """Unquoted text as YAML 1.2 reads it: null, a boolean, a number or the text itself."""
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    return math.nan if NOT_FINITE.fullmatch(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


@dataclass
class _Reader:
    """Walks the parser's events and keeps the path from the top, so that nothing is resolved out of sight."""

    events: Iterator[yaml.Event]
    place: PlaceOfLine
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def document(self) -> Any:
        """The one document of the stream; an empty stream is null."""
        values = None
        for count, event in enumerate(e for e in self.events if isinstance(e, yaml.DocumentStartEvent)):
            if count:
                self._report((), event, "expected one document; remove everything from this --- on")
                break
            values = self._value((), next(self.events))
        return values

    def _value(self, path: KeyPath, event: yaml.Event) -> Any:
        self.places.setdefault(path, self.place(_line(event)))
        if len(path) > MAX_DEPTH:
            raise ConfigError([Problem((), self.places[path], f"nested deeper than {MAX_DEPTH} levels; flatten it")])
        self._refuse_hidden(path, event)
        match event:
            case yaml.MappingStartEvent():
                return self._section(path)
            case yaml.SequenceStartEvent():
                return self._list(path)
            case yaml.ScalarEvent():
                return self._scalar(path, event)
        return None

    def _section(self, path: KeyPath) -> dict[str, Any]:
        section: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(path, event)
            child = (*path, key)
            if key in section:
                first = self.places[child]
                self._report(child, event, f"given twice, first at {first}; keep one")
                self._value((*child, "given twice"), next(self.events))
            else:
                self.places[child] = self.place(_line(event))
                section[key] = self._value(child, next(self.events))
        return section

    def _key(self, path: KeyPath, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            place = self.place(_line(event))
            raise ConfigError([Problem(path, place, "expected a word as key, found a list, a section or an alias")])
        self._refuse_hidden((*path, event.value), event)
        if event.value == "<<":
            self._report((*path, "<<"), event, "merge keys hide what runs; write the values out")
        return str(event.value)

    def _list(self, path: KeyPath) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value((*path, len(values)), event))
        return values

    def _scalar(self, path: KeyPath, event: yaml.ScalarEvent) -> Any:
        value = plain_scalar(event.value) if event.style is None else event.value
        if isinstance(value, float) and not math.isfinite(value):
            self._report(path, event, f"expected a finite number, found {event.value}")
        return value

    def _refuse_hidden(self, path: KeyPath, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._report(path, event, f"alias *{event.anchor} hides what runs; write the value out")
        elif isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._report(path, event, f"anchor &{event.anchor} is not used here; remove it")
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self._report(path, event, f"tag {event.tag} is not used here; remove it")

    def _report(self, path: KeyPath, event: yaml.Event, message: str) -> None:
        self.problems.append(Problem(path, self.place(_line(event)), message))
