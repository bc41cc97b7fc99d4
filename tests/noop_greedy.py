"""Jobs of tests.noop of which the first trial takes gigabytes when it first begins: `python -m tests.noop_greedy`.

ATTEMPTS in the storage folder has a line for each time that it began.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.noop import noop_job
from tests.noop_dying import ATTEMPTS

GIGABYTES = 3


def greedy_job(config: Mapping[str, Any]) -> None:
    """The trainable."""
    from tune.jobs import from_config

    job, spec = from_config(config)
    attempts = Path(spec["storage"], ATTEMPTS)
    if job.name == "trial-000":
        with attempts.open("a") as log:
            log.write(f"{job.name}\n")
        if len(attempts.read_text().splitlines()) == 1:
            taken = [b"\1" * 2**30 for _ in range(GIGABYTES)]
            time.sleep(60)  # Ray looks every 100 ms
            taken.clear()
    noop_job(config)


if __name__ == "__main__":
    from tests.noop_greedy import greedy_job as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
