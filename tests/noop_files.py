"""Jobs of tests.noop that leave checkpoints of many files, which take a while to go: `python -m tests.noop_files`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.noop import noop_job

FILES = 3000


def job_with_files(config: Mapping[str, Any]) -> None:
    """The trainable."""
    from phasegpt.runs import run_paths
    from tune.jobs import from_config

    job, spec = from_config(config)
    folder = run_paths(Path(spec["storage"]), spec["track"], f"{spec['name']}/{job.name}").checkpoints
    for name, count in (("checkpoint-1", FILES), ("adapter_model", 1)):
        if job.kind != "baseline" and not (folder / name).exists():
            stage = folder / f"{name}-made"
            stage.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (stage / f"{number}.txt").write_text("small")
            stage.rename(folder / name)
    noop_job(config)


if __name__ == "__main__":
    from tests.noop_files import job_with_files as job
    from tune.search import main

    sys.exit(main(sys.argv[1:], job))
