"""A journal of lines that another library appends to: cut what a crash left of its last line before it is opened."""

import logging
import os
from pathlib import Path

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
