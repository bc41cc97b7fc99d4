"""python -m cluster.grow: ask an autoscaling Ray cluster for nodes, wait until they are here, then run a command.

A search counts the nodes that are there when it begins; on a cluster that has shrunk to its head it is refused. The
request is withdrawn once it is met: from then on nodes stay for what runs on them, or until the cluster's idle timeout.
This module knows nothing of searches. Exit status: that of the command, else 0; 2 bad input or no such cluster, 3 the
nodes did not come in time, 130 interrupted.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence

THERE, BAD_INPUT, TOO_LATE, INTERRUPTED = 0, 2, 3, 130
LOOK_EVERY = 2.0
"""Seconds between two looks at the cluster."""

EXAMPLES = """examples:
  python -m cluster.grow --gpus 2 -- python -m tune.search --track b --address auto --storage /shared/phasegpt
  python -m cluster.grow --cpus 8 --minutes 5           wait for eight cores, and run nothing
"""


class NotReachedError(ConnectionError):
    """There is no cluster at the address, or it does not know our token."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m cluster.grow",
        description="Wait until a Ray cluster has grown, then run a command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--gpus", type=int, default=0, metavar="N", help="how many GPUs the cluster shall have")
    p.add_argument("--cpus", type=int, default=0, metavar="N", help="how many CPUs the cluster shall have")
    p.add_argument("--minutes", type=float, default=30.0, metavar="M", help="how long to wait (default: 30)")
    p.add_argument("--address", default="auto", metavar="ADDR", help="the Ray cluster (default: the one we are on)")
    p.add_argument("command", nargs="*", metavar="COMMAND", help="what to run then, after --")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Grow, then become the command; without one, the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(words)
    wanted = {name: n for name, n in (("GPU", options.gpus), ("CPU", options.cpus)) if n}
    if not wanted or min(wanted.values()) < 0 or options.minutes <= 0:
        parser().error("expected --gpus or --cpus of 1 or more, and --minutes above 0")
    try:
        there = grow(wanted, options.address, 60 * options.minutes)
    except NotReachedError as error:
        return _said(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _said("interrupted; the request for nodes is withdrawn", INTERRUPTED)
    if any(there[name] < n for name, n in wanted.items()):
        return _said(
            f"after {options.minutes:g} minutes {_amounts(there, wanted)} are here; ask for fewer, wait longer "
            "(--minutes), or see what the autoscaler says: ray status",
            TOO_LATE,
        )
    if options.command:
        os.execvp(options.command[0], options.command)  # noqa: S606 - the user's own words, no shell
    return THERE


def grow(wanted: Mapping[str, int], address: str, seconds: float) -> dict[str, float]:
    """What the cluster has of each resource that is `wanted` once it has enough, or after so many `seconds`.

    Raises NotReachedError.
    """
    _knock(address)
    import ray
    from ray.autoscaler.sdk import request_resources

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        last = str(error).strip().splitlines()[-1]
        raise NotReachedError(
            f"--address {address}: no Ray cluster that answers, or not with this token: {last}"
        ) from error
    try:
        request_resources(bundles=[{name: 1} for name, n in wanted.items() for _ in range(n)])
        return _wait(wanted, time.monotonic() + seconds)
    finally:
        request_resources(bundles=[])
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises NotReachedError where nothing listens at a HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise NotReachedError(f"--address {address}: nothing answers there ({error})") from error


def _wait(wanted: Mapping[str, int], end: float) -> dict[str, float]:
    """Looks until there is enough or the time is up; a line whenever something has come or gone."""
    import ray

    before = None
    while True:
        has = ray.cluster_resources()
        there = {name: has.get(name, 0.0) for name in wanted}
        if there != before:
            _said(f"{_amounts(there, wanted)} are here", THERE)
            before = there
        if all(there[name] >= n for name, n in wanted.items()) or time.monotonic() >= end:
            return there
        time.sleep(LOOK_EVERY)


def _amounts(there: Mapping[str, float], wanted: Mapping[str, int]) -> str:
    return " and ".join(f"{there[name]:g} of {n} {name}s" for name, n in wanted.items())


def _said(line: str, status: int) -> int:
    sys.stderr.write(f"{line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
