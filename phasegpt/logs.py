"""The log file of a run or of a search: what the logger `phasegpt` says while a block lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phasegpt.files import make_folder


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Within the block the messages of the logger `phasegpt`, from INFO up, are appended to `path`."""
    make_folder(path.parent)
    logger = logging.getLogger("phasegpt")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
