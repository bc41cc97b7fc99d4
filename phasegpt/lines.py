"""Journals of our own: one checked JSON line an entry, appended and on the disk when the call returns.

A crash in the middle of a write costs at most that entry. Knows nothing of what entries say.
"""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from phasegpt.files import DamagedError, open_file, sync_folder, whole_file

log = logging.getLogger("phasegpt")
Entry = dict[str, Any]


class DamagedLineError(DamagedError):
    """A line whose checksum does not fit and which is not the torn end of its file; the message begins file:line."""


def append(path: Path, *entries: Entry) -> None:
    """Write entries to the end and to the disk, all by one write; one that fails leaves nothing of them."""
    append_line(path, b"".join(map(_line, entries)))


def append_line(path: Path, line: bytes) -> None:
    """Write a line, or several, to the end and to the disk, all or nothing; one process after another.

    What a crash left of a last line is cut first: behind it the new line could not be read.
    """
    new = not path.exists()
    with path.open("a+b", buffering=0) as handle:  # closing it writes nothing more
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = _whole_length(handle)
        if before < handle.seek(0, os.SEEK_END):
            log.warning("%s: a torn last line was cut", path)
            handle.truncate(before)
        try:
            left = memoryview(line)
            while left:
                left = left[handle.write(left) :]
            os.fsync(handle.fileno())
        except OSError:
            os.truncate(path, before)
            raise
    if new:
        sync_folder(path.parent)


def _whole_length(handle: FileIO) -> int:
    """The length of a file up to the end of its last line that has one."""
    length = handle.seek(0, os.SEEK_END)
    if length == 0:
        return 0
    handle.seek(length - 1)
    if handle.read(1) == b"\n":
        return length
    handle.seek(0)
    return handle.read().rfind(b"\n") + 1


def write_lines(path: Path, entries: Sequence[Entry]) -> None:
    """Replace a journal by these entries; a crash leaves the old one or the new one."""
    with whole_file(path) as stage:
        stage.write_bytes(b"".join(map(_line, entries)))


def read_lines(path: Path) -> tuple[list[Entry], int]:
    """The entries in order, none where there is no file, and the length in bytes of the whole lines.

    A torn last line is not counted. Raises DamagedLineError for any other that is damaged.
    """
    lines = _content(path).splitlines(keepends=True)
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        entry = _parse(line)
        if entry is not None:
            entries.append(entry)
        elif number < len(lines):
            raise DamagedLineError(f"{path}:{number}: this line is damaged (its checksum does not fit)")
    return entries, sum(map(len, lines[: len(entries)]))


def _content(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""


def cut_torn_line(path: Path) -> None:
    """Cut a torn last line off a file that is ours alone."""
    entries, length = read_lines(path)
    if path.exists() and length < path.stat().st_size:
        log.warning("%s:%d: a torn last line was cut", path, len(entries) + 1)
        os.truncate(path, length)


def _line(entry: Entry) -> bytes:
    return json.dumps({"sum": _checksum(entry), "event": entry}, separators=(",", ":")).encode() + b"\n"


def _checksum(entry: Entry) -> str:
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(body.encode()):08x}"


def _parse(line: bytes) -> Entry | None:
    """The entry of a line, or None where the line is damaged."""
    try:
        row = json.loads(line)
        entry: Entry = row["event"]
        return entry if row["sum"] == _checksum(entry) and line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
