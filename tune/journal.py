"""The journal of a study on disk: what a crash left of its last line is cut, and what belongs together is one write."""

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

log = logging.getLogger("phasegpt")


def cut_torn_tail(journal: Path) -> None:
    """Cut a last line without its newline: one append behind it would make the whole journal unreadable."""
    if not journal.is_file():
        return
    with journal.open("rb+") as handle:
        content = handle.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log.warning("%s: cut %d bytes of a line that was never finished", journal, len(content) - whole)
            handle.truncate(whole)
            handle.flush()
            os.fsync(handle.fileno())


class OneWriterJournal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal file, written by one process alone, which may hold entries back to write them together.

    A crash before that loses them as if none had been made. Entries are numbered from 0 in the order of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._held: list[dict[str, Any]] | None = None
        self._known = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Entries that are appended while the block lasts go to the disk when it ends, by one write and one fsync."""
        held = self._held = []
        try:
            yield
        finally:
            self._held = None
            if held:
                super().append_logs(held)
                for _ in self.read_logs(self._known):
                    pass  # notes where in the file they begin, from which the next reading goes on

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Optuna's own words for writing entries."""
        super().append_logs(logs) if self._held is None else self._held.extend(logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Every entry from a number on, held ones too."""
        if self._held is None or log_number_from < self._known:
            known = log_number_from
            for entry in super().read_logs(log_number_from):
                known += 1
                yield entry
            self._known = known
        if self._held is not None:
            yield from islice(self._held, max(0, log_number_from - self._known), None)
