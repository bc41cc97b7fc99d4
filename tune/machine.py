"""What this machine has for a search, read without torch and without Ray: cores, GPUs, memory, room on the disk."""

import math
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY = Path("/proc/meminfo")


def has_gpu() -> bool:
    """Whether this machine shows a GPU, without asking torch."""
    return shutil.which("nvidia-smi") is not None and Path("/dev/nvidiactl").exists()


@dataclass(frozen=True)
class Machine:
    """Cores as Ray counts them, free memory in bytes (None: unknown), and the bytes of each GPU (0: unknown)."""

    cores: int
    free_memory: float | None
    gpus: tuple[float, ...] = ()

    @property
    def node(self) -> dict[str, float]:
        """As `capacity.slots` takes a node."""
        return {"CPU": float(self.cores), **({"GPU": float(len(self.gpus))} if self.gpus else {})}


def this_machine() -> Machine:
    """This machine, as it is now."""
    return Machine(cores(), free_memory(), gpu_memory())


def described() -> str:
    """This machine in a few words, for the record."""
    gpus = len(gpu_memory())
    return f"{platform.system()} {platform.machine()}, {cores()} cores, {f'{gpus} GPUs' if gpus else 'no GPU'}"


def cores(quota: Path = QUOTA) -> int:
    """All cores, or as many as a container's quota leaves, rounded up."""
    every = os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return min(every, math.ceil(int(allowed) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return every


def free_memory(source: Path = MEMORY) -> float | None:
    """Bytes that new processes can have without swapping."""
    try:
        lines = source.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024.0 if found else None


def gpu_memory() -> tuple[float, ...]:
    """Bytes of each GPU that a process started here would see; 0 where the driver is slow to answer."""
    if not has_gpu():
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3)
        every = tuple(float(line) * 2**20 for line in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        every = tuple(0.0 for _ in Path("/dev").glob("nvidia[0-9]*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return every if visible is None else every[: len([name for name in visible.split(",") if name.strip()])]


def free_disk(folder: Path) -> float:
    """Bytes free where `folder` is or would be made."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return float(shutil.disk_usage(existing).free)
