"""A Ray cluster whose head, workers, MLflow server and user are hosts of their own, with a folder that all share.

Everything is started and asked by the commands that people type. The search of a test is called killed.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.hosts import Host, hosts
from tests.cluster.machine import ROOT, submit_command
from tests.noop import BEGUN
from tests.processes import MARK

GCS, DASHBOARD, MLFLOW = 6379, 8265, 5000
WORKERS = ("left", "right")
UP = "Ray runtime started"
PATIENCE = 180.0
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class HostCluster:
    """`folder` is what all hosts share, `sockets` what none does: there each of Ray's sessions has a short path.
    `own` are settings of this cluster, `started` its processes, which are ended with it.
    """

    hosts: dict[str, Host]
    folder: Path
    sockets: Path
    mark: str
    own: dict[str, str]
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts["head"]

    @property
    def environment(self) -> dict[str, str]:
        """That of every process: the token, and nothing that this one knows of other clusters."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_")) and k != "PYTHONPATH"}
        return {
            **kept,
            MARK: self.mark,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]]),
            "PHASEGPT_CACHE": str(self.folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **self.own,
        }

    def start_head(self) -> None:
        """A head without CPUs, as the shipped cluster files have it; it is up when this returns."""
        words = ["--head", f"--port={GCS}", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
        self._begin_node("head", [*words, "--num-cpus=0"])()

    def start_workers(self, *names: str) -> None:
        """Workers of one CPU each join the head, all at once."""
        address = f"--address={self.head.address}:{GCS}"
        for is_up in [self._begin_node(name, [address, "--num-cpus=1"]) for name in names]:
            is_up()

    def _begin_node(self, name: str, words: list[str]) -> Callable[[], None]:
        """Start a node; what is returned waits until it is up."""
        host, log = self.hosts[name], self._log(name)
        session = tempfile.mkdtemp(prefix=name, dir=self.sockets)
        common = [f"--node-ip-address={host.address}", f"--temp-dir={session}", "--object-store-memory=100000000"]
        ups = log.read_text().count(UP) if log.is_file() else 0
        self._start(host, ["ray", "start", "--block", "--disable-usage-stats", *common, *words], log)
        return lambda: until(lambda: log.read_text().count(UP) > ups, log)

    def begin_mlflow(self) -> None:
        """MLflow on its own host; what it keeps is in the shared folder."""
        words = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "mlartifacts"), "--host", self.records.address]
        server = [sys.executable, "-m", "mlflow", "server", *words, "--port", str(MLFLOW)]
        self._start(self.records, server, self._log("records"))

    def wait_for_mlflow(self) -> None:
        """Until it answers."""
        asked = f"import urllib.request; urllib.request.urlopen('{self.tracking_uri}/health', timeout=5)"
        words = [sys.executable, "-c", asked]
        until(lambda: self.records.run(words, self.environment, 60).returncode == 0, self._log("records"))

    @property
    def records(self) -> Host:
        return self.hosts["records"]

    @property
    def tracking_uri(self) -> str:
        return f"http://{self.records.address}:{MLFLOW}"

    def submit(self, *words: str, patience: float = 400) -> Done:
        """`python -m cluster.submit` as the user types it at home, who reaches the head alone."""
        there = ["--address", f"http://{self.head.address}:{DASHBOARD}"]
        command = [sys.executable, "-c", f"import os; os.chdir({str(ROOT)!r}); {submit_command('tests.noop')[1]}"]
        return self.hosts["laptop"].run([*command, *words, *there], self.environment, patience)

    def send(self, *words: str) -> None:
        """Send a search, or one that goes on, and leave it."""
        places = ["--storage", str(self.folder), "--tracking-uri", self.tracking_uri]
        sent = self.submit("--track", "b", *words, *places, "--detach")
        assert sent.returncode == 0, sent.stderr

    def end(self) -> Done:
        """Follow the last job of the search to its end."""
        return self.submit("logs", "-f", "killed")

    def nodes(self) -> int:
        """How many nodes the cluster counts, as its head sees it."""
        asked = (  # not 'auto', by which Ray would find the processes of other hosts too
            f"import ray; ray.init('{self.head.address}:{GCS}', log_to_driver=False, logging_level='ERROR'); "
            "print('NODES', sum(node['Alive'] for node in ray.nodes()))"
        )
        done = self.head.run([sys.executable, "-c", asked], self.environment, 120)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("NODES ")]  # Ray tells of deaths there
        return int(line.split()[1])

    def begun(self) -> list[str]:
        """A line for each job that has begun or gone on: its name, and the step that it went on from."""
        log = self.folder / BEGUN
        return log.read_text().splitlines() if log.is_file() else []

    def _start(self, host: Host, words: list[str], log: Path) -> None:
        self.started.append(host.start(words, self.environment, log))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@contextmanager
def host_cluster(folder: Path, **own: str) -> Iterator[HostCluster]:
    """The whole of it for the length of the block, two workers of one CPU each; `own` is set for all processes."""
    (folder / "token").write_text(secrets.token_hex(32))
    with (
        hosts("head", *WORKERS, "records", "laptop") as made,
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as sockets,
    ):
        cluster = HostCluster(made, folder, Path(sockets), secrets.token_hex(8), own)
        try:
            cluster.begin_mlflow()
            cluster.start_head()
            cluster.start_workers(*WORKERS)
            cluster.wait_for_mlflow()
            yield cluster
        finally:
            for host in made.values():
                host.kill()
            for process in cluster.started:
                process.wait(30)


def until(true: Callable[[], object], log: Path | None = None, patience: float = PATIENCE) -> None:
    """Wait for something to become true; where it does not, fail with what a log says."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, log.read_text() if log is not None else "it did not come about"
        time.sleep(0.2)
