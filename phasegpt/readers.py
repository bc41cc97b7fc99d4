"""Rows of a data source as plain objects, whatever its format. Knows nothing of what the fields mean.

Read are JSON lines, Parquet files and datasets on the hub; the last two through `datasets`, imported when asked for. In
each, a prompt and its answers may be texts or, as in TRL, lists of messages. Rows come one by one: the memory held is
that of one row.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phasegpt.files import open_file
from phasegpt.findings import Finding, shown, warning

FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
LONG_LINE = 64 * 1024
LONGEST_LINE = 16 * 2**20
"""Bytes of a line behind which nothing more is read: a file without line ends would be read into memory whole."""
ANSWERS = ("chosen", "rejected", "completion")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")


@dataclass(frozen=True)
class Row:
    """One row: its fields, or none where it could not be read. `line` counts from 1; 0 is the source itself."""

    line: int
    values: Mapping[str, Any] | None
    findings: tuple[Finding, ...] = field(default=())


def read_rows(source: Path | str) -> Iterator[Row]:
    """The rows of a source. Raises nothing: a source that cannot be read is one row of line 0.

    A Path is a file. A text may also be the id of a hub dataset, `owner/name` or `owner/name:split`; the split is
    train unless named.
    """
    hub = None if isinstance(source, Path) or os.path.exists(source) else _hub_id(source)
    if hub:
        rows = _from_datasets(hub[0], split=hub[1] or "train")
    elif Path(source).suffix == ".parquet":
        rows = _from_datasets("parquet", data_files=str(source), split="train")
    else:
        rows = _json_lines(Path(source))
    yield from (_as_texts(row) for row in rows)


def _hub_id(source: str) -> tuple[str, str | None] | None:
    found = _HUB_ID.fullmatch(source)
    is_file_name = found is not None and found[1].endswith(FILE_SUFFIXES)
    return None if found is None or is_file_name else (found[1], found[2])


def _json_lines(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are passed over."""
    try:
        with open_file(path) as file:
            for line, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                if len(raw) > LONGEST_LINE:
                    message = f"a line of more than {LONGEST_LINE:,} bytes; expected one JSON object a line"
                    yield Row(line, None, (Finding(line, "endless_line", message),))
                    return
                if raw.strip():
                    yield _parsed(line, raw)
    except OSError as error:
        yield Row(0, None, (Finding(None, "unreadable", f"cannot be read: {error.strerror}"),))


def _parsed(line: int, raw: bytes) -> Row:
    long = f"a line of {len(raw):,} bytes; expected at most {LONG_LINE:,}"
    findings = (warning(line, "long_line", long),) if len(raw) > LONG_LINE else ()
    try:
        values = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(line, None, (*findings, Finding(line, "not_utf8", f"not UTF-8 at byte {error.start}")))
    except (ValueError, RecursionError) as error:
        return Row(line, None, (*findings, Finding(line, "not_json", f"not JSON: {error}")))
    if not isinstance(values, dict):
        message = f"expected a JSON object, found {type(values).__name__}"
        return Row(line, None, (*findings, Finding(line, "not_object", message)))
    return Row(line, values, findings)


def _from_datasets(name: str, **options: str) -> Iterator[Row]:
    """The rows of a dataset, streamed: nothing is written to its cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    line = 0
    try:
        for line, values in enumerate(load_dataset(name, streaming=True, **options), start=1):
            yield Row(line, values)
    except (OSError, ValueError, DatasetsError) as error:
        message = f"cannot be read behind row {line}: {' '.join(str(error).split())}"
        yield Row(0, None, (Finding(None, "unreadable", message),))


class _UnfitError(ValueError):
    """Messages that are no prompt and answer."""


def _as_texts(row: Row) -> Row:
    """A row whose lists of messages have become texts; other rows as they are."""
    values = row.values
    if values is None or not any(isinstance(values.get(key), list) for key in ("prompt", *ANSWERS)):
        return row
    try:
        return Row(row.line, {**values, **_texts(values)}, row.findings)
    except _UnfitError as error:
        return Row(row.line, None, (*row.findings, Finding(row.line, "not_one_turn", str(error))))


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: its text}. Without a prompt of its own a row has it at the head of each answer."""
    answers = {key: _messages(key, values[key]) for key in ANSWERS if isinstance(values.get(key), list)}
    prompt = values.get("prompt")
    if isinstance(prompt, list):
        answers["prompt"] = _messages("prompt", prompt)
    elif prompt is None and answers:
        heads = [messages[:-1] for messages in answers.values()]
        if any(head != heads[0] for head in heads):
            raise _UnfitError("chosen and rejected begin with different prompts")
        answers = {key: messages[-1:] for key, messages in answers.items()} | {"prompt": heads[0]}
    return {key: _only(key, messages) for key, messages in answers.items()}


def _messages(key: str, value: list[Any]) -> list[tuple[str, Any]]:
    """(role, content) of each message."""
    if not value or not all(
        isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in value
    ):
        raise _UnfitError(f"{key}: expected messages with role and content, found {shown(value)}")
    return [(str(message["role"]), message["content"]) for message in value]


def _only(key: str, messages: list[tuple[str, Any]]) -> Any:
    """The content of the one message: a pair is one turn of a user and one answer."""
    role = "user" if key == "prompt" else "assistant"
    found = [name for name, _ in messages]
    if found != [role]:
        raise _UnfitError(f"{key}: expected one message of role {role}, found {shown(found)}")
    return messages[0][1]
