"""python -m cluster.local: a real Ray cluster of several nodes on this machine, to try what runs on many.

Exit status: 0 done, 2 bad input or it could not be started, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phasegpt import interrupts

if TYPE_CHECKING:
    from cluster.state import LocalCluster

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
EXAMPLES = """examples:
  python -m cluster.local start --nodes 3            three nodes of one CPU each, a dashboard, an MLflow server
  python -m cluster.submit --track b --trials 4      a search on it; no address is needed
  python -m cluster.local status
  python -m cluster.local stop                       ends every process; results, runs and champions stay
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m cluster.local",
        description="A Ray cluster of several nodes on this machine, with token, dashboard, shared storage and MLflow.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="start it", description="Start the cluster; takes about half a minute.")
    start.add_argument("--nodes", type=int, default=2, metavar="N", help="how many nodes (default: 2)")
    start.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs that each node counts (default: 1)")
    start.add_argument("--storage", metavar="FOLDER", help="what all nodes share (default: below $PHASEGPT_CACHE)")
    start.add_argument(
        "--host", default="127.0.0.1", metavar="ADDR", help="where dashboard and MLflow listen (default: 127.0.0.1)"
    )
    start.add_argument(
        "--port", type=int, metavar="N", help="the dashboard's port (default: 8265, or a free one where that is taken)"
    )
    start.add_argument(
        "--open-mlflow",
        action="store_true",
        help="with a --host that others reach: let all of them read, change and delete runs; MLflow asks for nothing",
    )
    start.set_defaults(run=_start)
    status = verbs.add_parser("status", help="nodes, addresses and jobs", description="Where it stands.")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(run=_status)
    stop = verbs.add_parser("stop", help="end every process of it", description="End it; what was written stays.")
    stop.set_defaults(run=_stop)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and do it; every message is for people."""
    options = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, RuntimeError, OSError) as error:  # a damaged state, a process that cannot be ended, no place
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def _start(options: argparse.Namespace) -> int:
    from filelock import FileLock, Timeout

    from cluster.state import cluster_folder
    from tune.request import RequestError

    for name in ("nodes", "cpus"):
        if getattr(options, name) < 1:
            raise RequestError(f"--{name} {getattr(options, name)}: expected a number of at least 1")
    cluster_folder().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cluster_folder() / "start.lock", timeout=0):
            return _start_alone(options)
    except Timeout:
        raise RequestError(
            "a cluster is being started by another process; see: python -m cluster.local status"
        ) from None


def _start_alone(options: argparse.Namespace) -> int:
    from cluster.nodes import bring_up, new_cluster
    from cluster.state import cluster_folder, read_state, write_state
    from tune.request import storage_folder

    _refuse_open(options)
    _refuse_second()
    storage = storage_folder(options.storage) if options.storage else cluster_folder() / "storage"
    cluster = new_cluster(storage, options.host, options.port)
    write_state(cluster)
    interrupts.heed_termination()
    try:
        bring_up(cluster, options.nodes, options.cpus, _tell)
    except BaseException:
        _tell("could not be started; ending what was")
        _end(read_state() or cluster)
        raise
    print(_said(cluster, options.nodes))
    return DONE


def _refuse_open(options: argparse.Namespace) -> None:
    """Raises RequestError where others could reach MLflow and nobody said that they may."""
    from tune.request import RequestError
    from tune.ui import is_loopback

    if not (options.open_mlflow or is_loopback(options.host)):
        raise RequestError(
            f"--host {options.host}: others can reach it there, and MLflow asks nobody for anything; add --open-mlflow "
            "to let all of them read, change and delete runs, or leave --host out and come through a tunnel"
        )


def _refuse_second() -> None:
    """Raises RequestError where a cluster runs; one whose processes died is cleared away."""
    from cluster.processes import members
    from cluster.state import read_state
    from tune.request import RequestError

    known = read_state()
    if known is None:
        return
    if members(known):
        raise RequestError(f"a cluster runs here already ({known.address}); end it first: python -m cluster.local stop")
    _end(known)


def _said(cluster: "LocalCluster", nodes: int) -> str:
    return "\n".join(
        [
            f"A cluster of {nodes} node{'s' * (nodes > 1)} runs on this machine.",
            f"  dashboard  {cluster.address}   (asks for the token: python -m cluster.local status says where it lies)",
            f"  MLflow     {cluster.tracking_uri}",
            f"  storage    {cluster.storage}",
            "  next       python -m cluster.submit --track b --profile laptop --trials 4",
            "  end        python -m cluster.local stop",
        ]
    )


def _status(options: argparse.Namespace) -> int:
    from cluster.local_status import as_text, read_status

    found = read_status()
    print(json.dumps(found, indent=1) if options.json else as_text(found))
    return DONE


def _stop(options: argparse.Namespace) -> int:
    from cluster.local_status import cut_short
    from cluster.state import cluster_folder, read_state

    cluster = read_state()
    if cluster is None:
        print("no cluster was started here; nothing to end")
        return DONE
    for line in cut_short(cluster):
        _tell(line)
    _tell(f"ending the cluster at {cluster.address} ...")
    _end(cluster)
    print(f"ended; results stay in {cluster.storage}, runs and champions in {cluster_folder()}")
    return DONE


def _end(cluster: "LocalCluster") -> None:
    import shutil

    from cluster.processes import end
    from cluster.state import forget

    end(cluster)
    shutil.rmtree(cluster.temp, ignore_errors=True)
    forget()


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    interrupts.run(main)
