"""python -m cluster.submit: the search of `python -m tune.search` as a job on a Ray cluster; looked after from here.

Everything is checked before it is sent: the options by the search's own parser, the cluster by a small job.
Exit status: that of the search (0 a winner, 3 no usable trial), 2 bad input or a cluster that cannot run it, 130
interrupted or stopped, 1 a job that the cluster lost.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune import search

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.checks import Failure, Told
    from cluster.sending import Surroundings
    from cluster.target import Target
    from tune.request import Request

DONE, BAD_INPUT, INTERRUPTED, LOST = 0, 2, 130, 1
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

    try:
        return _submit(options, rest_of(words), module)
    except (RequestError, ModelError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted before the job was sent; nothing runs", file=sys.stderr)
        return INTERRUPTED


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    _tell("This plan speaks of this machine, not of the cluster: its cores, memory, disk and speed.")
    given = {name: getattr(options, name) for name in ("storage", "name", "profile", "config")}
    return search.main([*rest, *(word for n, value in given.items() if value for word in (f"--{n}", value))])


@dataclass(frozen=True)
class _Order:
    """A job to send: where to, what for, in which surroundings, and what the search is told."""

    target: "Target"
    name: str
    track: str
    storage: str
    tracking_uri: str
    around: "Surroundings"
    command: Sequence[str]

    @property
    def again(self) -> str:
        """The command that goes on with its search."""
        from cluster.sending import again_words

        return shlex.join(again_words(self.track, self.name, self.target, self.storage, self.tracking_uri))

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster notes of it."""
        return {"search": self.name, "track": self.track, "storage": self.storage, "again": self.again}


def _submit(options: argparse.Namespace, rest: list[str], module: str) -> int:
    from cluster.jobs import connect
    from cluster.sending import send
    from cluster.target import find_target

    target = find_target(options.address)
    _settle_places(options, target)
    requests = _requests(options)
    options.name = options.name or _name(options, requests)
    around, config, paths = _surroundings(options, target, requests)
    client = connect(target.dashboard)
    told = _look(client, options, target, around, paths)
    _refuse(_failures(told, options, requests))
    order = _order(options, target, around, [*_command(options, rest, module, told, config)])
    id = send(client, order.name, order.command, around, order.metadata)
    _tell(f"{id}: sent to {target.dashboard.address} with {around}")
    _tell(f"  results in {order.storage}, runs at {order.tracking_uri}")
    if options.detach:
        print(json.dumps({"job": id, "name": order.name, "address": target.dashboard.address}) if options.json else id)
        _tell(f"  come back: {shlex.join(['python', '-m', 'cluster.submit', 'logs', '-f', id, *target.words])}")
        return DONE
    return _follow(client, id, order, as_object=options.json)


def _settle_places(options: argparse.Namespace, target: "Target") -> None:
    """Put the storage and MLflow of the job into the options: as given, else those of the local cluster."""
    import os

    from cluster.checks import storage_can_be_shared, tracking_is_http

    local = target.local
    options.storage = options.storage or (local.storage if local else None)
    options.tracking_uri = (
        options.tracking_uri or (local.tracking_uri if local else None) or os.environ.get("MLFLOW_TRACKING_URI")
    )
    _refuse([*storage_can_be_shared(options.storage), *tracking_is_http(options.tracking_uri)])


def _requests(options: argparse.Namespace) -> "list[Request]":
    """What the options ask for, checked as the search checks it; none where it lies on a disk that is not here."""
    from tune.capacity import Ask

    if options.resume and not Path(options.storage).is_dir():
        _tell(f"{options.storage} is not mounted here: the job itself looks for the search {options.resume}")
        return []
    requests = search.requests_of(options)
    for request in requests:
        Ask.of(request.config.training.distributed.workers, options)
    return requests


def _name(options: argparse.Namespace, requests: "Sequence[Request]") -> str:
    """What the search is called, decided here so that it is known before it runs."""
    if options.resume:
        return str(options.resume)
    return requests[0].name.rsplit("-", 1)[0] if options.track == search.ALL else requests[0].name


