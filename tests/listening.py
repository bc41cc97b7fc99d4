"""Who listens where: the sockets of processes, as the system has them, and whom Ray's answer."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

CALLS = (  # one of each of Ray's services that take calls
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Push",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/GetTraceback",
    "RayletDriver/ClusterInfo",
)


@dataclass(frozen=True)
class Listener:
    """A TCP socket that waits for others, and the command line of its process."""

    command: str
    address: str
    port: int

    def is_alone(self) -> bool:
        """Whether this machine alone reaches it."""
        address = ipaddress.ip_address(self.address)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    def is_rays(self) -> bool:
        """Whether it is Ray's: of its programs, or of a process that Ray has named."""
        program = self.command.split(" --")[0]
        return self.command.startswith("ray::") or "/ray/" in program or " -m ray." in program


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """Those of living processes."""
    found = []
    for process in processes:
        try:
            command = " ".join(process.cmdline())
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        found += [Listener(command, s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN]
    return found


def of_this_process() -> list[psutil.Process]:
    """This process and all below it."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


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
