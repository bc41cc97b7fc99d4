"""A search whose MLflow server fails at random moments: afterwards every row is there once, as if nothing had failed.

Between the two stands a proxy of ours. The jobs train nothing.
"""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_server import MlflowServer, running
from tests.mlflow_store import contents
from tests.noop import SECONDS, SETS
from tests.postgres import Postgres
from tests.proxy import CLIENT_WAITS, How, before
from tests.ray_cluster import Cluster
from tune.spool import SPOOL
from tune.sync import look, sync

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
EXPERIMENT = "phasegpt-v14"
HOWS: tuple[How, ...] = ("refuse", "hang", "late", "500", "503", "after 500", "cut", "cut", "kill", "kill")
TIMED = (".log", ".png", "report.html")
"""Files whose bytes are not those of another search."""


def search(cluster: Cluster, folder: Path, uri: str, trials: int) -> Path:
    """Run a search named s to its end; its spool."""
    folder.mkdir()
    (folder / SECONDS).write_text("0.2")
    words = ["--track", "b", "--profile", "laptop", "--name", "s", "--storage", str(folder), "--sampler", "random"]
    words += ["--address", cluster.address, "--tracking-uri", uri, "--trials", str(trials)]
    words += [word for value in SETS for word in ("--set", value)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": CLIENT_WAITS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.noop", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "experiments" / "v14" / "track_b" / "s" / SPOOL


def recorded(uri: str) -> dict[str, Any]:
    """What MLflow holds of the search, without the bytes of files that tell the time, and the state of the checkout."""
    runs = contents(uri, EXPERIMENT)
    for run in runs.values():
        run["tags"] = {name: value for name, value in run["tags"].items() if not name.startswith("git_")}
        run["files"] = {n: b"" if n.endswith(TIMED) else b for n, b in run["files"].items()}
    return runs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A server of the test's own, which may be killed."""
    with running(MlflowServer(tmp_path)) as started:
        yield started


def moments(seed: int, calls: int, hows: tuple[How, ...]) -> dict[int, How]:
    """The requests that fail: at random ones of so many, each time one to three in a row in the same way."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    shuffled = dice.sample(hows, len(hows))
    plan: dict[int, How] = {}
    for number, how in zip(sorted(dice.sample(range(1, calls), len(hows))), shuffled, strict=True):
        plan |= dict.fromkeys(range(number, number + (1 if how == "kill" else dice.randint(1, 3))), how)
    return plan


def disturbed(cluster: Cluster, server: MlflowServer, folder: Path, plan: Mapping[int, How], trials: int) -> None:
    """A search through the failures of a plan, and what it could not send."""
    busy = threading.Lock()

    def restart() -> None:
        with busy:
            server.kill()
            server.start()

    with before(server.port, plan, restart=restart) as proxy:
        spool = search(cluster, folder, proxy.url, trials)
        assert len(proxy.failed) >= len(plan) // 2, (len(proxy.requests), plan)
        with busy:
            assert sync(spool, server.url) == 0
    assert look(spool).refused == 0


def undisturbed(cluster: Cluster, server: MlflowServer, folder: Path, trials: int) -> tuple[dict[str, Any], int]:
    """What the same search leaves where nothing fails, and how many requests it makes."""
    with before(server.port) as proxy:
        spool = search(cluster, folder, proxy.url, trials)
        assert look(spool).waiting == 0
        return recorded(server.url), len(proxy.requests)


def check(cluster: Cluster, server: MlflowServer, folder: Path, trials: int, hows: tuple[How, ...], seed: int) -> None:
    with running(MlflowServer(folder)) as other:
        wanted, calls = undisturbed(cluster, other, folder / "undisturbed", trials)
    disturbed(cluster, server, folder / "disturbed", moments(seed, calls, hows), trials)
    found = recorded(server.url)
    assert found.keys() == wanted.keys()
    assert len(found) == trials + 5
    for key, run in wanted.items():
        theirs, files = found[key].pop("files"), run.pop("files")
        assert theirs.keys() == files.keys(), key
        assert [name for name in files if theirs[name] != files[name]] == [], key
        assert found[key] == run


def test_four_moments_of_a_short_search_lose_and_double_nothing(
    ray_cluster: Cluster, server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(ray_cluster, server, tmp_path_factory.mktemp("short"), 4, ("late", "cut", "after 500", "kill"), 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_moments_of_twenty_trials_lose_and_double_nothing(
    ray_cluster: Cluster, server: MlflowServer, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    check(ray_cluster, server, tmp_path_factory.mktemp("long"), 20, HOWS, seed)


def test_a_server_on_postgresql_that_fails_holds_what_an_undisturbed_one_on_sqlite_does(
    ray_cluster: Cluster, postgres: Postgres, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backend = postgres.with_password(postgres.database("away"))
    with running(MlflowServer(tmp_path, backend)) as server:
        check(ray_cluster, server, tmp_path_factory.mktemp("short"), 4, ("late", "cut", "after 500", "kill"), 3)
