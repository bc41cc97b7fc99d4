"""Each check before a job is sent: silent where all is well, else what is wrong with its cure."""

from dataclasses import replace
from typing import Any

import pytest

from cluster import checks
from cluster.checks import PACKAGES, Told
from tune.capacity import Ask

WELL = {"python": "3.11.7", "packages": {"ray": "2.60.0"} | dict.fromkeys(PACKAGES, "1.0"), "missing_paths": []}


def told(*nodes: dict[str, Any] | None, storage: str = "", tracking: str = "", cpus: float = 1.0) -> Told:
    """A cluster whose nodes are well save for what is given; None did not answer."""
    found = [
        {
            "host": f"host-{n}",
            "resources": {"CPU": cpus},
            "told": None if node is None else {**WELL, "storage_error": "", **node},
        }
        for n, node in enumerate(nodes)
    ]
    return Told(found, storage, tracking)


def test_a_cluster_that_is_well_has_nothing_against_it() -> None:
    cluster = told({}, {}, {})
    assert not checks.all_answered(cluster)
    assert not checks.same_python(cluster, "3.11.2")
    assert not checks.has_packages(cluster)
    assert not checks.has_paths(cluster)
    assert not checks.storage_is_shared(cluster, "/shared")
    assert not checks.tracking_answers(cluster, "http://mlflow:5000")
    assert not checks.one_trial_fits(cluster, Ask(), None)
    assert not checks.same_ray("2.60.0", "2.60.0")


def test_another_ray_is_named_with_both_versions() -> None:
    (failure,) = checks.same_ray("2.58.1", "2.60.0")
    assert str(failure) == "the cluster runs Ray 2.58.1, this machine 2.60.0; install one of them on both: ray==2.58.1"


def test_a_node_with_another_python_is_named() -> None:
    (failure,) = checks.same_python(told({}, {"python": "3.12.1"}), "3.11.7")
    assert failure.what == "host-1 runs Python 3.12, this machine 3.11"


def test_a_node_that_did_not_answer_is_named_once_and_by_no_other_check() -> None:
    cluster = told({}, None)
    assert [failure.what for failure in checks.all_answered(cluster)] == ["host-1 started no worker in time"]
    assert not checks.has_packages(cluster)
    assert not checks.storage_is_shared(cluster, "/shared")


def test_a_missing_package_names_its_nodes_and_how_to_have_it() -> None:
    (failure,) = checks.has_packages(told({}, {"packages": {**WELL["packages"], "peft": None}}))
    assert failure.what == "host-1: peft is not installed"
    assert "--pip" in failure.cure


def test_a_package_in_two_versions_names_both() -> None:
    (failure,) = checks.has_packages(told({}, {"packages": {**WELL["packages"], "torch": "2.0"}}))
    assert failure.what == "nodes differ in torch: host-0 1.0, host-1 2.0"


def test_a_path_that_is_missing_names_the_nodes_without_it() -> None:
    (failure,) = checks.has_paths(told({"missing_paths": ["/data/p.jsonl"]}, {}, {"missing_paths": ["/data/p.jsonl"]}))
    assert failure.what == "/data/p.jsonl is not on host-0, host-2"


def test_a_storage_that_one_node_does_not_share_is_named_with_that_node() -> None:
    (failure,) = checks.storage_is_shared(told({}, {"storage_error": "No such file"}), "/mine")
    assert failure.what == "--storage /mine is not shared: host-1 does not see what the head wrote"
    assert "NFS" in failure.cure


def test_a_storage_that_the_head_cannot_write_is_one_failure_not_one_a_node() -> None:
    cluster = told({"storage_error": "x"}, {"storage_error": "x"}, storage="Read-only file system")
    (failure,) = checks.storage_is_shared(cluster, "/ro")
    assert failure.what == "--storage /ro: the head cannot write there: Read-only file system"


def test_object_storage_that_a_node_cannot_write_to_is_named_with_that_node_and_why() -> None:
    (failure,) = checks.storage_is_shared(told({"storage_error": ""}, {"storage_error": "denied"}), "s3://bucket/a")
    assert failure.what == "--storage s3://bucket/a: host-1 cannot write there: denied"
    assert "role" in failure.cure


def test_an_mlflow_that_the_cluster_does_not_reach_is_named_with_why() -> None:
    (failure,) = checks.tracking_answers(told({}, tracking="Connection refused"), "http://127.0.0.1:5000")
    assert failure.what.endswith("does not answer from the cluster: Connection refused")
    assert "127.0.0.1 is the head itself" in failure.cure


def test_a_trial_that_fits_nowhere_tells_what_the_nodes_have() -> None:
    (failure,) = checks.one_trial_fits(told({}, {}), Ask(cpus=4.0), None)
    assert "needs 0 GPU and 4 CPU; the cluster has a node with 0 GPU and 1 CPU; a node" in failure.what
    assert "--cpus-per-worker" in failure.cure


def test_a_cluster_that_grows_is_waited_for_where_it_is_too_small_yet() -> None:
    grows = replace(told({}), room=True)
    assert not checks.one_trial_fits(grows, Ask(gpus=1.0), None)
    (wanted,) = checks.waits_for_nodes(grows, Ask(gpus=1.0))
    assert wanted == "a trial needs 1 GPU and 1 CPU; the cluster has a node with 0 GPU and 1 CPU"
    assert not checks.waits_for_nodes(grows, Ask())
    assert not checks.waits_for_nodes(told({}), Ask(gpus=1.0))


@pytest.mark.parametrize("storage", ["/shared/phasegpt", "s3://bucket/phasegpt"])
def test_a_full_path_or_object_storage_will_do(storage: str) -> None:
    assert not checks.storage_can_be_shared(storage)


@pytest.mark.parametrize(("storage", "cure"), [(None, "name a folder"), ("results", "give its full path")])
def test_no_storage_or_a_relative_one_is_refused_with_the_cure(storage: str | None, cure: str) -> None:
    (failure,) = checks.storage_can_be_shared(storage)
    assert cure in failure.cure


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "file:///mlruns", "/mlruns"])
def test_an_mlflow_that_is_no_server_is_refused_with_the_cure(uri: str | None) -> None:
    (failure,) = checks.tracking_is_http(uri)
    assert "--tracking-uri http://HOST:5000" in failure.cure


@pytest.mark.parametrize("url", ["postgresql://me:secret@db/studies", "postgresql://db/studies?password=secret"])
def test_a_password_of_the_study_is_refused_and_not_repeated(url: str) -> None:
    (failure,) = checks.study_is_bare(url)
    assert "secret" not in str(failure)
    assert not checks.study_is_bare("postgresql://me@db:5432/studies")
    assert not checks.study_is_bare(None)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    (failure,) = checks.tracking_is_http("https://me:secret@mlflow:5000")
    assert "secret" not in str(failure)
    assert "--env MLFLOW_TRACKING_PASSWORD" in failure.cure
