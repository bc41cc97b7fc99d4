"""What a cluster has room for: how many jobs at once, and what each worker of a job may use. Plain arithmetic on nodes.

A request that the nodes cannot meet is refused with what they have, instead of waiting for ever as Ray would; `waiting`
knows of clusters that grow.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.request import RequestError

Node = Mapping[str, float]
"""What one machine has: {"CPU": 16, "GPU": 1, "accelerator_type:H100": 1, …}."""

PLACEMENTS = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
OPTIONS = ("gpus_per_worker", "cpus_per_worker", "min_workers", "accelerator_type", "placement")
"""What a command is told of resources, by the names of its options."""
WAIT = 30.0
"""How many minutes a search waits for the first nodes of a cluster that grows."""


class ClusterError(RequestError):
    """The cluster cannot run what was asked; the message names its real resources."""


@dataclass(frozen=True)
class Ask:
    """What the user wants of resources for one job; None: what the cluster suggests."""

    workers: int = 1
    gpus: float | None = None
    cpus: float | None = None
    least: int | None = None
    accelerator_type: str | None = None
    placement: str = "PACK"

    @classmethod
    def of(cls, workers: int, options: argparse.Namespace) -> "Ask":
        """From the options that `add_options` gave a command. Raises ClusterError where they contradict each other."""
        ask = cls(
            workers,
            options.gpus_per_worker,
            options.cpus_per_worker,
            options.min_workers,
            options.accelerator_type,
            options.placement or "PACK",
        )
        wrong = [
            f"--{name} {value:g}: expected a number above 0"
            for name, value in (("cpus-per-worker", ask.cpus), ("min-workers", ask.least))
            if value is not None and not 0 < value < math.inf
        ]
        if ask.gpus is not None and not (0 <= ask.gpus <= 1 or ask.gpus % 1 == 0 < ask.gpus):
            wrong.append(f"--gpus-per-worker {ask.gpus:g}: expected a whole number, or a fraction of one GPU")
        if ask.least is not None and ask.least > ask.workers:
            wrong.append(f"--min-workers {ask.least}: expected at most the number of workers, {ask.workers}")
        if wrong:
            raise ClusterError("\n".join(wrong))
        return ask


@dataclass(frozen=True)
class Slots:
    """How many jobs run at once, and what each of a job's workers may use."""

    count: int
    cpus: float
    gpus: float
    workers: int = 1


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `OPTIONS`."""
    p.add_argument("--gpus-per-worker", type=float, metavar="X", help="GPUs of a worker; fractions share one")
    p.add_argument("--cpus-per-worker", type=float, metavar="N", help="CPUs of a worker (default: a fair share)")
    p.add_argument("--min-workers", type=int, metavar="N", help="go on with fewer workers where nodes are lost")
    p.add_argument("--accelerator-type", metavar="NAME", help="run on nodes with this GPU alone, as Ray names it: H100")
    p.add_argument("--placement", choices=PLACEMENTS, help="how workers lie on nodes (default: PACK, close together)")


def shared_by(workers: int | None, option: str) -> list[tuple[str, Any, str]]:
    """What an option that says how many workers share a run lays on the config."""
    if workers is None:
        return []
    place = "training.distributed"
    return [(f"{place}.num_gpus", workers, option), (f"{place}.enabled", workers > 1, option)]


def slots(nodes: Sequence[Node], ask: Ask, max_concurrent: int | None = None) -> Slots:
    """As many jobs as the nodes have room for, at most `max_concurrent`, with the cores shared out evenly.

    A worker gets a GPU where there are any. A job of one worker without a GPU gets two cores or more; one of several
    workers a core each at least, two where they are. Raises ClusterError where not even one job fits.
    """
    usable = [node for node in nodes if _has_type(node, ask.accelerator_type)]
    cpus, gpus = _least(usable, ask)
    fits = _jobs(usable, ask, cpus, gpus)
    if fits < 1 and ask.least is not None:
        fits = min(1, _jobs(usable, ask, cpus, gpus, ask.least))
    if fits < 1:
        raise ClusterError(_refusal(nodes, ask, cpus, gpus))
    count = min(fits, max_concurrent or fits)
    return Slots(count, cpus if ask.cpus is not None else _fair_cpus(usable, ask, cpus, gpus, count), gpus, ask.workers)


def bundles(nodes: Sequence[Node], ask: Ask) -> list[dict[str, float]]:
    """What each worker of a job needs at least, as Ray's placement groups take it."""
    cpus, gpus = _least([node for node in nodes if _has_type(node, ask.accelerator_type)], ask)
    each = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **type_resource(ask.accelerator_type)}
    return [dict(each) for _ in range(ask.least or ask.workers)]


