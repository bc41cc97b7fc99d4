"""Inputs that nobody means well by, for the tests of bad input: texts, values, mutations of good files, odd places.

`mutated` and `spoiled` are strategies of hypothesis: what they draw shrinks to the least edit that still does harm.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c, *c]\n"
TAGS = ("!!python/object/apply:os.system [touch canary]", "!!python/name:os.system", "!!binary aGk=", "!own {}")

SPLICES = (
    "\0", "\ufeff", "\r\n", "\r", "\t", "\n\n", "\x1b[2J", "\x7f", "\u2028", "\u202e", "🙂", "'", '"', ": ", "# ",
    "---\n",
    "...\n", "%YAML 9.9\n", "&a ", "*a", "<<: ", "? ", "|\n", ">\n", "- ", "{", "}", "]", ",", "[" * 50, "{a: " * 30,
    ".nan", ".inf", "-.inf", "NaN", "1e999", "9" * 5000, "-0", "0x1F", "1_000", "null", "~", "true", "x" * 3000,
    '"\\ud800"', '"\\u0000"', "../../x", "/dev/zero", *TAGS, BOMB,
)  # fmt: skip
"""What is laid into the text of a good file."""

RAW = (b"\xff\xfe", b"\xfe\xff\x00a", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x00" * 8)
"""The same where the file is no UTF-8."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**4000, -(10**30), 1e308, -0.5, math.nan, math.inf, -math.inf, "", " ", "0",
    "nan",
    "x" * 3000, "../../x", "/dev/zero", "a\0b", "\ud800", "\x1b[2J", [], [[]], [None], {}, {"": None}, {"a": {"b": []}},
    ["x"] * 300, "models:/x@y", "os:system", "!!python/name:os.system",
)  # fmt: skip
"""Values of every type that JSON knows, and some that it should not."""


def _edit(text: bytes, at: float, length: int, put: bytes) -> bytes:
    begin = int(at * len(text))
    return text[:begin] + put + text[begin + length :]


_EDITS = st.tuples(
    st.floats(0, 1),
    st.sampled_from((0, 0, 1, 3, 40, 10**6)),
    st.one_of(
        st.sampled_from([splice.encode("utf-8", "surrogatepass") for splice in SPLICES]),
        st.sampled_from(RAW),
        st.binary(max_size=4),
    ),
)


def mutated(goods: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the good files with one to four stretches of it replaced."""

    def apply(good: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
        for edit in edits:
            good = _edit(good, *edit)
        return good

    return st.builds(apply, st.sampled_from(goods), st.lists(_EDITS, min_size=1, max_size=4))


def places_in(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a JSON value, its own among them."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places_in(child, (*path, key)))]


def spoiled(good: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one to three of its parts replaced by one of VALUES, or left out."""
    changes = st.tuples(st.sampled_from(places_in(good)), st.one_of(st.sampled_from(VALUES), st.just(...)))

    def apply(edits: list[tuple[tuple[str | int, ...], Any]]) -> Any:
        value = json.loads(json.dumps(good))
        for path, new in edits:
            value = _laid(value, path, new)
        return value

    return st.builds(apply, st.lists(changes, min_size=1, max_size=3))


def _laid(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """`value` with `new` at `path`, or without what is there (`...`); a path that has gone changes nothing."""
    if not path:
        return None if new is ... else new
    key, rest = path[0], path[1:]
    if isinstance(value, list):
        there = isinstance(key, int) and key < len(value)
    else:
        there = isinstance(value, dict) and key in value
    if there and not rest and new is ...:
        del value[key]
    elif there:
        value[key] = _laid(value[key], rest, new)
    return value


def odd_places(folder: Path) -> dict[str, Path]:
    """{what it is: a path that is no ordinary file, or no text}, made in `folder`."""
    names = ("pipe", "folder", "loop", "empty", "utf16", "random", "nowhere")
    made = {name: folder / name for name in names}
    os.mkfifo(made["pipe"])
    made["folder"].mkdir()
    made["loop"].symlink_to(made["loop"])
    made["empty"].touch()
    made["utf16"].write_text("model:\n", encoding="utf-16")
    made["random"].write_bytes(bytes(range(256)) * 20)
    endless = {name: Path(f"/dev/{name}") for name in ("zero", "null")}
    return {**made, **endless, "below a file": made["empty"] / "x", "long": folder / ("x" * 5000)}
