"""Processes that are killed or stand still, and a clock that jumps, while a search runs."""

import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from tests.faults.place import Place, ended, last_line, new_search, until
from tests.faults.struck import Cluster, Fault, Strike, hit, moment, outcome
from tests.mlflow_server import MlflowServer, running
from tests.noop import SECONDS
from tests.processes import with_mark

PAUSE = 20.0
ON_WORKERS = 4
"""Trials where each starts two workers, which takes them ten seconds or more."""
CLOCK = "clock-goes-back"
SITE = f"""import os, time
_now, _mark = time.time, {CLOCK!r}
time.time = lambda: _now() - (3600 if os.path.exists(os.path.join(os.environ["PHASEGPT_CLOCK"], _mark)) else 0)
"""


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
        until(lambda: bool(_actors(cluster)) or process.poll() is not None, 30)
        do(dice.choice(_actors(cluster)))

    return strike


def _actors(cluster: Cluster) -> list[int]:
    return _named("ray::ImplicitFunc", cluster.mark)


def _named(title: str, mark: str) -> list[int]:
    return [pid for pid, command in with_mark(mark).items() if command.startswith(title)]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_actor(cluster: Cluster, seed: int) -> str:
    """A warm actor dies; nobody goes on by hand."""
    return hit(_to_actor(_kill, cluster), "kill_actor", cluster, seed)


def kill_worker(cluster: Cluster, seed: int) -> str:
    """One of the two Train workers of a trial dies; nobody goes on by hand."""
    dice = random.Random(f"kill_worker/{seed}")  # noqa: S311 - moments, not secrets
    place = replace(cluster.place(seed), module="tests.noop_workers")
    (place.folder / SECONDS).write_text("1.5")
    words = new_search(ON_WORKERS, "--sampler", "random", "--workers-per-trial", "2", "--max-concurrent", "1")
    process = place.start(*words)
    place.wait_for(process, dice.randint(1, ON_WORKERS), dice.uniform(0.0, 1.0))
    if not (workers := _named("ray::RayTrainWorker", place.mark)):
        return f"no worker was there to be killed: {last_line(ended(process)[1])}"
    _kill(dice.choice(workers))
    status, err = ended(process)
    until(lambda: not place.left(), 60)
    return outcome(place, status, err, [], ON_WORKERS)


def pause_actor(cluster: Cluster, seed: int) -> str:
    """A warm actor stands still for a while."""
    return hit(_to_actor(_pause, cluster), "pause_actor", cluster, seed)


def clock_back(cluster: Cluster, seed: int) -> str:
    """The driver's clock jumps back an hour."""
    site = cluster.folder / f"site-{seed}-{uuid.uuid4().hex[:8]}"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    os.environ["PHASEGPT_CLOCK"] = str(site)
    dice, place = random.Random(f"clock/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    place = Place(place.folder, place.mark, paths=(str(site),))
    process = place.start(*cluster.words())
    moment(place, process, dice)
    (site / CLOCK).touch()
    return outcome(place, *ended(process), ["--address", cluster.address])


def _server(strike: Callable[[MlflowServer], None], name: str, cluster: Cluster, seed: int) -> str:
    """A search whose MLflow server is hit once; what waits is sent afterwards."""
    place = cluster.place(seed)
    with running(MlflowServer(place.folder)) as server:
        place = Place(place.folder, place.mark, uri=server.url)
        process = place.start(*cluster.words())
        moment(place, process, random.Random(f"{name}/{seed}"))  # noqa: S311 - moments, not secrets
        strike(server)
        status, err = ended(process)
        return outcome(place, status, err, ["--address", cluster.address])


def _kill_server(server: MlflowServer) -> None:
    server.kill()
    server.start()


def _pause_server(server: MlflowServer) -> None:
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    time.sleep(PAUSE)
    os.killpg(server.process.pid, signal.SIGCONT)


PROCESS_FAULTS: dict[str, Fault] = {
    "kill_driver": partial(hit, _kill_driver, "kill_driver", own_ray=True),
    "kill_raylet": partial(hit, _kill_raylet, "kill_raylet", own_ray=True),
    "kill_actor": kill_actor,
    "kill_worker": kill_worker,
    "kill_server": partial(_server, _kill_server, "kill_server"),
    "pause_driver": partial(hit, _pause_driver, "pause_driver"),
    "pause_actor": pause_actor,
    "pause_server": partial(_server, _pause_server, "pause_server"),
    "clock_back": clock_back,
}
