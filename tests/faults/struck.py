"""A search of jobs that train nothing on a real Ray, which something happens to, and what became of it.

Each fault takes a cluster, which faults that are not Ray's share, and a seed that says when it strikes; it returns what
became of the search once that was gone on with: "whole", a reason why it was left out, or what is wrong.
"""

import os
import random
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.faults.invariants import broken
from tests.faults.place import Place, ended, last_line, new_search, until
from tests.noop import SECONDS
from tests.processes import MARK
from tune import environment
from tune.spool import SPOOL
from tune.sync import sync

TRIALS = 12


class Cluster:
    """A Ray of two CPUs for the searches of all injections, started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark, self._address = folder, uuid.uuid4().hex, ""

    @property
    def address(self) -> str:
        """Where it is."""
        if not self._address:
            environment.prepare(own_cluster=True)
            os.environ |= {MARK: self.mark, "RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "600"}
            import ray

            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
            self._address = ray.get_runtime_context().gcs_address
        return self._address

    def close(self) -> None:
        """End it where it was started."""
        if self._address:
            import ray

            ray.shutdown()

    def place(self, seed: int, uri: str = "") -> Place:
        """A new folder."""
        folder = self.folder / f"{seed}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        (folder / SECONDS).write_text("0.3")
        return Place(folder, uuid.uuid4().hex, uri=uri)

    def words(self, name: str = "killed") -> list[str]:
        """The options of a new search on it."""
        own = new_search(TRIALS, "--sampler", "random", "--max-concurrent", "2", name=name)
        return [*own, "--address", self.address]


Fault = Callable[[Cluster, int], str]
Strike = Callable[[Place, subprocess.Popen[str], random.Random], None]


def moment(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
    """Wait until the moment that the dice say, in the middle of some job."""
    place.wait_for(process, dice.randint(1, TRIALS), dice.uniform(0.0, 0.5))


def outcome(place: Place, status: int, err: str, again: list[str], trials: int = TRIALS) -> str:
    """Of a search that a fault has hit and that has ended: go on with it as often as it says, and look."""
    for _ in range(2):
        if status == 0:
            break
        status, err = ended(place.start("--resume", "killed", *again))
    if status:
        return f"went on with status {status}: {last_line(err)}"
    sync(place.folder / "experiments/v14/track_b/killed" / SPOOL, place.mlflow)
    return "; ".join(broken(place.folder, "killed", trials, place.mlflow)) or "whole"


def hit(strike: Strike, name: str, cluster: Cluster, seed: int, own_ray: bool = False) -> str:
    """A search that is hit once."""
    dice, place = random.Random(f"{name}/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    words = cluster.words() if not own_ray else new_search(TRIALS, "--sampler", "random", "--max-concurrent", "2")
    process = place.start(*words)
    moment(place, process, dice)
    strike(place, process, dice)
    status, err = ended(process)
    until(lambda: not place.left(), 60)
    return outcome(place, status, err, [] if own_ray else ["--address", cluster.address])
