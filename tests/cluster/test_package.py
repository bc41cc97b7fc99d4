"""What travels with a job: of a checkout, of a folder without git, with files from elsewhere."""

import subprocess
from pathlib import Path

import pytest

from cluster.package import PROJECT, Package, check_size, project_package
from tune.request import RequestError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project, not yet a checkout."""
    for path in ("pyproject.toml", "code/a.py", "data/pairs.jsonl", ".venv/lib/x.py", "checkpoints/v14/w.safetensors",
                 "mlflow.db", "mlflow.db-journal", ".env", "docs/results.md", "code/__pycache__/a.pyc"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    return tmp_path


def test_results_environments_databases_and_secrets_stay_here(project: Path) -> None:
    assert set(project_package(project).files) == {"pyproject.toml", "code/a.py", "data/pairs.jsonl", "docs/results.md"}


def test_of_a_checkout_what_git_ignores_stays_and_what_is_new_travels(project: Path) -> None:
    (project / ".gitignore").write_text("/data/\n")
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run(["git", "-C", str(project), "add", "code/a.py", "pyproject.toml"], check=True)
    (project / "code/new.py").write_text("new")
    assert set(project_package(project).files) == {
        ".gitignore", "pyproject.toml", "code/a.py", "code/new.py", "docs/results.md"
    }  # fmt: skip


def test_a_file_that_git_still_tracks_but_is_gone_does_not_travel(project: Path) -> None:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run(["git", "-C", str(project), "add", "code/a.py", "pyproject.toml"], check=True)
    (project / "code/a.py").unlink()
    assert "code/a.py" not in project_package(project).files


def test_a_folder_that_is_no_checkout_of_the_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no checkout of the project"):
        project_package(tmp_path)


def test_what_is_too_large_is_named_the_largest_first(project: Path) -> None:
    (project / "data/dump.bin").write_bytes(b"0" * 3000)
    (project / "data/less.bin").write_bytes(b"0" * 2000)
    with pytest.raises(RequestError) as refused:
        check_size(project_package(project), limit=4000)
    lines = str(refused.value).splitlines()
    assert "too large to send: 6 files" in lines[0]
    assert [line.split()[-1] for line in lines[1:3]] == ["data/dump.bin", "data/less.bin"]


def test_this_project_is_small_enough_and_has_what_a_search_needs() -> None:
    package = project_package()
    check_size(package)
    assert {"tune/search.py", "configs/v14/kto_regularized.yaml", "data/eval_prompts.jsonl"} <= package.files.keys()


def test_a_file_keeps_its_place_in_the_project_and_gets_one_from_outside(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    package, path = Package().with_file(tmp_path / "mine.yaml")
    assert path == "submitted/mine.yaml"
    _, own = package.with_file(PROJECT / "configs/v14/kto_regularized.yaml")
    assert own == "configs/v14/kto_regularized.yaml"
    package.write(tmp_path / "copy")
    assert (tmp_path / "copy/submitted/mine.yaml").read_text() == "mine"


def test_no_file_travels_by_which_ray_would_leave_out_another(project: Path, tmp_path: Path) -> None:
    (project / "code/.gitignore").write_text("*.py\n")
    folder = tmp_path / "copy"
    project_package(project).write(folder)
    assert (folder / "code/a.py").is_file()
    assert not (folder / "code/.gitignore").exists()
