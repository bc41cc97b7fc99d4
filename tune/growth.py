"""Nodes that Ray's autoscaler may add: asked for by placement groups, which wait until there is room for them.

Version 2 of the autoscaler says within seconds of a group that no nodes it may add could hold it. A cluster that was
put up by hand has none, or one that merely watches and says so of every group that does not fit. Needs Python and Ray
alone: `cluster.probe` asks by this too.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Bundles = Sequence[Mapping[str, float]]
"""What each worker of a job needs: {"CPU": 1, "GPU": 0.5}."""

PATIENCE = 30.0
"""Seconds for the autoscaler to look, which it does every five."""


@contextmanager
def asked_for(jobs: int, bundles: Bundles, placement: str) -> Iterator[Sequence[Any]]:
    """Ask for room for so many jobs, for the length of the block; yields the groups that wait for it.

    Ray takes the request back by itself where this process dies.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    groups = [placement_group([dict(bundle) for bundle in bundles], placement) for _ in range(jobs)]
    try:
        yield groups
    finally:
        for group in groups:
            remove_placement_group(group)


def may_come(groups: Sequence[Any]) -> bool:
    """Whether the autoscaler can make room for the groups; False where none looks within PATIENCE."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        return False
    asked_at = _status().cluster_resource_state.cluster_resource_state_version
    end = time.monotonic() + PATIENCE
    ours = [group.id.hex() for group in groups]
    while time.monotonic() < end:
        told = _status().autoscaling_state
        if told.last_seen_cluster_resource_state_version > asked_at:
            details = [gang.details for gang in told.infeasible_gang_resource_requests]
            return not any(id in detail for id in ours for detail in details)
        time.sleep(0.5)
    return False


def _status() -> Any:
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply
