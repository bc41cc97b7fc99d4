"""The keys of a storage reach a job of any cluster, and no command line."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
from ray.tune.execution import class_cache

from tests.ray_cluster import Cluster
from tune.keys import KEYS, with_keys

pytestmark = pytest.mark.ray


def test_a_job_has_the_keys_that_the_driver_had(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    seen: list[str | None] = []

    def job(config: Mapping[str, Any]) -> None:
        seen.append(os.environ.get("AWS_SECRET_ACCESS_KEY"))

    assert with_keys(job) is job
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    passed = with_keys(job)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    passed({})
    assert seen == ["k"]
    assert not KEYS & class_cache.ENV_VARS_TO_PROPAGATE