def type_resource(accelerator_type: str | None) -> dict[str, float]:
    """What a job takes of the resource by which Ray tells nodes with such a GPU: next to nothing."""
    return {f"accelerator_type:{accelerator_type}": 0.001} if accelerator_type else {}


def _least(usable: Sequence[Node], ask: Ask) -> tuple[float, float]:
    """The cores and GPUs of a worker, as they were asked for or as the nodes suggest."""
    gpus = ask.gpus if ask.gpus is not None else (1.0 if _total(usable, "GPU") else 0.0)
    return (ask.cpus if ask.cpus is not None else _least_cpus(usable, ask, gpus)), gpus


def _has_type(node: Node, accelerator_type: str | None) -> bool:
    return accelerator_type is None or f"accelerator_type:{accelerator_type}" in node


def _total(nodes: Sequence[Node], name: str) -> float:
    return sum(node.get(name, 0.0) for node in nodes)


def _least_cpus(nodes: Sequence[Node], ask: Ask, gpus: float) -> float:
    """The cores of a worker that decide how many jobs run at once."""
    if gpus:
        return 1.0
    return 2.0 if _jobs(nodes, ask, 2.0, gpus) else 1.0


def _jobs(nodes: Sequence[Node], ask: Ask, cpus: float, gpus: float, workers: int | None = None) -> int:
    """How many jobs fit at once, whose workers lie on nodes as they were asked to."""
    each = [_workers_on(node, cpus, gpus) for node in nodes]
    count = workers or ask.workers
    if count == 1:
        return sum(each)
    if ask.placement == "STRICT_PACK":
        return sum(room // count for room in each)
    if ask.placement == "STRICT_SPREAD":
        return _spread(each, count)
    return sum(each) // count


def _spread(each: Sequence[int], count: int) -> int:
    """Jobs whose `count` workers all lie on different nodes: the most j with Σ min(room, j) ≥ j · count."""
    return max((j for j in range(1, sum(each) + 1) if sum(min(room, j) for room in each) >= j * count), default=0)


def _workers_on(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = int(node.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpus
    own = node.get("GPU", 0.0)
    by_gpus = int(own) * int(1 / gpus + 1e-9) if gpus < 1 else int(own // gpus)
    return min(by_cpus, by_gpus)


def _fair_cpus(nodes: Sequence[Node], ask: Ask, cpus: float, gpus: float, count: int) -> float:
    """The most whole cores a worker may have with which `count` jobs still fit."""
    most = cpus
    while _jobs(nodes, ask, most + 1, gpus) >= count:
        most += 1
    return most


def _refusal(nodes: Sequence[Node], ask: Ask, cpus: float, gpus: float) -> str:
    workers = "a trial" if ask.workers == 1 else f"{ask.least or ask.workers} workers"
    each = "" if ask.workers == 1 else " each"
    kind = f" on nodes with {ask.accelerator_type}" if ask.accelerator_type else ""
    where = f", placed {ask.placement}" if ask.workers > 1 and ask.placement != "PACK" else ""
    has = "; ".join(_said(node) for node in nodes) or "no node"
    cure = "add nodes or ask for less (--gpus-per-worker, --cpus-per-worker, fewer workers)"
    verb = "needs" if ask.workers == 1 else "need"
    return f"{workers} {verb} {gpus:g} GPU and {cpus:g} CPU{each}{kind}{where}; the cluster has {has}; {cure}"


def _said(node: Node) -> str:
    kinds = [name.removeprefix("accelerator_type:") for name in node if name.startswith("accelerator_type:")]
    kind = f" ({', '.join(kinds)})" if kinds else ""
    return f"a node with {node.get('GPU', 0.0):g} GPU{kind} and {node.get('CPU', 0.0):g} CPU"


def chosen(options: Any) -> list[str]:
    """The words of a command line that give these options again."""
    words: list[str] = []
    for name in OPTIONS:
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return words
