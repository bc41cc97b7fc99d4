"""What a clock and a memory gauge say of a run: start-up, speed, peak memory. Never part of what a run is compared by.

Everything counts from where this process began with the run: what an earlier process did before a cut is not in it.
"""

import resource
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from phasegpt.ranks import everyones

Reading = Mapping[str, float | list[float]]
SCALING = {"training_throughput": "tokens_per_second", "memory_usage": "memory_gb"}
"""Declared metrics that a meter reads, each with its name in a reading."""
LINUX = Path("/proc/self")


class Meter:
    """One run's meter. `launched` is when the run was asked for, by `time.time()`; None: now."""

    def __init__(self, launched: float | None = None) -> None:
        self.launched = time.time() if launched is None else launched
        self.start_seconds: float | None = None
        self.seconds, self.tokens, self.examples = 0.0, 0, 0
        self._step_began = 0.0

    def step_begins(self) -> None:
        """An optimizer step begins; the first one ends the start-up, whose memory (loading a model) does not count."""
        if self.start_seconds is None:
            self.start_seconds = time.time() - self.launched
            forget_peak()
        self._step_began = time.monotonic()

    def count(self, batch: Mapping[str, Tensor], examples: int) -> None:
        """A packed micro-batch of this worker, of `examples` examples; a prompt counts once for its answers."""
        if examples:
            self.tokens += batch["input_ids"].numel()
            self.examples += examples

    def step_ends(self) -> None:
        """An optimizer step is done; what is saved and evaluated after it does not count."""
        if on_gpu():
            torch.cuda.synchronize()  # what was asked of it is not yet done
        self.seconds += time.monotonic() - self._step_began

    def read(self) -> Reading:
        """What all workers have done together; every one of them must ask.

        `memory_gb` [workers] is the most memory each has used since its first step. Speeds and start-up are there once
        a step was taken.
        """
        hands = everyones((self.tokens, self.examples, peak_gb()))
        found: dict[str, float | list[float]] = {"memory_gb": [memory for _, _, memory in hands]}
        if self.start_seconds is not None and self.seconds > 0:
            found["start_seconds"] = self.start_seconds
            found["step_seconds"] = self.seconds
            found["tokens_per_second"] = sum(tokens for tokens, _, _ in hands) / self.seconds
            found["examples_per_second"] = sum(examples for _, examples, _ in hands) / self.seconds
        return found


def scaling_metrics(reading: Reading, wanted: tuple[str, ...]) -> dict[str, float]:
    """The declared metrics among `wanted` that a reading has; of workers' memory the largest."""
    found = {}
    for name, key in SCALING.items():
        value = reading.get(key)
        if name in wanted and value is not None:
            found[name] = max(value) if isinstance(value, list) else value
    return found


def on_gpu() -> bool:
    """Whether this process has used a GPU; a machine may have one that a run was told to leave alone."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def forget_peak() -> None:
    """Begin the peak anew: a warm process has run other jobs before. Where the system cannot, it stays."""
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
    elif (LINUX / "clear_refs").exists():
        (LINUX / "clear_refs").write_text("5")


def peak_gb() -> float:
    """The most memory in use so far, in GB: what torch has allocated on the GPU, else what the process has resident."""
    if on_gpu():
        return torch.cuda.max_memory_allocated() / 1e9
    if (LINUX / "status").exists():
        status = (LINUX / "status").read_text(encoding="ascii", errors="replace")
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # macOS, in bytes
