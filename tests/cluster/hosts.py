"""Hosts with a network of their own on this machine: network namespaces on one bridge, which is in a namespace too.

They share disk, cores and process numbers, so a folder is to them what NFS is to machines, and a host dies when all
its processes are killed. Nothing of the machine's own network is touched, and two runs cannot meet: each bridge is
alone. Needs root and iproute2.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OURS = re.compile(r"phasegpt-(?P<pid>\d+)-[a-z]+")
GATEWAY, ASKED_BY_RAY = "10.77.0.254", "8.8.8.8"
"""Ray takes for a host's address that by which it would go to the second. Nobody has the first, and no other way leads
out, so that names are not looked up for long."""


def missing() -> str:
    """Why hosts cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    trial = f"phasegpt-{os.getpid()}-trial"
    if subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False, timeout=30).returncode:
        return "this kernel or container gives no network namespaces"
    _ip("netns", "delete", trial)
    return ""


@dataclass(frozen=True)
class Host:
    """One of them; its end of the cable on the bridge is called as the host is."""

    name: str
    address: str
    space: str
    switch: str

    def command(self, words: Sequence[str]) -> list[str]:
        """Words that run a command on it."""
        return ["ip", "netns", "exec", self.space, *words]

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], patience: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, for at most so many seconds."""
        return subprocess.run(
            self.command(words), env={**environment}, capture_output=True, text=True, check=False, timeout=patience
        )

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """Start what runs until the host dies."""
        with log.open("ab") as said:
            return subprocess.Popen(
                self.command(words), env={**environment}, stdout=said, stderr=said, start_new_session=True
            )

    def processes(self, containing: str = "") -> list[int]:
        """The numbers of its processes; only those whose command line contains a text, where one is given."""
        return [pid for pid in map(int, _ip("netns", "pids", self.space).split()) if containing in _command_line(pid)]

    def kill(self, containing: str = "") -> None:
        """The host loses its power; or the processes with such command lines are killed."""
        end = time.monotonic() + 30
        while left := self.processes(containing):
            assert time.monotonic() < end, [_command_line(pid) for pid in left]
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """For the length of the block its cable is out."""
        _ip("-n", self.switch, "link", "set", self.name, "down")
        try:
            yield
        finally:
            _ip("-n", self.switch, "link", "set", self.name, "up")


@contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names (at most 15 letters each), all of which reach each other. Nothing of them is left behind."""
    _clear_after_crashes()
    run = f"phasegpt-{os.getpid()}"
    switch = f"{run}-switch"
    made = {name: Host(name, f"10.77.0.{n}", f"{run}-{name}", switch) for n, name in enumerate(names, start=1)}
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host in made.values():
            _connect(host)
        yield made
    finally:
        _clear([space for space in _spaces() if space.startswith(f"{run}-")])


def _connect(host: Host) -> None:
    space, switch = host.space, host.switch
    _ip("netns", "add", space)
    _ip("-n", space, "link", "set", "lo", "up")
    _ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", host.name, "netns", switch)
    _ip("-n", switch, "link", "set", host.name, "master", "bridge", "up")
    _ip("-n", space, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "route", "add", ASKED_BY_RAY, "via", GATEWAY)


def _clear_after_crashes() -> None:
    """End what an earlier run left that was killed itself."""
    owners = {space: found["pid"] for space in _spaces() if (found := OURS.fullmatch(space))}
    _clear([space for space, pid in owners.items() if not Path("/proc", pid).exists()])


def _clear(spaces: Sequence[str]) -> None:
    for space in spaces:
        Host(space, "", space, "").kill()
        _ip("netns", "delete", space)


def _spaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line]


def _command_line(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
