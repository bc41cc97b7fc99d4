"""Where the cluster on this machine stands: its processes, nodes, addresses and jobs. Plain values; starts nothing."""

from typing import Any

from cluster.dashboard import Dashboard
from cluster.processes import alive, members
from cluster.state import LocalCluster, read_state, read_token, token_file
from tune.request import RequestError

NO_CLUSTER = "no cluster runs here; start one: python -m cluster.local start"


def read_status() -> dict[str, Any]:
    """All of it as one object. Raises RequestError where no cluster was started here or its head does not answer."""
    cluster = read_state()
    if cluster is None:
        raise RequestError(NO_CLUSTER)
    dead = [root.what for root in cluster.roots if not alive(root)]
    if dead:
        raise RequestError(
            f"the cluster is damaged: {', '.join(dead)} ended by itself; "
            f"end the rest (python -m cluster.local stop) and start again"
        )
    dashboard = Dashboard(cluster.address, read_token())
    jobs = [job for job in dashboard.get("/api/jobs/") if "search" in (job.get("metadata") or {})]
    return {
        "dashboard": cluster.address,
        "mlflow": cluster.tracking_uri,
        "storage": cluster.storage,
        "token": str(token_file()),
        "nodes": dashboard.nodes(),
        "processes": len(members(cluster)),
        "jobs": [{"job": job["submission_id"], "status": job["status"]} for job in jobs],
    }


def cut_short(cluster: LocalCluster) -> list[str]:
    """What to tell of the searches that an end of the cluster cuts: how each goes on. Nothing where none answers."""
    try:
        jobs = Dashboard(cluster.address, read_token()).get("/api/jobs/")
    except (RequestError, ValueError):
        return []
    notes = [job["metadata"] for job in jobs if job["status"] in ("PENDING", "RUNNING") and job.get("metadata")]
    return [f"{note['search']} runs still; after the next start: {note['again']}" for note in notes if "again" in note]


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    nodes = ", ".join(f"{node['CPU']:g} CPU" for node in found["nodes"])
    jobs = [f"  {job['status']:10} {job['job']}" for job in found["jobs"]]
    return "\n".join(
        [
            f"{len(found['nodes'])} nodes ({nodes}), {found['processes']} processes",
            f"dashboard  {found['dashboard']}",
            f"token      {found['token']}",
            f"MLflow     {found['mlflow']}",
            f"storage    {found['storage']}",
            *(["jobs", *jobs] if jobs else ["no jobs yet"]),
        ]
    )
