"""Asks a cluster what it is like, by a small job that runs `probe` there in the surroundings of the job to come."""

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster import probe
from cluster.checks import PACKAGES, Told
from cluster.jobs import exit_status, wait
from cluster.sending import SETUP_WAIT, Surroundings, send
from tune.capacity import Ask, bundles
from tune.request import RequestError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PATIENCE = 300.0
"""Seconds for a probe where nothing has to be installed first: a job, a Ray driver, a worker on every node."""


def ask(
    client: "JobSubmissionClient",
    around: Surroundings,
    storage: str,
    tracking_uri: str,
    paths: Sequence[str],
    needs: Ask,
) -> Told:
    """What the cluster's nodes have and see, and whether there is or will be room for a job with such `needs`.

    Raises RequestError where the probe does not come to an end.
    """
    asked = {
        "id": secrets.token_hex(4),
        "storage": storage,
        "tracking_uri": tracking_uri,
        "packages": PACKAGES,
        "paths": list(paths),
        "bundles": bundles([], needs),
        "placement": needs.placement,
    }
    id = send(client, "probe", ["python", "-m", probe.__name__, json.dumps(asked)], around, {"kind": "probe"})
    installs = around.pip or around.uv or around.image
    if wait(client, id, SETUP_WAIT if installs else PATIENCE) is None:
        client.stop_job(id)
        raise RequestError(f"the cluster has not started a first small job in time; see the job {id} in its dashboard")
    return told_by(client.get_job_logs(id), id, client.get_job_info(id).message, exit_status(client.get_job_info(id)))


def told_by(log: str, id: str, message: str | None, status: int | None) -> Told:
    """What a probe's log tells. Raises RequestError with its last lines where it tells nothing."""
    found = [line.removeprefix(probe.MARK) for line in log.splitlines() if line.startswith(probe.MARK)]
    if status == 0 and found:
        return Told(**json.loads(found[-1]))
    last = "\n  ".join((log.strip() or message or "it left no log").splitlines()[-5:])
    raise RequestError(f"a first small job ({id}) failed on the cluster, so the search would:\n  {last}")
