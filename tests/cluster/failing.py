"""Searches whose every job fails: `python -m tests.cluster.failing` takes the options of tune.search."""

import sys
from collections.abc import Mapping
from typing import Any


def failing_job(config: Mapping[str, Any]) -> None:
    """The trainable."""
    raise ValueError("this job always fails")


if __name__ == "__main__":
    from tests.cluster.failing import failing_job as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
