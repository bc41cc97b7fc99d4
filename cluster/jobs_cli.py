"""python -m cluster.submit status | logs | stop | list: look after the jobs of a cluster. JOB is an id or a search."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
EXAMPLES = """examples:
  python -m cluster.submit list
  python -m cluster.submit status b-20260101-120000           the last job of a search, or a job by its id
  python -m cluster.submit logs -f b-20260101-120000-3fa1     ends as the job does; Ctrl-C leaves it alone
  python -m cluster.submit stop b-20260101-120000             as Ctrl-C: trials go to a checkpoint
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m cluster.submit",
        description="Look after the jobs of a cluster.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True)
    status = _verb(verbs, "status", "how a job stands", _status)
    logs = _verb(verbs, "logs", "what a job says", _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on to its end, and end as it does")
    _verb(verbs, "stop", "end a job; its search can be resumed", _stop)
    every = _verb(verbs, "list", "every job that was sent", _list)
    for verb in (status, every):
        verb.add_argument("--json", action="store_true", help="print JSON")
    return p


def _verb(verbs: Any, name: str, about: str, run: Callable[..., int]) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=f"{about.capitalize()}.")
    if name != "list":
        p.add_argument("job", metavar="JOB", help="a job, or a search, whose last job is meant")
    p.add_argument("--address", metavar="URL", help="the cluster's dashboard (default: the cluster of cluster.local)")
    p.set_defaults(run=run)
    return p


def main(argv: Sequence[str]) -> int:
    """Do what was asked; every message is for people."""
    options = parser().parse_args(argv)
    from cluster.jobs import asking, connect
    from cluster.target import find_target
    from tune.request import RequestError

    try:
        run: Callable[[argparse.Namespace, JobSubmissionClient], int] = options.run
        client = connect(find_target(options.address).dashboard)
        with asking():
            return run(options, client)
    except RequestError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nthe job goes on; the same command comes back to it", file=sys.stderr)
        return INTERRUPTED


def _status(options: argparse.Namespace, client: "JobSubmissionClient") -> int:
    from cluster.jobs import about, find_job

    found = about(find_job(client, options.job))
    if options.json:
        print(json.dumps(found, indent=1))
        return DONE
    lines = [f"{name:12} {_short(value)}" for name, value in found.items() if value is not None]
    print("\n".join(lines))
    return DONE


def _logs(options: argparse.Namespace, client: "JobSubmissionClient") -> int:
    from cluster.jobs import find_job, follow

    id = str(find_job(client, options.job).submission_id)
    if options.follow:
        return follow(client, id, _write)
    _write(client.get_job_logs(id))
    return DONE


def _stop(options: argparse.Namespace, client: "JobSubmissionClient") -> int:
    from cluster.jobs import exit_status, find_job, wait
    from cluster.sending import STOP_WAIT

    job = find_job(client, options.job)
    if exit_status(job) is not None:
        print(f"{job.submission_id} has ended already: {job.status.value}")
        return DONE
    client.stop_job(str(job.submission_id))
    print(f"{job.submission_id}: asked to stop; running trials go to a checkpoint ...", file=sys.stderr)
    if wait(client, str(job.submission_id), STOP_WAIT + 30) is None:
        print(f"{job.submission_id} has not ended yet; look again with status", file=sys.stderr)
        return DONE
    print(f"{job.submission_id} is stopped. Go on with:\n  {(job.metadata or {}).get('again', 'its own command')}")
    return DONE


def _list(options: argparse.Namespace, client: "JobSubmissionClient") -> int:
    from cluster.jobs import about, submitted
    from tune.console import duration

    found = [about(job) for job in submitted(client)]
    if options.json:
        print(json.dumps(found, indent=1))
        return DONE
    for job in found:
        print(f"{job['status']:10} {duration(job['seconds'] or 0):>12}  {job['job']}")
    if not found:
        print("no jobs yet")
    return DONE


def _short(value: Any) -> str:
    """The first line, since a failed job's message ends with its log."""
    return str(value).splitlines()[0] if str(value) else ""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
