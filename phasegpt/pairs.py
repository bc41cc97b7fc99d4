"""Preference pairs, unpaired answers and evaluation prompts: reading, checking, and the split by prompt inside strata.

Knows nothing of file formats, tokens or models. Every problem of a file is reported at once, each with its line.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, TypeVar

from phasegpt.files import text_sha256
from phasegpt.findings import Finding, of, shown, warning
from phasegpt.readers import Row, read_rows

STRATA = ("domain", "complexity", "subtlety")
COMPLEXITIES = ("simple", "medium", "complex")
SUBTLETIES = ("explicit", "moderate", "implicit")
HALVES = ("search", "final")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line ends, and halves of surrogate pairs."""


class PairsError(ValueError):
    """Problems of a data file, one a line as `file:line: what was expected, what was found`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


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
class UnpairedRow:
    """One answer with its own label: True where it is wanted, False where it is not. Strata and line as in `Pair`."""

    id: str
    prompt: str
    completion: str
    label: bool
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


@dataclass(frozen=True)
class AnswerSplit:
    """The same of a file without pairs: unpaired answers to train on, to evaluate on, and of domains kept apart."""

    train: tuple[UnpairedRow, ...]
    val: tuple[UnpairedRow, ...]
    held_out: tuple[UnpairedRow, ...]


RowT = TypeVar("RowT", Pair, UnpairedRow, Prompt)
PreferenceT = TypeVar("PreferenceT", Pair, UnpairedRow)


@dataclass(frozen=True)
class Scan(Generic[RowT]):
    """What a source holds: the rows without an error, how many rows there are, and what was found in them."""

    rows: tuple[RowT, ...]
    total: int
    findings: tuple[Finding, ...]

    def sound(self, source: Path | str) -> tuple[RowT, ...]:
        """The rows. Raises PairsError where there is any error."""
        errors = of(self.findings, "error")
        if errors:
            raise PairsError(error.at(source) for error in errors)
        return self.rows


def read_pairs(source: Path | str, domains: Sequence[str], strata: Sequence[str] = STRATA) -> tuple[Pair, ...]:
    """The pairs of a source, in its order. Raises PairsError with every problem; `scan_pairs` says what these are."""
    return scan_pairs(read_rows(source), domains, strata).sound(source)


def read_unpaired(
    source: Path | str, domains: Sequence[str], strata: Sequence[str] = STRATA
) -> tuple[UnpairedRow, ...]:
    """The unpaired answers of a source, in its order. Raises PairsError with every problem."""
    return scan_unpaired(read_rows(source), domains, strata).sound(source)


def read_prompts(source: Path | str) -> tuple[Prompt, ...]:
    """The evaluation prompts of a source, in its order. Raises PairsError with every problem."""
    return scan_prompts(read_rows(source)).sound(source)


def scan_pairs(rows: Iterable[Row], domains: Sequence[str], strata: Sequence[str] = STRATA) -> Scan[Pair]:
    """The pairs among rows, and every problem of those that are none.

    prompt, chosen and rejected are required; `id` defaults to a hash of the three; of domain, complexity and subtlety
    those in `strata` are required, and `domains` are the allowed domains.
    """

    def parse(row: _Row, line: int) -> Pair:
        prompt, chosen, rejected = row.text("prompt"), row.text("chosen"), row.text("rejected")
        if chosen and chosen == rejected:
            row.note("same_answers", "chosen and rejected are the same text")
        identity = row.identity(prompt, chosen, rejected)
        return Pair(identity, prompt, chosen, rejected, *row.strata(domains, strata), line)

    return _scan(rows, Pair, parse)


def scan_unpaired(rows: Iterable[Row], domains: Sequence[str], strata: Sequence[str] = STRATA) -> Scan[UnpairedRow]:
    """The unpaired answers among rows: prompt, completion, label (true or false); the rest as for `scan_pairs`."""

    def parse(row: _Row, line: int) -> UnpairedRow:
        prompt, completion, label = row.text("prompt"), row.text("completion"), row.truth("label")
        identity = row.identity(prompt, completion, str(label))
        return UnpairedRow(identity, prompt, completion, label, *row.strata(domains, strata), line)

    return _scan(rows, UnpairedRow, parse)


def scan_prompts(rows: Iterable[Row]) -> Scan[Prompt]:
    """The evaluation prompts among rows: prompt, domain, half (search or final), and an optional id."""

    def parse(row: _Row, line: int) -> Prompt:
        prompt = row.text("prompt")
        half = row.label("half", HALVES, required=True) or ""
        return Prompt(row.identity(prompt), prompt, row.text("domain"), half, line)

    return _scan(rows, Prompt, parse)


def take_prompts(prompts: Sequence[Prompt], half: str, limit: int | None) -> tuple[Prompt, ...]:
    """At most `limit` prompts of one half, taken in turn from the domains, in file order within each."""
    by_domain = [list(group) for _, group in groupby(sorted(prompts, key=lambda p: p.domain), key=lambda p: p.domain)]
    queues = [[p for p in group if p.half == half] for group in by_domain]
    turns = max((len(queue) for queue in queues), default=0)
    in_turn = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return tuple(in_turn[:limit])


class _Row:
    """The fields of one row. Reading them notes every problem and goes on, so that one pass over a file finds all."""

    def __init__(self, line: int, values: Mapping[str, Any]) -> None:
        self.line, self.values = line, values
        self.content = ""
        self.findings: list[Finding] = []

    def note(self, code: str, message: str) -> None:
        """An error of this row."""
        self.findings.append(Finding(self.line, code, message))

    def text(self, key: str) -> str:
        """The text of a field without the space around it; "" where there is none."""
        value = self._value(key, str, "text")
        if not isinstance(value, str):
            return ""
        unprintable = UNPRINTABLE.search(value)
        if unprintable:
            self.note("bad_character", f"{key}: expected text, found {_name(unprintable[0])}")
        elif not value.strip():
            self.note("empty_text", f"{key}: expected text, found none")
        return "" if unprintable else value.strip()

    def truth(self, key: str) -> bool:
        """A field that is true or false; false where there is none."""
        return self._value(key, bool, "true or false") is True

    def _value(self, key: str, kind: type, expected: str) -> Any:
        value = self.values.get(key)
        if key not in self.values:
            self.note("missing_field", f"the field {key} is missing")
        elif not isinstance(value, kind):
            self.note("wrong_type", f"{key}: expected {expected}, found {type(value).__name__}")
        return value

    def label(self, key: str, allowed: Sequence[str], required: bool) -> str | None:
        """One of `allowed`, or None."""
        value = self.values.get(key)
        if value in allowed:
            return str(value)
        if value is not None or required:
            code = "missing_field" if value is None else "unknown_value"
            self.note(code, f"{key}: expected one of {', '.join(allowed)}, found {shown(value)}")
        return None

    def strata(self, domains: Sequence[str], required: Sequence[str]) -> tuple[str | None, str | None, str | None]:
        """Domain, complexity and subtlety."""
        return (
            self.label("domain", domains, "domain" in required),
            self.label("complexity", COMPLEXITIES, "complexity" in required),
            self.label("subtlety", SUBTLETIES, "subtlety" in required),
        )

    def identity(self, *texts: str) -> str:
        """The row's id, or a hash of its texts; "" where it can have neither. The hash is kept as its content."""
        self.content = text_sha256(*texts) if all(texts) else ""
        if self.values.get("id") is not None:
            return self.text("id")
        return self.content[:12]


