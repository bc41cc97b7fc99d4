"""Object storage by its address, s3:// or gs://: whole objects put, got, listed and removed, with second attempts.

An object is there whole or as it was before. Credentials come from the
environment or from the machine (`AWS_ACCESS_KEY_ID`, an instance's role, `GOOGLE_APPLICATION_CREDENTIALS`), another
server than Amazon's from `AWS_ENDPOINT_URL_S3`. Knows nothing of runs or searches; pyarrow is imported when it is used.
"""

import io
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from phasegpt.files import whole_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3://", "gs://")
PAUSES = (1.0, 3.0, 9.0)
"""Seconds before each further attempt; the clients themselves try a few times within one."""
CHUNK = 8 * 2**20
CURE = {
    "s3": "check the bucket, the network and the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the "
    "machine's role), and AWS_ENDPOINT_URL_S3 where the server is not Amazon's",
    "gs": "check the bucket, the network and the credentials (GOOGLE_APPLICATION_CREDENTIALS, or the machine's role)",
}
T = TypeVar("T")


class StorageError(ValueError):
    """A storage that cannot be used; the message is one line and names the cure."""


def is_address(text: str) -> bool:
    """Whether a text is meant as the address of a store, and not as a folder."""
    return "://" in text


def checked_address(text: str) -> str:
    """An address of a store without slashes at its end. Raises StorageError for another kind, or one with a secret."""
    scheme, _, rest = text.partition("://")
    if not text.startswith(SCHEMES):
        raise StorageError(f"{scheme}://…: expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if "@" in rest or re.search(r"[?&](access_key|secret_key|session_token)=", rest):
        raise StorageError(f"{scheme}://…: an address is kept and shown; leave user and password to the environment")
    if not rest.strip("/"):
        raise StorageError(f"{text}: names no bucket; expected {scheme}://BUCKET/PREFIX")
    return text.rstrip("/")


@dataclass(frozen=True)
class Found:
    """An object as a listing tells: its size in bytes, and when it was put there (seconds since 1970)."""

    size: int
    put: float


class ObjectStore:
    """What lies below one address; names are relative to it, with slashes. Raises OSError after the last attempt."""

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)

    @cached_property
    def _place(self) -> "tuple[FileSystem, str]":
        from pyarrow.fs import FileSystem

        files, path = FileSystem.from_uri(self.address)
        return files, path.rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self._place[1]}/{name}"

    def check(self) -> None:
        """Put an object and take it away again. Raises StorageError with the cure where that is refused."""
        name = f".check-{uuid.uuid4().hex}"
        try:
            self._replace(name, b"phasegpt")
            self._place[0].delete_file(self._at(name))
        except (OSError, ValueError) as error:
            raise StorageError(self.trouble(error)) from error

    def trouble(self, error: Exception) -> str:
        """One line on what went wrong, with the cure."""
        said = re.sub(r"\s*\(Request ID.*?\)|Details:.*", "", str(error).splitlines()[0])[:300].strip(" ;")
        return f"--storage {self.address}: {said}; {CURE[self.address[:2]]}"

    def list(self, name: str) -> dict[str, Found]:
        """The objects below a name, or of that very name; none where there is nothing."""
        return _again(lambda: self._list(name))

    def _list(self, name: str) -> dict[str, Found]:
        from pyarrow.fs import FileSelector, FileType

        files, top = self._place
        every = files.get_file_info(FileSelector(self._at(name), recursive=True, allow_not_found=True))
        own = files.get_file_info(self._at(name))
        found = [info for info in (*every, own) if info.type == FileType.File]
        return {info.path[len(top) + 1 :]: Found(info.size, info.mtime_ns / 1e9) for info in found}

    def read(self, name: str) -> bytes | None:
        """An object, or None where there is none."""
        return _again(lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            with self._place[0].open_input_stream(self._at(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place of what is there, which stays where that is cut short."""
        _again(lambda: self._replace(name, content))

    def _replace(self, name: str, content: bytes) -> None:
        """Put beside, and rename: a stream that is closed early leaves what it has got by then."""
        folder, _, own = name.rpartition("/")
        stage = f"{folder}/.{own}.{uuid.uuid4().hex}".lstrip("/")
        self._put(stage, io.BytesIO(content))
        self._place[0].move(self._at(stage), self._at(name))

    def upload(self, path: Path, name: str) -> None:
        """Put a large file; one that is cut short may be there by half until the next attempt."""
        with path.open("rb") as file:
            _again(lambda: self._put(name, file))

    def _put(self, name: str, file: BinaryIO) -> None:
        """Put what a file has, and see that all of it arrived."""
        file.seek(0)
        with self._place[0].open_output_stream(self._at(name)) as stream:
            shutil.copyfileobj(file, stream, CHUNK)
        there = self._place[0].get_file_info(self._at(name)).size
        if there != file.tell():
            raise OSError(f"{name}: {file.tell()} bytes were sent, and {there} arrived")

    def download(self, name: str, path: Path) -> None:
        """Make a file of an object; it is there whole or not at all."""
        _again(lambda: self._download(name, path))

    def _download(self, name: str, path: Path) -> None:
        with (
            self._place[0].open_input_stream(self._at(name)) as stream,
            whole_file(path) as stage,
            stage.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, CHUNK)

    def remove(self, name: str) -> None:
        """Take an object away; that there is none is no error."""
        _again(lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        try:
            self._place[0].delete_file(self._at(name))
        except FileNotFoundError:
            return


def _again(attempt: Callable[[], T]) -> T:
    """Try, and try again after each of PAUSES where the store or the way to it fails."""
    for pause in PAUSES:
        try:
            return attempt()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return attempt()
