"""What a job takes from object storage before it begins, and gives back on its way: its own folder and its weights.

Any machine may run it: what it was when it was cut is fetched first, and what others go on from is put there before
the driver hears of it. In an ordinary folder all of this does nothing.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from phasegpt.mirror import Mirror, mirror_folder, mirror_of
from phasegpt.runs import RunPaths, run_paths
from tune.jobs import Job, trial_name

log = logging.getLogger("phasegpt")
ADDRESS = "storage_address"
"""The key of a spec that names the store; the folder that mirrors it is each machine's own."""


def job_paths(job: Job, spec: Mapping[str, Any]) -> RunPaths:
    """Where a job writes, on the machine whose storage folder the spec names."""
    return run_paths(Path(spec["storage"]), spec["track"], f"{spec['name']}/{job.name}")


class Luggage:
    """A job's files between this machine and the store. `spec` names this machine's folder. Methods raise OSError."""

    def __init__(self, job: Job, spec: Mapping[str, Any]) -> None:
        address = spec.get(ADDRESS)
        self.job = job
        self.spec = {**spec, "storage": str(mirror_folder(address))} if address else spec
        self.paths = job_paths(job, self.spec)
        self._mirror = mirror_of(Path(self.spec["storage"])) if address else None

    def bring(self) -> None:
        """Fetch what the job left elsewhere, the weights that it starts from, and models of the registry."""
        if self._mirror is None:
            return
        _pull(self._mirror, self.paths)
        if self.job.warm is not None:
            self._mirror.pull(job_paths(replace(self.job, name=trial_name(self.job.warm)), self.spec).checkpoints)
        self._mirror.pull(self.paths.references)

    def save(self) -> None:
        """Put there what the job has by now; checkpoints that it removed go there too."""
        if self._mirror is not None:
            self._mirror.push(self.paths.checkpoints, exact=True)
            self._mirror.push(self.paths.log)

    def leave(self) -> None:
        """The same at the job's end, its result last."""
        self.save()
        if self._mirror is not None:
            self._mirror.push(self.paths.results)


def fetch(paths: RunPaths) -> str:
    """Fetch what a job left that some machine ran; why that could not be done, or nothing. Does not raise."""
    mirror = mirror_of(paths.results.parent)
    try:
        if mirror is not None:
            _pull(mirror, paths)
    except OSError as error:
        log.warning("%s: what it left could not be fetched: %s", paths.name, error)
        return f"what it left could not be fetched: {error}"
    return ""


def _pull(mirror: Mirror, paths: RunPaths) -> None:
    for place in (paths.checkpoints, paths.log, paths.results):
        mirror.pull(place)