def _surroundings(
    options: argparse.Namespace, target: "Target", requests: "Sequence[Request]"
) -> "tuple[Surroundings, str | None, list[str]]":
    """Where the job runs, its config's path there, and the full paths that every node must have."""
    from cluster.inputs import with_inputs
    from cluster.package import Package, check_size, project_package
    from cluster.sending import Surroundings, caches_below, environment

    caches = None if target.local else caches_below(options.storage)
    found = environment(options.tracking_uri, options.env, caches)
    if options.image:
        return Surroundings(Package(), found, image=options.image), options.config, []
    package, paths = with_inputs(project_package(), [request.config for request in requests])
    config = None
    if options.config:
        package, config = package.with_file(Path(options.config))
    check_size(package)
    return Surroundings(package, found, pip=options.pip, uv=options.uv), config, paths


def _look(
    client: "JobSubmissionClient",
    options: argparse.Namespace,
    target: "Target",
    around: "Surroundings",
    paths: Sequence[str],
) -> "Told":
    import ray

    from cluster.asking import ask
    from cluster.checks import same_ray

    _refuse(same_ray(target.dashboard.ray_version(), ray.__version__))
    _tell(f"looking at the cluster at {target.dashboard.address} ...")
    begun = time.monotonic()
    told = ask(client, around, options.storage, options.tracking_uri, paths)
    _tell(f"  {len(told.nodes)} nodes, looked at in {time.monotonic() - begun:.0f} s")
    return told


def _failures(told: "Told", options: argparse.Namespace, requests: "Sequence[Request]") -> "list[Failure]":
    from cluster import checks
    from tune.capacity import Ask

    found = [
        *checks.all_answered(told),
        *checks.same_python(told),
        *checks.has_packages(told),
        *checks.has_paths(told),
        *checks.storage_is_shared(told, options.storage),
        *checks.tracking_answers(told, options.tracking_uri),
    ]
    for request in requests:
        ask = Ask.of(request.config.training.distributed.workers, options)
        found += checks.one_trial_fits(told, ask, request.config.search.max_concurrent)
    return list(dict.fromkeys(found))


def _command(
    options: argparse.Namespace, rest: Sequence[str], module: str, told: "Told", config: str | None
) -> list[str]:
    """The command of the job. The profile is chosen by what the cluster has, and what it leads to is checked again."""
    from cluster.sending import search_words
    from tune.request import choose_profile, is_own_file

    name = profile = None
    if not options.resume:
        chosen, reason = choose_profile(options.profile, told.has_gpu, own=is_own_file(options.config))
        _tell(f"  {reason}")
        name, profile = options.name, chosen or "none"
        options.profile = profile
        search.requests_of(options)
    return ["python", "-m", module, *search_words(rest, name, profile, config, options.storage)]


def _order(options: argparse.Namespace, target: "Target", around: "Surroundings", command: Sequence[str]) -> _Order:
    return _Order(target, options.name, options.track, options.storage, options.tracking_uri, around, command)


def _follow(client: "JobSubmissionClient", id: str, order: _Order, *, as_object: bool) -> int:
    """Show the log, on stderr as the search does; with --json its object on stdout. The exit status of the search."""
    from cluster.jobs import follow
    from cluster.result import ResultSplitter

    splitter = ResultSplitter(sys.stdout.write if as_object else sys.stderr.write, sys.stderr.write)
    try:
        status = follow(client, id, splitter.take)
    except KeyboardInterrupt:
        here = order.target.words
        _tell("\nThe job goes on without you. Come back, or end it, with:")
        for verb in (["logs", "-f"], ["status"], ["stop"]):
            _tell(f"  {shlex.join(['python', '-m', 'cluster.submit', *verb, id, *here])}")
        return INTERRUPTED
    splitter.close()
    if status in (INTERRUPTED, LOST):
        message = client.get_job_info(id).message or ""
        _tell(f"{id}: {message.splitlines()[0] if message else 'ended'}\nGo on with: {order.again}")
    return status


def _refuse(failures: "Sequence[Failure]") -> None:
    """Raises RequestError with every failure, one a line."""
    from tune.request import RequestError

    if failures:
        raise RequestError("\n".join(map(str, failures)))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
