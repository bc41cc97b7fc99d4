"""Disks that are full or can be read alone, under a search and under its MLflow server. Only root can mount them."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.place import Place, ended, last_line, until
from tests.faults.struck import Cluster, Fault, moment, outcome
from tests.mlflow_server import MlflowServer, running
from tests.noop import SECONDS


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
        moment(place, process, dice)
        ballast = _filled(disk)
        status, err = ended(process)
        ballast.unlink()
        if status not in (0, 3) or "Traceback" in err:
            return f"ended with status {status}: {last_line(err)}"
        return outcome(place, status, err, ["--address", cluster.address])


def read_only_results(cluster: Cluster, seed: int) -> str:
    """The folder of the results can be written to no more, until it can again."""
    dice, place = random.Random(f"ro/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    results = place.folder / "results"
    with _small_disk(results, 64):
        process = place.start(*cluster.words())
        moment(place, process, dice)
        until(lambda: _remounted(results, "ro"), 10)
        status, err = ended(process)
        _remounted(results, "rw")
        if status not in (0, 3) or "Traceback" in err:
            return f"ended with status {status}: {last_line(err)}"
        return outcome(place, status, err, ["--address", cluster.address])


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
        moment(place, process, random.Random(f"full-server/{seed}"))  # noqa: S311 - moments, not secrets
        ballast = _filled(disk)
        status, err = ended(process)
        ballast.unlink()
        return outcome(place, status, err, ["--address", cluster.address])


def _of_root(fault: Fault) -> Fault:
    def inject(cluster: Cluster, seed: int) -> str:
        return fault(cluster, seed) if os.geteuid() == 0 else "skipped: only root can mount a small disk"

    return inject


DISK_FAULTS: dict[str, Fault] = {
    "full_storage": _of_root(full_storage),
    "full_server": _of_root(full_server),
    "read_only_results": _of_root(read_only_results),
}
