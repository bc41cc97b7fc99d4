"""What of the project travels with a job: what git tracks or would, without results, environments and secrets.

Every node fetches it, so it is kept small, and what is too large is named. Knows nothing of Ray.
"""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tune.request import RequestError

PROJECT = Path(__file__).parents[1]
LIMIT = 50_000_000
"""Bytes; the project itself has 4 million."""

NEVER = frozenset(
    {".git", ".venv", "venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "build"}
    | {"checkpoints", "experiments", "results", "mlartifacts", "mlruns", "wandb", "node_modules"}
)
"""Folders whose contents stay here, wherever they lie."""

SECRET = (".env", "token", "auth_token", "credentials", "id_rsa", "id_ed25519")
"""Names of files that stay here, whoever forgot to tell git so."""

SENT = "submitted"
"""The folder, in what travels, of files from outside the project."""


@dataclass(frozen=True)
class Package:
    """Files by the path that they have in the job's working directory."""

    files: dict[str, Path] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.stat().st_size for file in self.files.values())

    def __str__(self) -> str:
        return f"{len(self.files)} files, {self.size / 1e6:.1f} MB"

    def with_file(self, file: Path) -> tuple["Package", str]:
        """The same with a file more, and the path it has there: its own below the project, else in SENT."""
        inside = file.resolve().is_relative_to(PROJECT)
        path = file.resolve().relative_to(PROJECT).as_posix() if inside else f"{SENT}/{file.name}"
        return Package({**self.files, path: file.resolve()}), path

    def write(self, folder: Path) -> None:
        """Copy all of it to `folder`, save files by which Ray would leave something out."""
        for path, file in self.files.items():
            if file.name in (".gitignore", ".rayignore"):
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, folder / path)


def project_package(root: Path = PROJECT) -> Package:
    """What travels of the project at `root`. Raises RequestError where that is no checkout of it."""
    if not (root / "pyproject.toml").is_file():
        raise RequestError(f"{root} is no checkout of the project; clone it and run this there, or send an --image")
    found = {path: root / path for path in _listed(root) if _travels(path)}
    return Package({path: file for path, file in sorted(found.items()) if file.is_file() and not file.is_symlink()})


def check_size(package: Package, limit: int = LIMIT) -> None:
    """Raises RequestError with the largest files where a package is above `limit` bytes."""
    if package.size <= limit:
        return
    largest = sorted(package.files.items(), key=lambda item: -item[1].stat().st_size)[:10]
    lines = [f"  {file.stat().st_size / 1e6:8.1f} MB  {path}" for path, file in largest]
    raise RequestError(
        "\n".join(
            [
                f"the project is too large to send: {package}, at most {limit / 1e6:.0f} MB; put data and models where "
                "every node sees them and name them by their full path, or tell git to ignore them. The largest:",
                *lines,
            ]
        )
    )


def _listed(root: Path) -> Iterable[str]:
    """Paths below `root`: what git tracks and what it does not ignore; outside a checkout all there is."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return (path.relative_to(root).as_posix() for path in _walk(root))
    return (name for name in said.split("\0") if name)


def _walk(folder: Path) -> Iterable[Path]:
    for place in folder.iterdir():
        if place.is_dir() and not place.is_symlink():
            yield from () if place.name in NEVER else _walk(place)
        else:
            yield place


def _travels(path: str) -> bool:
    parts = PurePosixPath(path).parts
    database = any(suffix.startswith(".db") for suffix in PurePosixPath(path).suffixes)
    return not (database or parts[-1] in SECRET or NEVER.intersection(parts[:-1]))
