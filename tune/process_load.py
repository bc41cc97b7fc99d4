"""What the process of a job takes of its machine, told with the job's reports; of several workers, the first one's."""

import math
import time

SYSTEM = "system/"
"""Where MLflow's UI looks for what is no metric of a model."""
SECONDS = 10.0


class ProcessLoad:
    """Readings of this process: the first when it is asked for, then one every SECONDS, and any asked for outright."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._process.cpu_percent()  # each call counts from the one before
        self._last = -math.inf

    def now_and_then(self) -> dict[str, float]:
        """A reading where the last one is old enough, else nothing."""
        return self.read() if time.monotonic() - self._last >= SECONDS else {}

    def read(self) -> dict[str, float]:
        """Processor since the last reading (100 is one core) and resident memory; with a GPU what torch has there."""
        self._last = time.monotonic()
        found = {
            f"{SYSTEM}process_cpu_percentage": self._process.cpu_percent(),
            f"{SYSTEM}process_memory_megabytes": self._process.memory_info().rss / 1e6,
        }
        return found | _on_gpu()


def _on_gpu() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {f"{SYSTEM}process_gpu_memory_megabytes": torch.cuda.memory_allocated() / 1e6}
