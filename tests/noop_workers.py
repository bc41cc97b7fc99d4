"""Jobs of tests.noop, each on the workers of its crew, as Ray Train starts them: `python -m tests.noop_workers`."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.noop import run

if TYPE_CHECKING:
    from phasegpt.workers import Telling


def job_on_workers(config: Mapping[str, Any]) -> None:
    """The trainable."""
    from ray import tune

    from phasegpt.crew import Crew
    from phasegpt.workers import run_on_workers
    from tune.jobs import from_config
    from tune.reports import FINISHED_KEY
    from tune.trial import attempted

    job, spec = from_config(config)
    plain, crew = {"job": asdict(job), "spec": spec}, Crew(**spec["crew"])
    folder = Path(spec["storage"]) / "workers"
    failed = attempted(job, spec, lambda: run_on_workers(on_worker, plain, crew, folder, tune.report))
    if failed:
        tune.report({**failed, FINISHED_KEY: False})


def on_worker(plain: Mapping[str, Any], telling: "Telling") -> None:
    """A worker's part: all tell alike, the first one writes."""
    from phasegpt import ranks
    from tune.jobs import from_config
    from tune.luggage import Luggage

    run(Luggage(*from_config(plain)), telling.tell, ranks.first())


if __name__ == "__main__":
    from tests.noop_workers import job_on_workers as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
