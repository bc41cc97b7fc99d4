"""python -m cluster.submit: the search of `python -m tune.search` as a job on a Ray cluster; looked after from here.

Everything is checked before it is sent: the options by the search's own parser, the cluster by a small job.
Exit status: that of the search (0 a winner, 3 no usable trial), 2 bad input or a cluster that cannot run it, 130
interrupted or stopped, 1 a job that the cluster lost.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phasegpt import interrupts
from tune import search

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.order import Order

DONE, LOST, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
SAID = (0, 2, 3)
"""How a search ends after it has said why itself."""

VERBS = ("status", "logs", "stop", "list")
"""First words that look after jobs there are; `jobs_cli` has them."""

DECIDED = ("address", "storage", "tracking-uri", "name", "profile", "config")
"""Options of the search that are given to the job anew, since here they may have been left open."""

EXAMPLES = """examples:
  python -m cluster.local start --nodes 3                            a cluster on this machine, to try it
  python -m cluster.submit --track b --profile laptop --trials 4     on that cluster; follows it to its end
  python -m cluster.submit --track b --address http://head:8265 --storage /shared/phasegpt \\
      --tracking-uri http://mlflow:5000 --detach
  python -m cluster.submit list                                      also status, logs -f and stop, with a JOB
  python -m cluster.submit --track b --resume b-20260101-120000      go on with a search that was stopped
"""


def parser() -> argparse.ArgumentParser:
    """The command line: every option of the search, and those of the job."""
    p = argparse.ArgumentParser(
        prog="python -m cluster.submit",
        description="Run a search as a job on a Ray cluster. Takes every option of python -m tune.search.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[search.parser()],
        conflict_handler="resolve",
        allow_abbrev=False,
    )
    job = p.add_argument_group("the job")
    job.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, http://HEAD:8265 (default: the cluster of cluster.local, "
        "else $RAY_API_SERVER_ADDRESS)",
    )
    _add_own(job)
    return p


def _add_own(p: Any) -> None:
    """The options that the search has not."""
    after = p.add_mutually_exclusive_group()
    after.add_argument("--follow", action="store_true", help="show its log and end as it does (the default)")
    after.add_argument("--detach", action="store_true", help="send it, print its id, and leave it")
    made = p.add_mutually_exclusive_group()
    made.add_argument("--pip", metavar="FILE", help="install these requirements for it with pip, once a node")
    made.add_argument("--uv", metavar="FILE", help="the same with uv")
    made.add_argument("--image", metavar="URI", help="run it in this container image, which holds the project")
    p.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set this for it, or send what is set here; whoever has the cluster's token can read it",
    )


def rest_of(words: Sequence[str]) -> list[str]:
    """The options that go to the search as they are, in their order."""
    p = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in DECIDED:
        p.add_argument(f"--{option}")
    _add_own(p)
    return p.parse_known_args(list(words))[1]


def main(argv: Sequence[str] | None = None, module: str = "tune.search") -> int:
    """Parse, check, send, follow; every message is for people. `module` stands in for the search where jobs train."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in VERBS:
        from cluster.jobs_cli import main as look_after

        return look_after(words)
    options = parser().parse_args(words)
    if options.measure and not options.plan:
        parser().error("--measure needs --plan, whose estimate of time it serves")
    if options.plan:
        return _plan(options, rest_of(words))
    from phasegpt.base_model import ModelError
    from tune.request import RequestError
    from tune.spool import TrackingError

    try:
        return _submit(options, ["python", "-m", module], rest_of(words))
    except (RequestError, ModelError, TrackingError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; where a job was sent already, it runs: python -m cluster.submit list", file=sys.stderr)
        return INTERRUPTED


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    _tell("This plan speaks of this machine, not of the cluster: its cores, memory, disk and speed.")
    given = {name: getattr(options, name) for name in ("storage", "name", "profile", "config")}
    return search.main([*rest, *(word for n, value in given.items() if value for word in (f"--{n}", value))])


def _submit(options: argparse.Namespace, program: Sequence[str], rest: Sequence[str]) -> int:
    from cluster.jobs import asking, connect
    from cluster.order import place_order
    from cluster.sending import send
    from cluster.target import find_target

    target = find_target(options.address)
    order = place_order(options, target, program, rest, _tell)
    client = connect(target.dashboard)
    with asking():
        order.check(client, _tell)
        id = send(client, order.name, order.command, order.around, order.metadata)
    _tell(f"{id}: sent to {target.dashboard.address} with {order.around}")
    _tell(f"  results in {order.storage}, runs at {order.tracking_uri}")
    if not options.detach:
        return _follow(client, id, order, as_object=options.json)
    print(json.dumps({"job": id, "name": order.name, "address": target.dashboard.address}) if options.json else id)
    _tell(f"  come back: {shlex.join(['python', '-m', 'cluster.submit', 'logs', '-f', id, *target.words])}")
    return DONE


def _follow(client: "JobSubmissionClient", id: str, order: "Order", *, as_object: bool) -> int:
    """Show the log, on stderr as the search does; with --json its object on stdout. The exit status of the search."""
    from cluster.jobs import follow
    from cluster.result import ResultSplitter
    from tune.request import RequestError

    splitter = ResultSplitter(sys.stdout.write if as_object else sys.stderr.write, sys.stderr.write)
    try:
        status = follow(client, id, splitter.take)
    except KeyboardInterrupt:
        here = order.target.words
        _tell("\nThe job goes on without you. Come back, or end it, with:")
        for verb in (["logs", "-f"], ["status"], ["stop"]):
            _tell(f"  {shlex.join(['python', '-m', 'cluster.submit', *verb, id, *here])}")
        return INTERRUPTED
    except RequestError as error:
        _tell(f"{error}\nWhen the cluster is back: {order.again}")
        return LOST
    splitter.close()
    if status not in SAID:
        message = client.get_job_info(id).message or ""
        _tell(f"{id}: {message.splitlines()[0] if message else 'ended'}\nGo on with: {order.again}")
    return status


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    interrupts.run(main)
