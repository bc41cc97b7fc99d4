"""What the driver's machine does while a search or a run lasts: processor, memory, disk, network, GPUs.

MLflow's own monitors read it, and the values go under MLflow's own names (`system/…`), so that its UI shows them on the
run's page. Other machines of a cluster are not looked at; what each job's process takes, it tells itself.
"""

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.process_load import SYSTEM
from tune.spool import read_spool

if TYPE_CHECKING:
    from tune.tracking import Tracker

log = logging.getLogger("phasegpt")
SECONDS = 10.0
"""How often it is read: a row each time."""


class MachineLoad:
    """Reads the machine every SECONDS while its block lasts, and once more at its end, for the run `key`.

    The step of a reading is in whole seconds since `spool`, the tracker's own, was begun: a search that goes on after a
    cut goes on with its steps as well. An error of a reading ends the readings, never the block.
    """

    def __init__(self, tracker: "Tracker", key: str, spool: Path) -> None:
        self._tracker, self._key, self._spool = tracker, key, spool
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="machine-load", daemon=True)

    def __enter__(self) -> "MachineLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            events, monitors = read_spool(self._spool), _monitors()
            begun = events[0]["at"] / 1000 if events else time.time()  # none where the disk was full from the start
            while not self._over.wait(SECONDS):
                self._tell(monitors, begun)
            self._tell(monitors, begun)
        except (OSError, RuntimeError) as error:
            log.warning("the machine's load is no longer read: %s: %s", type(error).__name__, error)

    def _tell(self, monitors: list[Any], begun: float) -> None:
        self._tracker.metrics(self._key, read(monitors), int(time.time() - begun))


def read(monitors: list[Any]) -> dict[str, float]:
    """One reading of MLflow's monitors, under the names that MLflow gives it."""
    found: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        found |= {f"{SYSTEM}{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return found


def _monitors() -> list[Any]:
    """Those that this machine has something for; each says by an error that it has not."""
    import psutil
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    psutil.cpu_percent()  # each call says what went on since the one before, the first one nothing
    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for of_gpus in (GPUMonitor, ROCMMonitor):
        try:
            found.append(of_gpus())
        except (ImportError, RuntimeError) as error:
            log.debug("%s: %s", of_gpus.__name__, error)
    return found
