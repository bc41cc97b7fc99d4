"""One node on this machine and a job on it: started, spoken to with and without its token, ended without a trace."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.dashboard import Dashboard
from cluster.jobs import connect, follow
from tests.cluster.machine import Machine, alive, until
from tests.listening import answers, listeners
from tune.request import RequestError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated"),  # Ray's own client asks aiohttp so
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose cluster is ended, whatever a test came to."""
    found = Machine(tmp_path / "cache")
    yield found
    found.local("stop")


def begun(machine: Machine) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A start under way, and the processes that it has started: MLflow, and a head that is not up yet."""
    start = machine.begin_local("start", "--nodes", "2")
    state = machine.cache / "cluster" / "state.json"
    until(lambda: state.is_file() and len(machine.state()["roots"]) == 2)
    until(lambda: len(machine.processes()) > 3)
    return start, machine.processes()


@pytest.mark.cluster
def test_a_start_that_is_cut_short_ends_what_it_had_started(machine: Machine) -> None:
    start, processes = begun(machine)
    start.terminate()
    _, said = start.communicate(timeout=120)
    assert start.returncode == 130
    assert "could not be started; ending what was" in said
    assert alive(processes) == []
    assert not (machine.cache / "cluster" / "state.json").exists()


@pytest.mark.cluster
def test_what_a_killed_start_left_is_cleared_by_stop(machine: Machine) -> None:
    start, processes = begun(machine)
    start.kill()
    start.communicate(timeout=60)
    assert alive(processes) != []
    assert machine.local("stop").returncode == 0
    assert alive(processes) == []


def test_a_cluster_of_one_node_runs_a_job_and_leaves_nothing_behind(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    started = machine.local("start", "--nodes", "1")
    assert started.returncode == 0, started.stderr
    state, processes = machine.state(), machine.processes()
    token = (machine.cache / "cluster" / "token").read_text()
    assert token not in started.stdout + started.stderr
    assert token not in " ".join(word for process in processes for word in process.cmdline())

    beyond = [each for each in listeners(processes) if not each.is_alone()]
    assert [each for each in beyond if not each.is_rays()] == []  # MLflow listens to this machine alone
    assert int(state["address"].rpartition(":")[2]) not in {each.port for each in beyond}
    said = {each.port: answers(each.port) for each in beyond}
    assert {port: found for port, found in said.items() if "OK" in found} == {}

    again = machine.local("start")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("a cluster runs here already")

    with pytest.raises(RequestError, match="asks for a token"):
        Dashboard(state["address"]).ray_version()
    with pytest.raises(RequestError, match="refuses this token"):
        Dashboard(state["address"], "wrong").ray_version()

    client = connect(Dashboard(state["address"], token))
    written: list[str] = []
    job = client.submit_job(entrypoint="echo hello; exit 3")
    assert follow(client, job, written.append) == 3
    assert "".join(written).count("hello\n") == 1

    ended = machine.local("stop")
    assert ended.returncode == 0, ended.stderr
    assert alive(processes) == []
    assert not Path(state["temp"]).exists()
    assert not (machine.cache / "cluster" / "token").exists()
