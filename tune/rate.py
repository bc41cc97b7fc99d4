"""How fast this machine is: products and generation, as `--measure` left it in the user's cache, or measured for an
instant. Imports no torch; `measure_rate.py` is what measures properly.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from phasegpt.bundled import cache_dir
from phasegpt.files import read_json, write_text
from tune.machine import cores

FILE = "rate.json"
INSTANT = 0.2  # seconds
BUSY = 0.5  # of all cores: from this load on a rate says more of the others


@dataclass(frozen=True)
class Decoding:
    """Seconds of one step of generation at a `small` and a `large` number of prompts at once, on so many parameters.

    `of` says what was run: a model, or products of its sizes. `spread` is the least and the most of each.
    """

    of: str
    parameters: float
    small: tuple[int, float]
    large: tuple[int, float]
    spread: tuple[tuple[float, float], ...] = ()

    def seconds(self, parameters: float, prompts: float) -> float:
        """A step of another model at another width: on the line through both points, in proportion to parameters."""
        (few, first), (many, second) = self.small, self.large
        step = first + (second - first) * (prompts - few) / (many - few)
        return max(step, 0.5 * first) * parameters / self.parameters


TYPICAL, TYPICAL_PRODUCT = Decoding("SmolLM2-135M on two cores", 1.345e8, (1, 0.083), (16, 0.233)), 1.2e11
"""Generation where it was not measured, and the rate of a product beside which it took that long: a step reads every
weight, so that more prompts at once cost far less than each for itself."""


@dataclass(frozen=True)
class Rate:
    """FLOP/s of products by precision, and generation where it was measured. `spread` is the quartiles of `products`.

    `measured_at` is empty for a rate that was measured for an instant. `load` is how many processes wanted a core just
    before it was measured.
    """

    products: Mapping[str, float]
    decoding: Decoding | None = None
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    device: str = "cpu"
    measured_at: str = ""
    host: str = ""
    cores: int = 0
    threads: int = 0
    torch: str = ""
    load: float = 0.0

    @property
    def beside(self) -> str:
        """What to know of a rate that was measured while others worked; empty where the machine was quiet."""
        if self.load <= BUSY * self.cores:
            return ""
        return f"while {self.load:.0f} processes shared {self.cores} cores: measure again when it is quiet"

    def product(self, precision: str = "float32") -> float:
        """FLOP/s in a precision; what was not measured runs as float32."""
        return self.products.get(precision, self.products["float32"])

    def decoding_step(self, parameters: float, prompts: float) -> float:
        """Seconds in which generation adds a token to each of so many answers."""
        if self.decoding is not None:
            return self.decoding.seconds(parameters, prompts)
        return TYPICAL.seconds(parameters, prompts) * TYPICAL_PRODUCT / self.product()

    def of_share(self, share: float) -> "Rate":
        """The rate of a part of the machine: of one trial among several at once."""
        decoding = self.decoding and replace(
            self.decoding,
            small=(self.decoding.small[0], self.decoding.small[1] / share),
            large=(self.decoding.large[0], self.decoding.large[1] / share),
        )
        return replace(self, products={name: flops * share for name, flops in self.products.items()}, decoding=decoding)


def rate_file() -> Path:
    """Where `--measure` keeps the rate: beside the bundled model."""
    return cache_dir() / FILE


def described(rate: Rate) -> str:
    """A measured rate for people, with its spread."""
    said = [
        f"{name} {flops / 1e9:.0f} GFLOP/s [{rate.spread[name][0] / 1e9:.0f}, {rate.spread[name][1] / 1e9:.0f}]"
        for name, flops in rate.products.items()
    ]
    if rate.decoding is not None:
        widths = zip((rate.decoding.small, rate.decoding.large), rate.decoding.spread, strict=True)
        steps = [f"{s * 1e3:.3g} ms [{low * 1e3:.3g}, {high * 1e3:.3g}] for {n}" for (n, s), (low, high) in widths]
        said.append(f"a token of generation {' and '.join(steps)} prompts at once ({rate.decoding.of})")
    beside = f", {rate.beside}" if rate.beside else ""
    return f"measured on {rate.device}, {rate.threads} threads, torch {rate.torch}: {', '.join(said)}{beside}"


def keep_rate(rate: Rate) -> None:
    """Write the rate to `rate_file`. Raises OSError where the cache cannot be written."""
    write_text(rate_file(), json.dumps(asdict(rate), indent=1) + "\n")


def stored_rate(device: str) -> tuple[Rate | None, str]:
    """The kept rate of this machine on cpu or cuda, or None and why there is none; "" where nothing was kept."""
    path = rate_file()
    if not os.path.isfile(path):
        return None, ""
    try:
        rate = _read(read_json(path))
    except (ValueError, KeyError, TypeError, OSError):
        return None, f"{path} cannot be read"
    own = (socket.gethostname(), cores())
    if (rate.host, rate.cores) != own:
        return None, f"{path} is of another machine ({rate.host}, {rate.cores} cores)"
    if rate.device.split(":")[0] != device:
        return None, f"{path} was measured on {rate.device}"
    return rate, ""


def _read(kept: Mapping[str, Any]) -> Rate:
    decoding = kept["decoding"] and Decoding(
        kept["decoding"]["of"],
        kept["decoding"]["parameters"],
        tuple(kept["decoding"]["small"]),
        tuple(kept["decoding"]["large"]),
        tuple(tuple(pair) for pair in kept["decoding"]["spread"]),
    )
    spread = {name: tuple(pair) for name, pair in kept["spread"].items()}
    rate = Rate(**{**kept, "decoding": decoding, "spread": spread})
    if not all(value > 0 for value in rate.products.values()) or "float32" not in rate.products:
        raise ValueError("a rate must be above 0")
    return rate


def instant_rate() -> Rate:
    """The rate of a float32 product, from one repeated for INSTANT on the CPU: low while other things run."""
    import numpy as np

    size = 1024
    a = np.ones((size, size), dtype=np.float32)
    np.matmul(a, a)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < INSTANT:
        np.matmul(a, a)
        count += 1
    return Rate({"float32": count * 2 * size**3 / (time.perf_counter() - begun)})
