"""The image that every node runs, and the MLflow servers that it starts."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.deployed import DOCKERFILE, FOLDER, KUBERAY, LAUNCHED, PROJECT, ROOT, pods
from tune.search import parser as search_parser


def servers() -> list[list[str]]:
    """The arguments of every `mlflow server` in the files."""
    (container,) = dict(pods())["mlflow"]["spec"]["containers"]
    lines = [line for file in LAUNCHED for line in file.strings() if "mlflow server" in line]
    return [container["args"], *(shlex.split(line.split("mlflow server ")[1].split(" < ")[0]) for line in lines)]


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # of mlflow's own models
def test_mlflow_takes_the_options_of_every_server() -> None:
    from mlflow.cli import cli

    found = servers()
    assert len(found) == 3
    for words in found:
        options = cli.commands["server"].make_context("server", list(words)).params
        assert (options["port"], options["workers"]) == (5000, "1")
        assert options["artifacts_destination"].startswith("/shared/")


def test_mlflow_knows_the_names_by_which_it_is_called_and_no_others() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (allowed,) = [word.removeprefix("--allowed-hosts=") for word in servers()[0] if "--allowed-hosts" in word]
    called = {re.sub(r"^http://", "", uri) for uri in re.findall(r"http://mlflow[\w.:]*", KUBERAY.text)}
    assert called == {"mlflow:5000"}
    for host in (*called, "127.0.0.1:5000", "localhost:5000"):
        assert is_allowed_host_header(allowed.split(","), host)
    assert not is_allowed_host_header(allowed.split(","), "elsewhere.example:5000")


def test_mlflow_finds_its_driver_for_the_database() -> None:
    from sqlalchemy.engine import make_url

    (container,) = dict(pods())["mlflow"]["spec"]["containers"]
    (uri,) = [entry["value"] for entry in container["env"] if entry["name"] == "MLFLOW_BACKEND_STORE_URI"]
    (tables,) = dict(pods())["mlflow"]["spec"]["initContainers"]
    assert tables["env"] == container["env"]
    url = make_url(uri)
    assert (url.password, url.host, url.port) == (None, "postgres", 5432)
    assert url.get_dialect().driver == "psycopg"
    assert any(need.startswith("psycopg") for need in PROJECT["project"]["optional-dependencies"]["postgres"])
    assert "-e '.[postgres]'" in DOCKERFILE


def test_the_dockerfile_passes_the_linter() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, FOLDER / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_takes_what_it_needs_and_the_builder_sees_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    assert ignored[0] == "*"
    seen = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY --chown=ray:users (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]
    }
    assert seen == copied
    assert [name for name in seen if not (ROOT / name).exists()] == []
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"configs", "data", "pyproject.toml", PROJECT["project"]["readme"]} <= seen


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)
    assert users == ["1000"]
    for name in ("mlflow", "head", "gpu", "submitter"):
        assert dict(pods())[name]["spec"]["securityContext"]["runAsUser"] == int(users[-1])


def test_the_image_is_refused_where_its_parts_do_not_fit() -> None:
    (last,) = [line for line in DOCKERFILE.splitlines() if line.strip().startswith("&& python -m tune.search")]
    options = search_parser().parse_args(shlex.split(last)[4:])
    assert options.plan
    words = [sys.executable, *shlex.split(last)[2:]]
    done = subprocess.run(words, check=False, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    assert done.returncode == 0  # it needs no network and no model
