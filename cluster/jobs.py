"""Jobs on a Ray cluster by Ray's own client: sent, followed, looked at, stopped. Knows nothing of what they run.

The token goes as a header: it is in no command, no metadata and no message.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.dashboard import Dashboard
from tune.request import RequestError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
INTERRUPTED, LOST = 130, 1
PAUSE = 0.5
OUTAGE = 300.0
"""Seconds that a cluster may be out of reach before following it is given up."""

FORGOTTEN = "status code 404"
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of every upload and of every connection that closes."""

Write = Callable[[str], None]


def connect(dashboard: Dashboard) -> "JobSubmissionClient":
    """A client of the cluster. Raises RequestError where the cluster cannot be reached or refuses the token."""
    dashboard.ray_version()  # says what is wrong in one line, and before Ray is imported
    os.environ["RAY_API_SERVER_ADDRESS"] = dashboard.address  # Ray lets the environment win over what it is told
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return JobSubmissionClient(dashboard.address, headers=dashboard.headers)


def find_job(client: "JobSubmissionClient", name: str) -> "JobDetails":
    """The job of this id, or the last one of the search of this name. Raises RequestError where there is none."""
    jobs = submitted(client)
    found = [job for job in jobs if name in (job.submission_id, (job.metadata or {}).get("search"))]
    if not found:
        known = ", ".join(str(job.submission_id) for job in jobs) or "none"
        raise RequestError(f"{name}: the cluster has no such job or search; its jobs: {known}")
    return found[-1]


def submitted(client: "JobSubmissionClient") -> "list[JobDetails]":
    """Every search that was sent, the oldest first; without probes, and what others run there."""
    jobs = [job for job in client.list_jobs() if job.submission_id and "search" in (job.metadata or {})]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def exit_status(job: "JobDetails") -> int | None:
    """What the job's command ended with; None while it runs.

    One that was stopped counts as interrupted, one that a signal killed as in a shell: 128 and the signal.
    """
    status = str(job.status.value)
    if status not in ENDED:
        return None
    if status == "STOPPED":
        return INTERRUPTED
    if status == "SUCCEEDED":
        return 0
    code = LOST if job.driver_exit_code is None else int(job.driver_exit_code)
    return code if code >= 0 else 128 - code


def follow(client: "JobSubmissionClient", id: str, write: Write) -> int:
    """Write a job's log as it grows, also across outages of the network; the exit status.

    Raises RequestError where the cluster stays out of reach for OUTAGE, or has forgotten the job. KeyboardInterrupt
    leaves the job alone.
    """
    log, lost_since = _Log(write), None
    while True:
        try:
            status = exit_status(client.get_job_info(id))
            asyncio.run(log.read(client.tail_job_logs(id)))
        except _out_of_reach() as error:
            if FORGOTTEN in str(error):
                raise RequestError(f"the cluster has no job {id} any more; it was started anew since") from error
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > OUTAGE:
                raise RequestError(f"the cluster is out of reach for {OUTAGE:.0f} s ({error})") from error
        else:
            lost_since = None
            if status is not None:
                return status
        time.sleep(PAUSE)


class _Log:
    """What has been written of a log, which is told from its beginning whenever it is asked for."""

    def __init__(self, write: Write) -> None:
        self.write, self.written = write, 0

    async def read(self, texts: AsyncIterator[str]) -> None:
        """Write what is new, until the job ends or the connection breaks."""
        seen = 0
        async for text in texts:
            new = text[max(0, self.written - seen) :]
            seen += len(text)
            if new:
                self.write(new)
                self.written = seen


def wait(client: "JobSubmissionClient", id: str, patience: float) -> int | None:
    """The exit status of a job, or None where it runs still after `patience` seconds."""
    until = time.monotonic() + patience
    while (status := exit_status(client.get_job_info(id))) is None and time.monotonic() < until:
        time.sleep(PAUSE)
    return status


def about(job: "JobDetails") -> dict[str, Any]:
    """What people ask of a job, as an object. Of its environment nothing: secrets may be in it."""
    told: Mapping[str, str] = job.metadata or {}
    end = job.end_time or time.time() * 1000
    return {
        "job": job.submission_id,
        "status": str(job.status.value),
        "exit_status": exit_status(job),
        "search": told.get("search"),
        "track": told.get("track"),
        "storage": told.get("storage"),
        "seconds": round((end - job.start_time) / 1000) if job.start_time else None,
        "message": job.message,
    }


@contextmanager
def asking() -> Iterator[None]:
    """A block that asks the cluster. What comes of a network or a head that fails is raised as RequestError."""
    try:
        yield
    except _out_of_reach() as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RequestError(f"the cluster does not answer as it should: {said}") from error


def _out_of_reach() -> tuple[type[Exception], ...]:
    """What Ray's client raises where the network or the head fails: RuntimeError is any answer but 200."""
    import aiohttp
    import requests

    return aiohttp.ClientError, requests.RequestException, ConnectionError, RuntimeError
