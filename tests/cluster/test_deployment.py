"""What the headers of cluster/'s files say holds: placeholders, commands, versions; and no file keeps a secret."""

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.deployed import (
    DOCKERFILE,
    FILES,
    FOLDER,
    LAUNCHED,
    PINNED,
    PLACEHOLDER,
    PROJECT,
    ROOT,
    Deployed,
    clusters,
    module_commands,
)
from tune.search import parser as search_parser

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.path.name)
every_launched = pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.path.name)


def test_the_files_are_found() -> None:
    assert {file.path.name for file in FILES} >= {"aws.yaml", "gcp.yaml", "kuberay.yaml"}
    assert [file.path.name for file in LAUNCHED] == ["aws.yaml", "gcp.yaml"]


@every_file
def test_the_header_lists_what_is_to_be_filled_in_and_nothing_else(file: Deployed) -> None:
    listed = re.findall(rf"^   ({PLACEHOLDER.pattern}) +\S", file.header, re.M)
    assert len(listed) == len(set(listed)) > 0
    assert set(listed) == set(PLACEHOLDER.findall(file.body)) == set(PLACEHOLDER.findall(file.header))
    assert re.findall(r"<(?!FILL-IN-)[A-Z][A-Z-]+>|TODO|CHANGE[-_ ]?ME", file.text) == []


@every_file
def test_the_searches_in_it_are_taken_by_the_search_itself(file: Deployed) -> None:
    found = module_commands(folded(file), "tune.search")
    assert len(found) >= 2  # one that begins, one that goes on
    for words in found:
        options = search_parser().parse_args(words)
        assert options.address == "auto"
        assert Path(options.storage).is_absolute()
        assert options.tracking_uri.startswith("http://")
        assert (options.name is None) is (options.resume is not None)
        assert not (options.resume and options.profile != "auto")  # refused beside --resume


@every_file
def test_each_search_grows_to_no_more_gpus_than_the_cluster_may_have(file: Deployed) -> None:
    for words in module_commands(folded(file), "tune.search"):
        options = search_parser().parse_args(words)
        assert options.gpus_per_worker == 1
        if options.resume is None:  # one that goes on knows how many it was asked for
            assert 1 <= options.max_concurrent <= most_gpu_nodes(file)


def test_the_search_that_the_docs_send_to_a_cluster_that_grows_is_one() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = [search_parser().parse_args(words) for words in module_commands(text, "tune.search") if "auto" in words]
    assert [options.gpus_per_worker for options in found] == [1]


def folded(file: Deployed) -> str:
    """Header and texts with each command on one line, however it is broken there."""
    lines = re.sub(r"\n {4,}(--)", r" \1", file.header)
    return "\n".join([lines, *file.strings()])


def most_gpu_nodes(file: Deployed) -> int:
    if file in LAUNCHED:
        return int(file.documents[0]["available_node_types"]["gpu"]["max_workers"])
    return int(clusters()[0]["workerGroupSpecs"][0]["maxReplicas"])


@every_launched
def test_the_commands_of_the_header_are_taken_by_ray(file: Deployed) -> None:
    from ray.scripts.scripts import cli

    told = [words for words in file.told_commands() if words[0] == "ray"]
    assert {words[1] for words in told} >= {"up", "exec", "attach", "dashboard", "down", "get-auth-token"}
    for _, verb, *arguments in told:
        words = arguments[: arguments.index(">")] if ">" in arguments else arguments
        context = cli.commands[verb].make_context(verb, list(words))
        assert context.params.get("cluster_config_file", f"cluster/{file.path.name}") == f"cluster/{file.path.name}"


@every_launched
def test_the_copy_of_the_database_that_the_header_tells_is_one(file: Deployed, tmp_path: Path) -> None:
    (command,) = [words[-1] for words in file.told_commands() if "sqlite3" in words[-1]]
    (tmp_path / "shared").mkdir()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table runs (id)")
        database.execute("insert into runs values (7)")
    database.close()
    code = shlex.split(command)[2].replace("/home/ray", str(tmp_path)).replace("/shared/phasegpt", f"{tmp_path}/shared")
    subprocess.run([sys.executable, "-c", code], check=True)
    copied = sqlite3.connect(tmp_path / "shared" / "mlflow.db")
    assert copied.execute("select id from runs").fetchall() == [(7,)]
    copied.close()


@every_file
def test_the_header_says_that_nobody_has_run_it(file: Deployed) -> None:
    assert "has not run" in " ".join(file.header.split())


# --- versions and secrets --------------------------------------------------------------------------------------------


def test_ray_is_the_same_everywhere_and_the_one_this_was_tested_with() -> None:
    said = [DOCKERFILE, *(file.text for file in FILES)]
    named = re.compile(r"(?:rayproject/ray:|[Rr]ay(?:Version:)? )(\d+\.\d+\.\d+)")
    assert {version for text in said for version in named.findall(text)} == {PINNED["ray"]}
    assert f'ray.__version__ == "{PINNED["ray"]}"' in DOCKERFILE
    python = PROJECT["tool"]["ruff"]["target-version"]
    assert set(re.findall(r"rayproject/ray:\S+?-(py\d+)-gpu", "\n".join(said))) == {python}


@every_file
def test_every_image_is_ours_or_of_one_release(file: Deployed) -> None:
    images = [text for document in file.documents for text in images_in(document)]
    assert images
    for image in images:
        assert PLACEHOLDER.fullmatch(image) or re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?", image), image


def images_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(value.get("image"), str):
        yield value["image"]
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from images_in(part)


def test_the_image_has_this_projects_version_wherever_it_is_named() -> None:
    texts = "\n".join([DOCKERFILE, *(file.text for file in FILES)])
    assert set(re.findall(r"phasegpt-tune:(\S+)", texts)) == {PROJECT["project"]["version"]}


SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-f]{24,}\b|\b[A-Za-z0-9+/]{40,}\b|gh[pousr]_\w{20}|hf_\w{20}")
NAMED_SECRET = re.compile(r"(?i)(password|token|secret|api_?key)[\"']?\s*[:=]\s*[\"']?(?!\$\()\w{6,}")


@pytest.mark.parametrize("path", [*(file.path for file in FILES), FOLDER / "Dockerfile"], ids=lambda path: path.name)
def test_nothing_in_it_looks_like_a_secret(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    public = ("secretName: phasegpt-ray", "--env RAY_AUTH_MODE=token")  # a name, a mode
    told = [line for line in lines if not any(words in line for words in public)]
    assert [line for line in told if SECRET.search(line) or NAMED_SECRET.search(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter2",
        "auth_token=deadbeefdeadbeef",
        "key: AKIAABCDEFGHIJKLMNOP",
        "- 0123456789abcdef0123456789abcdef",
    ],
)
def test_a_secret_would_be_seen(line: str) -> None:
    assert SECRET.search(line) or NAMED_SECRET.search(line)
