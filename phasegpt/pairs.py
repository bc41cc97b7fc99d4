"""Preference pairs and evaluation prompts: reading, checking, and the split by prompt inside strata.

Knows nothing of tokens or models. Every problem of a file is reported at once, each with its line.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

STRATA = ("domain", "complexity", "subtlety")
COMPLEXITIES = ("simple", "medium", "complex")
SUBTLETIES = ("explicit", "moderate", "implicit")
HALVES = ("search", "final")


class PairsError(ValueError):
    """Problems of a data file, one a line as `file:line: what was expected, what was found`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Pair:
    """One preference pair: `chosen` is preferred to `rejected` as an answer to `prompt`.

    The strata are None where the file does not give them; `line` is the line in the file, from 1.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    domain: str | None
    complexity: str | None
    subtlety: str | None
    line: int


@dataclass(frozen=True)
class Prompt:
    """A prompt for generation. `half` says whether the search may choose by it or only the finals judge by it."""

    id: str
    prompt: str
    domain: str
    half: str
    line: int


@dataclass(frozen=True)
class Split:
    """Pairs to train on, pairs to evaluate on, and pairs of domains that never train."""

    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def read_pairs(path: Path, domains: Sequence[str], strata: Sequence[str] = STRATA) -> tuple[Pair, ...]:
    """The pairs of a JSONL file, in file order.

    prompt, chosen and rejected are required; `id` defaults to a hash of the three; of domain, complexity and subtlety
    those in `strata` are required, and `domains` are the allowed domains. Raises PairsError with every problem.
    """

    def parse(row: _Row, line: int) -> Pair:
        prompt, chosen, rejected = row.text("prompt"), row.text("chosen"), row.text("rejected")
        if chosen and chosen == rejected:
            row.problems.append("chosen and rejected are the same text")
        return Pair(
            id=row.identity(prompt, chosen, rejected),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            domain=row.label("domain", domains, "domain" in strata),
            complexity=row.label("complexity", COMPLEXITIES, "complexity" in strata),
            subtlety=row.label("subtlety", SUBTLETIES, "subtlety" in strata),
            line=line,
        )

    return _read_jsonl(path, Pair, parse)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The evaluation prompts of a JSONL file: prompt, domain, half (search or final), and an optional id."""

    def parse(row: _Row, line: int) -> Prompt:
        prompt = row.text("prompt")
        half = row.label("half", HALVES, required=True) or ""
        return Prompt(row.identity(prompt), prompt, row.text("domain"), half, line)

    return _read_jsonl(path, Prompt, parse)


def take_prompts(prompts: Sequence[Prompt], half: str, limit: int | None) -> tuple[Prompt, ...]:
    """At most `limit` prompts of one half, taken in turn from the domains, in file order within each."""
    by_domain = [list(group) for _, group in groupby(sorted(prompts, key=lambda p: p.domain), key=lambda p: p.domain)]
    queues = [[p for p in group if p.half == half] for group in by_domain]
    turns = max((len(queue) for queue in queues), default=0)
    in_turn = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return tuple(in_turn[:limit])


class _Row:
    """The fields of one row. Reading them notes every problem and goes on, so that one pass over a file finds all."""

    def __init__(self, values: Mapping[str, Any], known: Collection[str]) -> None:
        self.values = values
        unknown = sorted(values.keys() - set(known))
        self.problems = [f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}"] if unknown else []

    def text(self, key: str) -> str:
        """The text of a field without the space around it; "" where there is none."""
        value = self.values.get(key)
        if key not in self.values:
            self.problems.append(f"the field {key} is missing")
        elif not isinstance(value, str):
            self.problems.append(f"{key}: expected text, found {type(value).__name__}")
        elif not value.strip():
            self.problems.append(f"{key}: expected text, found none")
        elif any("\ud800" <= letter <= "\udfff" for letter in value):
            self.problems.append(f"{key}: expected text, found half of a surrogate pair")
        else:
            return value.strip()
        return ""

    def label(self, key: str, allowed: Sequence[str], required: bool) -> str | None:
        """One of `allowed`, or None."""
        value = self.values.get(key)
        if value in allowed:
            return str(value)
        if value is not None or required:
            self.problems.append(f"{key}: expected one of {', '.join(allowed)}, found {value!r}")
        return None

    def identity(self, *texts: str) -> str:
        """The row's id, or a hash of its texts; "" where it can have neither."""
        if self.values.get("id") is not None:
            return self.text("id")
        return _digest(*texts)[:12] if all(texts) else ""


RowT = TypeVar("RowT", Pair, Prompt)


def _read_jsonl(path: Path, kind: type[RowT], parse: Callable[[_Row, int], RowT]) -> tuple[RowT, ...]:
    known = {field.name for field in fields(kind)} - {"line"}
    rows: list[RowT] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for line, raw in _lines(path):
        try:
            row = _Row(_object(raw), known)
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        rows.append(parse(row, line))
        identity = rows[-1].id
        if identity and first_line.setdefault(identity, line) != line:
            row.problems.append(f"id {identity!r} is already used in line {first_line[identity]}")
        problems += [f"{path}:{line}: {problem}" for problem in row.problems]
    if not rows and not problems:
        problems.append(f"{path}: holds no rows; expected one JSON object a line")
    if problems:
        raise PairsError(problems)
    return tuple(rows)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PairsError([f"{path}: cannot be read: {error.strerror}"]) from error
    for line, raw in enumerate(content.split(b"\n"), start=1):
        if raw.strip():
            yield line, raw


def _object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """sha256 of the texts and labels of `pairs` in any order: what a run was trained on, whatever the file's layout."""
    digests = sorted(
        _digest(p.id, p.prompt, p.chosen, p.rejected, str(p.domain), str(p.complexity), str(p.subtlety)) for p in pairs
    )
    return _digest(*digests)


def split_pairs(
    pairs: Sequence[Pair],
    val_split: float,
    stratify_by: Sequence[str],
    held_out_domains: Sequence[str],
    seed: int,
) -> Split:
    """Split by prompt inside strata, the same for every order of the rows.

    Prompts are sorted by (stratum, hash of seed and prompt) and every 1/val_split-th goes to val, beginning at a
    seeded offset: each stratum gives its share to within one prompt, the whole its share to within one.
    Pairs of `held_out_domains` go to `held_out`, and no prompt of theirs trains.
    """
    kept_apart = {p.prompt for p in pairs if p.domain in held_out_domains}
    order = sorted(pairs, key=lambda p: (p.prompt, p.id))
    rest = [p for p in order if p.prompt not in kept_apart]
    first_of_prompt = {p.prompt: p for p in reversed(rest)}
    prompts = sorted(first_of_prompt, key=lambda p: (_stratum(first_of_prompt[p], stratify_by), _digest(str(seed), p)))
    val_prompts = set(_every_nth(prompts, val_split, seed))
    return Split(
        train=tuple(p for p in rest if p.prompt not in val_prompts),
        val=tuple(p for p in rest if p.prompt in val_prompts),
        held_out=tuple(p for p in order if p.prompt in kept_apart),
    )


def _stratum(pair: Pair, stratify_by: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(getattr(pair, key)) for key in stratify_by)


def _every_nth(prompts: Sequence[str], share: float, seed: int) -> list[str]:
    """Systematic sampling: prompt i is taken when the running sum i·share passes a whole number."""
    offset = int(_digest(str(seed), "offset")[:8], 16) / 2**32
    marks = [math.floor(index * share + offset) for index in range(len(prompts) + 1)]
    return [prompt for prompt, before, after in zip(prompts, marks, marks[1:], strict=False) if after > before]
