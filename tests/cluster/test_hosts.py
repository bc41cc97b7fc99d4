"""Faults on a network of hosts: whatever dies or is cut off, a search ends with all its trials, each once.

The jobs train nothing and take some seconds each, so that they can be hit; their record is compared with that of an
undisturbed search. On a quiet machine a test takes about a minute and a half.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.host_cluster import WORKERS, HostCluster, host_cluster, until
from tests.cluster.hosts import missing
from tests.faults.test_killed_driver import Place, check, new_search
from tests.noop import SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TRIALS = 4
PATIENT = {"RAY_health_check_failure_threshold": "30", "RAY_grpc_keepalive_timeout_ms": "120000"}
"""Ray gives a node up after so many checks in a row that failed, three seconds apart (five, unless told otherwise), and
closes a connection that was silent for so long (20 seconds), which its other end would miss for minutes."""


@pytest.fixture
def own(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the cluster; a test may give its own as a parameter."""
    found: dict[str, str] = getattr(request, "param", {})
    return found


@pytest.fixture
def cluster(tmp_path: Path, own: dict[str, str]) -> Iterator[HostCluster]:
    """A cluster whose jobs take twelve seconds."""
    if why := missing():
        pytest.skip(why)
    (tmp_path / SECONDS).write_text("12")
    with host_cluster(tmp_path, **own) as made:
        yield made


@pytest.fixture
def search(cluster: HostCluster, toy_model_dir: Path) -> HostCluster:
    """The cluster with a search under way: two trials are between their first evaluation and their end.

    Jobs that begin from now on are short.
    """
    words = ["--sampler", "random", "--max-concurrent", "2", "--set", f"model.base_model={toy_model_dir}"]
    cluster.send(*new_search(TRIALS, *words))
    until(lambda: len(under_way(cluster)) == 2)
    (cluster.folder / SECONDS).write_text("2")
    return cluster


def under_way(cluster: HostCluster) -> set[str]:
    """The trials that have come to an evaluation and not to their end."""
    evaluated = cluster.folder.glob("checkpoints/v14/track_b/killed/trial-*/reached.json")
    ended = cluster.folder.glob("results/v14/track_b/killed/trial-*.json")
    return {file.parent.name for file in evaluated} - {file.stem for file in ended}


def ends_whole(cluster: HostCluster) -> None:
    """The search comes to its end, and its record is that of an undisturbed one."""
    done = cluster.end()
    assert done.returncode == 0, done.stdout + done.stderr
    check(Place(cluster.folder, cluster.mark), TRIALS)


def gone_on(cluster: HostCluster) -> list[str]:
    """The jobs that began again, all of which must have gone on from where they were."""
    lines = cluster.begun()
    again = [line.split()[0] for line in lines if not line.endswith(" from 0")]
    assert len(lines) == len({line.split()[0] for line in lines}) + len(again), lines
    return again


def test_a_search_without_faults_ends_whole(search: HostCluster) -> None:
    ends_whole(search)
    assert gone_on(search) == []


def test_a_trial_goes_on_elsewhere_from_its_checkpoint_when_its_worker_dies(search: HostCluster) -> None:
    trials = under_way(search)
    search.hosts["left"].kill()
    ends_whole(search)
    (job,) = gone_on(search)
    assert job in trials
    assert search.nodes() == 2


def test_a_worker_whose_cable_is_out_for_thirty_seconds_is_given_up_and_its_trial_goes_on_elsewhere(
    search: HostCluster,
) -> None:
    trials = under_way(search)
    with search.hosts["left"].cut_off():
        time.sleep(30)
    ends_whole(search)
    (job,) = gone_on(search)
    assert job in trials
    until(lambda: not search.hosts["left"].processes())  # what it ran there ends as well
    assert search.nodes() == 2


@pytest.mark.parametrize("own", [PATIENT], indirect=True)
def test_on_a_patient_cluster_a_cable_that_is_out_for_thirty_seconds_costs_nothing_but_time(
    search: HostCluster,
) -> None:
    with search.hosts["left"].cut_off():
        time.sleep(30)
    ends_whole(search)
    assert gone_on(search) == []
    assert search.nodes() == 3


def test_a_search_outlives_its_mlflow_server_and_tells_the_next_one_everything(search: HostCluster) -> None:
    search.records.kill()
    time.sleep(8)
    search.begin_mlflow()
    search.wait_for_mlflow()
    ends_whole(search)
    assert gone_on(search) == []


def test_a_job_whose_driver_is_killed_is_gone_on_with_by_another(search: HostCluster) -> None:
    trials = under_way(search)
    search.head.kill("tests.noop")
    assert search.end().returncode == 137
    search.send("--resume", "killed")
    ends_whole(search)
    assert set(gone_on(search)) == trials


def test_a_search_goes_on_under_a_new_head_when_its_own_has_died(search: HostCluster) -> None:
    search.head.kill()
    search.start_head()
    for name in WORKERS:  # each notices that its head is gone and ends, as under an orchestrator that starts it again
        until(lambda name=name: not search.hosts[name].processes())  # type: ignore[misc]
    search.start_workers(*WORKERS)
    search.send("--resume", "killed")
    ends_whole(search)
    assert search.nodes() == 3
