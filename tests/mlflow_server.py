"""A real `mlflow server` for tests: on a free port, with a database and files of its own, killed at will."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from tests.mlflow_store import migrated
from tests.processes import free_port

PATIENCE = 400.0
"""Seconds for a server to answer: one on PostgreSQL migrates it first, on a machine that may be busy."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass
class MlflowServer:
    """`backend` is the address of its database, by default a file of its own; `options` are for its command."""

    folder: Path
    backend: str = ""
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.backend = self.backend or migrated(self.folder, "server.db")
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", self.backend, "--serve-artifacts"]
        words += ["--artifacts-destination", str(self.folder / "artifacts"), *self.options]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, **QUIET, **self.environment},
            )  # fmt: skip
        patience = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < patience, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(URLError, OSError):
            return bool(urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)  # noqa: S310
        return False

    def kill(self) -> None:
        """SIGKILL the server and its workers, which are the processes of its session."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def running(server: MlflowServer) -> Iterator[MlflowServer]:
    """The server while the block lasts."""
    try:
        server.start()
        yield server
    finally:
        server.kill()
