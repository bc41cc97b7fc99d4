"""Faults of processes, disks and clocks, while a search of jobs that train nothing runs on a real Ray.

Each fault takes a cluster, which faults that are not Ray's share, and a seed that says when it strikes; it returns what
became of the search once that was gone on with: "whole", a reason why it was left out, or what is wrong.
"""

import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.invariants import broken
from tests.faults.place import Place, ended, last_line, new_search, until
from tests.mlflow_server import MlflowServer, running
from tests.noop import SECONDS
from tests.processes import MARK, with_mark
from tune import environment
from tune.spool import SPOOL
from tune.sync import sync

TRIALS, PAUSE = 12, 20.0
CLOCK = "clock-goes-back"
SITE = f"""import os, time
_now, _mark = time.time, {CLOCK!r}
time.time = lambda: _now() - (3600 if os.path.exists(os.path.join(os.environ["PHASEGPT_CLOCK"], _mark)) else 0)
"""


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


Strike = Callable[[Place, subprocess.Popen[str], random.Random], None]


def _moment(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
    place.wait_for(process, dice.randint(1, TRIALS), dice.uniform(0.0, 0.5))


def _outcome(place: Place, status: int, err: str, again: list[str]) -> str:
    """Of a search that a fault has hit and that has ended: go on with it as often as it says, and look."""
    for _ in range(2):
        if status == 0:
            break
        status, err = ended(place.start("--resume", "killed", *again))
    if status:
        return f"went on with status {status}: {last_line(err)}"
    sync(place.folder / "experiments/v14/track_b/killed" / SPOOL, place.mlflow)
    return "; ".join(broken(place.folder, "killed", TRIALS, place.mlflow)) or "whole"


def _hit(strike: Strike, name: str, cluster: Cluster, seed: int, own_ray: bool = False) -> str:
    """A search that is hit once."""
    dice, place = random.Random(f"{name}/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    words = cluster.words() if not own_ray else new_search(TRIALS, "--sampler", "random", "--max-concurrent", "2")
    process = place.start(*words)
    _moment(place, process, dice)
    strike(place, process, dice)
    status, err = ended(process)
    until(lambda: not place.left(), 60)
    return _outcome(place, status, err, [] if own_ray else ["--address", cluster.address])


def _kill_driver(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
    process.kill()


def _pause_driver(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
    _pause(process.pid)


def _pause(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(PAUSE)
        os.kill(pid, signal.SIGCONT)


def _kill_raylet(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
    for pid, command in with_mark(place.mark).items():
        if "/raylet/raylet" in command.split(" ")[0]:
            os.kill(pid, signal.SIGKILL)


def _to_actor(do: Callable[[int], None], cluster: Cluster) -> Strike:
    def strike(place: Place, process: subprocess.Popen[str], dice: random.Random) -> None:
        found = with_mark(cluster.mark).items()
        actors = [pid for pid, command in found if command.startswith("ray::ImplicitFunc")]
        if actors:
            do(dice.choice(actors))

    return strike


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_actor(cluster: Cluster, seed: int) -> str:
    """A warm actor dies; nobody goes on by hand."""
    return _hit(_to_actor(_kill, cluster), "kill_actor", cluster, seed)


def pause_actor(cluster: Cluster, seed: int) -> str:
    """A warm actor stands still for a while."""
    return _hit(_to_actor(_pause, cluster), "pause_actor", cluster, seed)


def clock_back(cluster: Cluster, seed: int) -> str:
    """The driver's clock jumps back an hour."""
    site = cluster.folder / f"site-{seed}-{uuid.uuid4().hex[:8]}"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    os.environ["PHASEGPT_CLOCK"] = str(site)
    dice, place = random.Random(f"clock/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    place = Place(place.folder, place.mark, paths=(str(site),))
    process = place.start(*cluster.words())
    _moment(place, process, dice)
    (site / CLOCK).touch()
    return _outcome(place, *ended(process), ["--address", cluster.address])


def _server(strike: Callable[[MlflowServer], None], name: str, cluster: Cluster, seed: int) -> str:
    """A search whose MLflow server is hit once; what waits is sent afterwards."""
    place = cluster.place(seed)
    with running(MlflowServer(place.folder)) as server:
        place = Place(place.folder, place.mark, uri=server.url)
        process = place.start(*cluster.words())
        _moment(place, process, random.Random(f"{name}/{seed}"))  # noqa: S311 - moments, not secrets
        strike(server)
        status, err = ended(process)
        return _outcome(place, status, err, ["--address", cluster.address])


def _kill_server(server: MlflowServer) -> None:
    server.kill()
    server.start()


def _pause_server(server: MlflowServer) -> None:
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    time.sleep(PAUSE)
    os.killpg(server.process.pid, signal.SIGCONT)


@contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _filled(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"\0" * 4096)
        except OSError:
            return ballast


def full_storage(cluster: Cluster, seed: int) -> str:
    """The disk of the search has no room left, until somebody makes some."""
    dice, place = random.Random(f"full/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    disk, database = place.folder / "small", f"sqlite:///{place.folder}/mlflow.db"
    with _small_disk(disk, 64):
        (disk / SECONDS).write_text("0.3")
        place = Place(disk, place.mark, uri=database)
        process = place.start(*cluster.words())
        _moment(place, process, dice)
        ballast = _filled(disk)
        status, err = ended(process)
        ballast.unlink()
        if status not in (0, 3) or "Traceback" in err:
            return f"ended with status {status}: {last_line(err)}"
        return _outcome(place, status, err, ["--address", cluster.address])


def read_only_results(cluster: Cluster, seed: int) -> str:
    """The folder of the results can be written to no more, until it can again."""
    dice, place = random.Random(f"ro/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    results = place.folder / "results"
    with _small_disk(results, 64):
        process = place.start(*cluster.words())
        _moment(place, process, dice)
        until(lambda: _remounted(results, "ro"), 10)
        status, err = ended(process)
        _remounted(results, "rw")
        if status not in (0, 3) or "Traceback" in err:
            return f"ended with status {status}: {last_line(err)}"
        return _outcome(place, status, err, ["--address", cluster.address])


def _remounted(folder: Path, how: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=False, capture_output=True)
    return done.returncode == 0


def full_server(cluster: Cluster, seed: int) -> str:
    """The disk of the MLflow server has no room left, until somebody makes some."""
    place = cluster.place(seed)
    disk = place.folder / "server"
    with _small_disk(disk, 64), running(MlflowServer(disk)) as server:
        place = Place(place.folder, place.mark, uri=server.url)
        process = place.start(*cluster.words())
        _moment(place, process, random.Random(f"full-server/{seed}"))  # noqa: S311 - moments, not secrets
        ballast = _filled(disk)
        status, err = ended(process)
        ballast.unlink()
        return _outcome(place, status, err, ["--address", cluster.address])


def same_name(cluster: Cluster, seed: int) -> str:
    """Two searches of the same name at once: one runs, the other is refused."""
    dice, place = random.Random(f"same/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    one = place.start(*cluster.words())
    time.sleep(dice.uniform(0.0, 5.0))
    other = place.start(*cluster.words())
    ends = [ended(one), ended(other)]
    if sorted(status for status, _ in ends) != [0, 2]:
        return f"they ended with {[status for status, _ in ends]}: {last_line(ends[1][1])}"
    return _outcome(place, 0, "", [])


def two_searches(cluster: Cluster, seed: int) -> str:
    """Two searches on one cluster, in one storage, with one MLflow."""
    place = cluster.place(seed)
    one, other = place.start(*cluster.words()), place.start(*cluster.words("other"))
    ends = [ended(one), ended(other)]
    if any(status for status, _ in ends):
        return f"they ended with {[status for status, _ in ends]}: {last_line(ends[1][1] or ends[0][1])}"
    wrong = [line for name in ("killed", "other") for line in broken(place.folder, name, TRIALS)]
    return "; ".join(wrong) or "whole"


def _of_root(fault: Callable[[Cluster, int], str]) -> Callable[[Cluster, int], str]:
    def inject(cluster: Cluster, seed: int) -> str:
        return fault(cluster, seed) if os.geteuid() == 0 else "skipped: only root can mount a small disk"

    return inject


PROCESS_FAULTS: dict[str, Callable[[Any, int], str]] = {
    "kill_driver": partial(_hit, _kill_driver, "kill_driver", own_ray=True),
    "kill_raylet": partial(_hit, _kill_raylet, "kill_raylet", own_ray=True),
    "kill_actor": kill_actor,
    "kill_server": partial(_server, _kill_server, "kill_server"),
    "pause_driver": partial(_hit, _pause_driver, "pause_driver"),
    "pause_actor": pause_actor,
    "pause_server": partial(_server, _pause_server, "pause_server"),
    "full_storage": _of_root(full_storage),
    "full_server": _of_root(full_server),
    "read_only_results": _of_root(read_only_results),
    "clock_back": clock_back,
    "same_name": same_name,
    "two_searches": two_searches,
}
