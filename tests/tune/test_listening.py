"""What listens where while a search's own Ray runs, and that its ports answer nobody without the token."""

import pytest

from tests.listening import Listener, listeners, of_this_process
from tests.ray_cluster import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

CALLS = (  # one of each of Ray's services that take calls
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/GetTraceback",
)


def answers(port: int) -> set[str]:
    """What a port says to calls that carry no token, as gRPC's names of statuses; OK where it answers."""
    import grpc

    found = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for call in CALLS:
            try:
                channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=30)
                found.add("OK")
            except grpc.RpcError as error:
                found.add(error.code().name)
    return found


def test_nothing_of_a_cluster_of_our_own_listens_beyond_this_machine(ray_cluster: Cluster) -> None:
    found = listeners(of_this_process())
    assert len([each for each in found if each.is_rays()]) >= 5
    assert [each for each in found if not each.is_alone()] == []


def test_rays_ports_refuse_who_has_no_token(ray_cluster: Cluster) -> None:
    said = {port: answers(port) for port in {each.port for each in listeners(of_this_process())}}
    assert {port: found for port, found in said.items() if "OK" in found} == {}
    assert len([port for port, found in said.items() if "UNAUTHENTICATED" in found]) >= 3


def test_an_address_of_every_interface_would_be_seen() -> None:
    assert [Listener("x", address, 1).is_alone() for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    assert [Listener("x", address, 1).is_alone() for address in ("::", "192.0.2.7", "::ffff:192.0.2.7")] == [False] * 3
