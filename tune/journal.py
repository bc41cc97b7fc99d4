"""The journal of a study: Optuna's lines, each with a checksum, on the disk when a call returns.

Optuna and its dashboard read it as a journal of their own, and lines that they wrote into it have no checksum. A torn
last line is cut when the journal is opened; any other damage is refused. One process writes at a time.
"""

import json
import logging
import os
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from phasegpt.files import make_folder, sync_folder
from phasegpt.lines import DamagedLineError, append_line

log = logging.getLogger("phasegpt")
SEAL = re.compile(rb',"sum":"([0-9a-f]{8})"}\n\Z')


class CheckedJournal(BaseJournalBackend):  # type: ignore[misc]
    """A journal in a file, created where there is none. Raises DamagedLineError when made on one that is damaged.

    Lines can be held back to be written together; a crash before that loses them as if none had been made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read, self._length = 0, 0  # how many lines of the file were read, and their length in bytes
        self._held: list[dict[str, Any]] | None = None
        make_folder(path.parent)
        if not path.exists():
            path.touch()
            sync_folder(path.parent)
        cut_torn_tail(path)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is appended while the block lasts goes to the disk when it ends, by one write and one fsync.

        Of blocks in blocks it is the outer one that writes.
        """
        if self._held is not None:
            yield
            return
        held = self._held = []
        try:
            yield
        finally:
            self._held = None
            if held:
                self.append_logs(held)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from a number on, as Optuna asks for them: those after the last that it was given, as a rule."""
        yield from self._written(log_number_from)
        yield from islice(self._held or (), max(0, log_number_from - self._read), None)

    def _written(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        if log_number_from < self._read:
            self._read, self._length = 0, 0
        with self.path.open("rb") as handle:
            handle.seek(self._length)
            for line in handle.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    return  # a dashboard is writing it
                entry = parsed(line)
                if entry is None:
                    raise _damaged(self.path, self._read + 1)
                self._read, self._length = self._read + 1, self._length + len(line)
                if self._read > log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines to the end, all or nothing, or hold them."""
        if self._held is None:
            append_line(self.path, b"".join(map(_line, logs)))
        else:
            self._held.extend(logs)


def cut_torn_tail(journal: Path) -> None:
    """Cut a last line that is not whole. Raises DamagedLineError where another one is damaged."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.is_file() else []
    for number, line in enumerate(lines, 1):
        if parsed(line) is not None:
            continue
        if number < len(lines):
            raise _damaged(journal, number)
        log.warning("%s:%d: cut %d bytes of a line that was never finished", journal, number, len(line))
        with journal.open("rb+") as handle:
            handle.truncate(sum(map(len, lines[:-1])))
            os.fsync(handle.fileno())


def parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, or None where the line is torn or damaged."""
    seal = SEAL.search(line)
    if seal is not None and int(seal[1], 16) != zlib.crc32(line[: seal.start()]):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") and isinstance(entry, dict) and "op_code" in entry else None


def _line(entry: dict[str, Any]) -> bytes:
    body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    return body + f',"sum":"{zlib.crc32(body):08x}"}}\n'.encode()


def _damaged(journal: Path, number: int) -> DamagedLineError:
    return DamagedLineError(
        f"{journal}:{number}: this line is damaged; put it back from a copy, or cut the file before it "
        f"(head -n {number - 1}): trials whose end only later lines knew are then run again"
    )
