"""A real PostgreSQL for tests: Debian's, in a temporary folder, on a free loopback port, with a password, then gone.

PostgreSQL refuses to run as root: there it runs as Debian's user postgres, or as nobody.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import free_port

USER = "phasegpt"
PATIENCE = 120.0


@dataclass(frozen=True)
class Postgres:
    """Where it listens, and the password of USER, which may make databases."""

    port: int
    password: str

    def database(self, name: str) -> str:
        """Make a database; its address without the password."""
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user={USER} password={self.password} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def with_password(self, url: str) -> str:
        """The same address with the password in it."""
        return url.replace("@", f":{self.password}@", 1)


def binaries() -> Path | None:
    """The folder of Debian's newest PostgreSQL, or of the one on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found and (on_path := shutil.which("initdb")):
        found = [Path(on_path).resolve()]
    return found[-1].parent if found else None


def as_user(folder: Path) -> list[str]:
    """The words before a command that PostgreSQL must not run as root, and `folder` given to that user."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(folder, user.pw_uid, user.pw_gid)
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """See the module. Skipped where Debian's package postgresql is not installed."""
    where = binaries()
    if where is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    started = Postgres(free_port(), secrets.token_hex(12))
    try:
        yield from _running(where, folder, started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(where: Path, folder: Path, started: Postgres) -> Iterator[Postgres]:
    (folder / "password").write_text(started.password)
    (folder / "password").chmod(0o644)
    user, data = as_user(folder), str(folder / "data")
    words = ["-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={folder}/password", "--no-sync", "-E", "UTF8"]
    subprocess.run([*user, str(where / "initdb"), *words, "--locale=C"], check=True, capture_output=True, cwd=folder)
    settings = [f"port={started.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
    command = [*user, str(where / "postgres"), "-D", data, *(word for each in settings for word in ("-c", each))]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait(where, folder, started, process)
            yield started
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown


def _wait(where: Path, folder: Path, started: Postgres, process: "subprocess.Popen[bytes]") -> None:
    patience = time.monotonic() + PATIENCE
    ready = [str(where / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(started.port)]
    while subprocess.run(ready, check=False).returncode != 0:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < patience, (folder / "log").read_text()
        time.sleep(0.1)
