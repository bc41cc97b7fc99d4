"""Jobs of tests.noop whose workers die: `python -m tests.noop_dying`.

That of trial-001 dies after each of its evaluations, that of trial-002 before its first. ATTEMPTS in the storage folder
has a line for each time that one of the two began.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.noop import noop_job

ATTEMPTS = "noop-attempts"


def dying_job(config: Mapping[str, Any]) -> None:
    """The trainable."""
    from ray import tune

    from tune.jobs import from_config
    from tune.reports import FINISHED_KEY

    job, spec = from_config(config)
    if job.name not in ("trial-001", "trial-002"):
        noop_job(config)
        return
    attempts = Path(spec["storage"], ATTEMPTS)
    with attempts.open("a") as log:
        log.write(f"{job.name}\n")
    if job.name == "trial-002":
        os._exit(1)
    died, report = attempts.read_text().splitlines().count(job.name) - 1, tune.report

    def last_words(told: dict[str, Any]) -> None:
        report(told)
        if not told.get(FINISHED_KEY) and told["step"] > died:
            time.sleep(1)  # until the driver has heard them
            os._exit(1)

    tune.report = last_words
    noop_job(config)


if __name__ == "__main__":
    from tests.noop_dying import dying_job as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
