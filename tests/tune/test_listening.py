"""What listens where while a search's own Ray runs, and that its ports answer nobody without the token."""

import os
import uuid
from pathlib import Path

import psutil
import pytest

from tests.cluster.machine import until
from tests.faults.test_killed_driver import Place, new_search
from tests.listening import CALLS, Listener, answers, listeners, of_this_process
from tests.noop import SECONDS
from tests.ray_cluster import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_nothing_of_a_cluster_of_our_own_listens_beyond_this_machine(ray_cluster: Cluster) -> None:
    found = listeners(of_this_process())
    assert len([each for each in found if each.is_rays()]) >= 5
    assert [each for each in found if not each.is_alone()] == []


def test_rays_ports_refuse_who_has_no_token(ray_cluster: Cluster) -> None:
    said = {port: answers(port) for port in {each.port for each in listeners(of_this_process())}}
    assert {port: found for port, found in said.items() if "OK" in found} == {}
    refused = [port for port, found in said.items() if "UNAUTHENTICATED" in found]
    assert len(refused) >= len(CALLS) - 2  # the agent may not have begun, and nobody asked for Ray's client


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_of_a_real_search_listens_beyond_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)  # those of the tests' own Ray
    (tmp_path / SECONDS).write_text("10")
    place = Place(tmp_path, uuid.uuid4().hex)
    search = place.start(*new_search(2, "--sampler", "random", "--max-concurrent", "2"))
    try:
        until(lambda: len(place.begun()) > 1, 600)
        found = listeners([psutil.Process(search.pid), *psutil.Process(search.pid).children(recursive=True)])
    finally:
        search.terminate()
        search.communicate()
    assert len([each for each in found if each.is_rays()]) >= 5
    assert [each for each in found if not each.is_alone()] == []


def test_an_address_of_every_interface_would_be_seen() -> None:
    assert [Listener("x", address, 1).is_alone() for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    assert [Listener("x", address, 1).is_alone() for address in ("::", "192.0.2.7", "::ffff:192.0.2.7")] == [False] * 3
