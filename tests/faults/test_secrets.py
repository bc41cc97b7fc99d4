"""Canaries in the place of passwords and tokens: what is written, shown or sent never holds one."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import checks
from cluster.package import Package
from cluster.sending import Surroundings, environment, search_words
from phasegpt.checkpoints import _no_such_model
from tests.ray_cluster import Cluster
from tests.tune.conftest import ToyRequest, toy_request  # noqa: F401 - a fixture
from tune.databases import DatabaseError, require_postgresql

ROOT = Path(__file__).parents[2]
CANARY = "canary5f3a"
"""In every secret below, so that one look finds them all. Ray takes hexadecimal tokens, of which it is a part."""

SECRETS = {
    name: f"{CANARY}{number:02d}"
    for number, name in enumerate(
        (
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "WANDB_API_KEY",
            "RAY_AUTH_TOKEN",
            "PGPASSWORD",
            "OWN_SECRET",
        )
    )
}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": f"{SECRETS['RAY_AUTH_TOKEN'].encode().hex():0<64}"}
"""Of a Ray that a search starts."""
ADDRESSES = (
    f"postgresql://me:{CANARY}@db/studies",
    f"postgresql://me:{CANARY}/x@db/studies",
    f"postgresql://me:p@{CANARY}@db/studies",
    f"postgresql://db/studies?user=me&password={CANARY}",
    f"postgresql://db/studies?sslpassword={CANARY}&user=me",
    f"postgresql+psycopg://:{CANARY}@db/studies",
)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        if name != "RAY_AUTH_TOKEN":  # that of this process is in use
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_request_keeps_and_shows_no_password_of_its_study(
    toy_request: ToyRequest,  # noqa: F811
    url: str,
) -> None:
    try:
        require_postgresql(url)
    except DatabaseError as error:
        assert CANARY not in str(error)  # noqa: PT017 - most addresses are taken
        return
    request = replace(toy_request(), study_url=url)
    request.save()
    assert CANARY not in repr(request)
    assert CANARY not in request.places.request.read_text()


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_study_with_a_password_is_not_sent_to_a_cluster(url: str) -> None:
    (failure,) = checks.study_is_bare(url)
    assert CANARY not in str(failure)


@pytest.mark.parametrize("uri", [f"https://me:{CANARY}@mlflow:5000", *ADDRESSES])
def test_an_mlflow_with_a_password_is_not_sent_to_a_cluster(uri: str) -> None:
    (failure,) = checks.tracking_is_http(uri)
    assert CANARY not in str(failure)


@pytest.mark.parametrize("url", ["postgresql://me@db:5432/studies", "postgresql://db/studies?sslmode=require", None])
def test_a_study_without_one_is(url: str | None) -> None:
    assert checks.study_is_bare(url) == []


def test_a_job_is_sent_only_the_secrets_that_were_asked_for(tmp_path: Path) -> None:
    found = Surroundings(Package(), environment("http://mlflow:5000", [], None)).runtime_env(tmp_path)
    words = search_words(["--track", "b"], "n", "none", None, "/shared")
    assert CANARY not in f"{found} {words}"
    asked = environment("http://mlflow:5000", ["HF_TOKEN"], None)
    assert [name for name, value in asked.items() if CANARY in value] == ["HF_TOKEN"]


def test_what_mlflow_says_of_an_address_is_shown_without_its_password() -> None:
    said = _no_such_model("models:/x@y", ValueError(f"API request to http://me:{CANARY}@mlflow/api failed"))
    assert "API request to http://mlflow/api failed" in str(said)


# --- a whole search --------------------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def holding(folder: Path) -> list[str]:
    """The files below a folder whose name or content has a canary."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if CANARY in str(path) or CANARY.encode() in path.read_bytes()]


def told_by_ps(ended: threading.Event) -> list[str]:
    """The command lines of this machine's processes, looked at until the search has ended, that have a canary."""
    found: set[str] = set()
    while not ended.wait(0.2):
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = process.read_text()
                found |= {line} if CANARY in line else set()
    return sorted(found)


def searched(
    folder: Path, uri: str, token: Mapping[str, str], *more: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A search of two jobs that train nothing, with every secret in its environment; and what `ps` told of it."""
    words = ["--track", "b", "--profile", "laptop", "--name", "s", "--storage", str(folder), "--trials", "2", *more]
    for value in (
        "search.objectives={eval_loss: min}",
        "search.finalists={count: 1, seeds: 1}",
        "training.max_steps=2",
    ):
        words += ["--set", value]
    around: Mapping[str, str] = {
        **os.environ, **SECRETS, **token, "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": uri, "RAY_TMPDIR": str(folder / "ray"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }  # fmt: skip
    ended, seen = threading.Event(), list[str]()
    watch = threading.Thread(target=lambda: seen.extend(told_by_ps(ended)))
    watch.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.noop", *words], cwd=ROOT, env=around, capture_output=True, text=True,
            check=False, timeout=800,
        )  # fmt: skip
    finally:
        ended.set()
        watch.join()
    return done, seen


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("away", [False, True], ids=["written to a database", "waiting for a server"])
def test_a_search_writes_shows_and_passes_on_no_secret(place: Path, away: bool) -> None:
    """With a server that is away, whose address has a password, everything waits in the spool."""
    uri = f"http://me:{CANARY}99@127.0.0.1:1" if away else f"sqlite:///{place}/mlflow.db"
    done, seen = searched(place, uri, TOKEN)
    assert done.returncode == 0, done.stderr
    assert seen == []
    assert CANARY not in done.stdout + done.stderr
    assert list(place.rglob("tracking.jsonl"))
    assert list((place / "ray").rglob("*.log"))
    assert holding(place) == []
    assert SECRETS["RAY_AUTH_TOKEN"].encode().hex() not in done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_search_on_a_cluster_of_others_tells_ps_no_secret(place: Path, ray_cluster: Cluster) -> None:
    own = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    done, seen = searched(place, f"sqlite:///{place}/mlflow.db", own, "--address", ray_cluster.address)
    assert done.returncode == 0, done.stderr
    assert seen == []
    assert CANARY not in done.stdout + done.stderr
    assert holding(place) == []
