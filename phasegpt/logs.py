"""The log file of a run or of a search: what the logger `phasegpt` says while a block lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phasegpt.files import make_folder


class _Log(logging.FileHandler):
    """A log on a disk that may be full: whoever writes what counts says so; what the log has lost is said nowhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - a name of logging's
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Within the block the messages of the logger `phasegpt`, from INFO up, are appended to `path`."""
    make_folder(path.parent)
    logger = logging.getLogger("phasegpt")
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
