"""Whole files and folders that are there complete or not at all: write beside, fsync, rename."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


class DamagedError(ValueError):
    """A file whose content is not what was written; the message names file, place and cure in one line."""


STAGE = re.compile(r"\..+\.[a-z0-9_]{8}(\.old)?")
"""What a file or folder is called before it has its name, and after it was replaced."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_full(error: BaseException) -> bool:
    """Whether a disk takes no more: it has no room, one's share of it is used up, or it cannot be written to.

    Rust's libraries and Ray say so in words alone, and of what others raised from it the cause tells.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    behind = error.__cause__ or error.__context__
    said = any(f"{word} {number}" in str(error) for word in ("os error", "[Errno") for number in FULL)
    return said or (behind is not None and is_full(behind))


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by `text` (UTF-8); a crash leaves the old file or the new one. Who may read it is `mode`."""
    with whole_file(path, mode) as stage:
        stage.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON with sorted keys; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def open_file(path: Path) -> BinaryIO:
    """An ordinary file opened to read its bytes. OSError for what may never end, or never begin: a pipe, a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for who writes to it
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def read_json(path: Path) -> Any:
    """The JSON in `path`. Raises DamagedError where it has none."""
    with open_file(path) as file:
        content = file.read()
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}); remove it and run again") from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `path` when the block ends well and is removed when it does not.

    An existing `path` is moved aside before it is removed, so that a crash never leaves half of it under its name; what
    a crash may leave is a folder with a leading dot beside it.
    """
    make_folder(path.parent)
    stage = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield stage
        stage.chmod(0o755)
        sync_tree(stage)
        old = stage.with_name(f"{stage.name}.old")
        if path.exists():
            path.rename(old)
        stage.rename(path)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A new file to write, which becomes `path` when the block ends well and is removed when it does not.

    Nobody but its owner can read it before it has its name and `mode`.
    """
    make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    stage = Path(name)
    try:
        yield stage
        stage.chmod(mode)
        _sync_file(stage)
        stage.replace(path)
    except BaseException:
        stage.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_stages(folder: Path) -> None:
    """Remove below `folder` what killed processes were writing; nobody may be writing there now."""
    for path in sorted(folder.rglob(".*"), reverse=True):
        if STAGE.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_folder(path: Path) -> None:
    """The folder and those above it, where they are missing; they survive a loss of power as what is put in them."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_folder(folder.parent)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, and itself."""
    for place in sorted(folder.rglob("*"), reverse=True):
        sync_folder(place) if place.is_dir() else _sync_file(place)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def text_sha256(*parts: str) -> str:
    """sha256 of texts in order, in hex."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
