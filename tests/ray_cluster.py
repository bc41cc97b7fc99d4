"""One Ray for all tests of several workers: two CPUs, the dashboard that Ray Train asks, the token of conftest.py.

Searches and runs of other processes join it by its address; the token goes with the environment.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Cluster:
    """Where it is, and a folder whose modules its workers can import."""

    address: str
    modules: Path

    def workers(self) -> list[Any]:
        """Ray's records of all Train workers there have been, the dead ones too."""
        from ray.util.state import list_actors

        return [
            actor
            for actor in list_actors(self.address, detail=True, limit=1000)
            if actor.class_name == "RayTrainWorker"
        ]

    def groups_left(self) -> list[Any]:
        """The placement groups that still hold something."""
        from ray.util.state import list_placement_groups

        return [group for group in list_placement_groups(self.address, limit=1000) if group.state != "REMOVED"]


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """See the module."""
    modules = tmp_path_factory.mktemp("modules")
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH", "")]))
    os.environ |= {"RAY_worker_niceness": "0"}  # Ray's workers yield to every other process by themselves
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield Cluster(ray.get_runtime_context().gcs_address, modules)
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