def _name(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "half of a surrogate pair"
    return f"the control character U+{ord(character):04X}"


def _scan(raw_rows: Iterable[Row], kind: type[RowT], parse: Callable[[_Row, int], RowT]) -> Scan[RowT]:
    rows: list[RowT] = []
    findings: list[Finding] = []
    unknown: Counter[str] = Counter()
    repeats = _Repeats()
    known = {field.name for field in fields(kind)} - {"line"}
    total = 0
    for raw in raw_rows:
        total += raw.line > 0
        findings += raw.findings
        if raw.values is None:
            continue
        row = _Row(raw.line, raw.values)
        unknown.update(raw.values.keys() - known)
        parsed = parse(row, raw.line)
        repeats.note(row, parsed.id)
        findings += row.findings
        if not row.findings:
            rows.append(parsed)
    if not total and not findings:
        findings.append(Finding(None, "no_rows", "holds no rows; expected one JSON object a line"))
    findings += [_not_read(key, count, known) for key, count in sorted(unknown.items())]
    return Scan(tuple(rows), total, tuple(findings))


def _not_read(key: str, count: int, known: Iterable[str]) -> Finding:
    message = f"the field {shown(key)} of {count} rows is not read; known are {', '.join(sorted(known))}"
    return warning(None, "unknown_field", message)


class _Repeats:
    """The rows and ids of a source so far, each with its first line."""

    def __init__(self) -> None:
        self.contents: dict[str, int] = {}
        self.ids: dict[str, int] = {}

    def note(self, row: _Row, identity: str) -> None:
        """Remember a row; notes in it that its texts or its id were there before."""
        first = self.contents.setdefault(row.content, row.line) if row.content else row.line
        owner = self.ids.setdefault(identity, row.line) if identity else row.line
        if first != row.line:
            row.note("duplicate_row", f"the same row as in line {first}")
        elif owner != row.line:
            row.note("duplicate_id", f"id {shown(identity)} is already used in line {owner}")


def pairs_hash(pairs: Iterable[Pair | UnpairedRow]) -> str:
    """sha256 of the texts and labels of `pairs` in any order: what a run was trained on, whatever the file's layout."""
    digests = sorted(text_sha256(*(str(getattr(p, f.name)) for f in fields(p) if f.name != "line")) for p in pairs)
    return text_sha256(*digests)


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
    return Split(*_split(pairs, val_split, stratify_by, held_out_domains, seed))


def split_answers(
    answers: Sequence[UnpairedRow],
    val_split: float,
    stratify_by: Sequence[str],
    held_out_domains: Sequence[str],
    seed: int,
) -> AnswerSplit:
    """`split_pairs` for unpaired answers: the same prompts fall on the same sides."""
    return AnswerSplit(*_split(answers, val_split, stratify_by, held_out_domains, seed))


def _split(
    rows: Sequence[PreferenceT],
    val_split: float,
    stratify_by: Sequence[str],
    held_out_domains: Sequence[str],
    seed: int,
) -> tuple[tuple[PreferenceT, ...], tuple[PreferenceT, ...], tuple[PreferenceT, ...]]:
    kept_apart = {row.prompt for row in rows if row.domain in held_out_domains}
    order = sorted(rows, key=lambda row: (row.prompt, row.id))
    rest = [row for row in order if row.prompt not in kept_apart]
    first_of_prompt = {row.prompt: row for row in reversed(rest)}
    prompts = sorted(
        first_of_prompt, key=lambda p: (_stratum(first_of_prompt[p], stratify_by), text_sha256(str(seed), p))
    )
    val_prompts = set(_every_nth(prompts, val_split, seed))
    return (
        tuple(row for row in rest if row.prompt not in val_prompts),
        tuple(row for row in rest if row.prompt in val_prompts),
        tuple(row for row in order if row.prompt in kept_apart),
    )


def _stratum(row: Pair | UnpairedRow, stratify_by: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(getattr(row, key)) for key in stratify_by)


def _every_nth(prompts: Sequence[str], share: float, seed: int) -> list[str]:
    """Systematic sampling: prompt i is taken when the running sum i·share passes a whole number."""
    offset = int(text_sha256(str(seed), "offset")[:8], 16) / 2**32
    marks = [math.floor(index * share + offset) for index in range(len(prompts) + 1)]
    return [prompt for prompt, before, after in zip(prompts, marks, marks[1:], strict=False) if after > before]
