"""What a command did to the files of a folder, in order, as strace saw it: operations for `tests.faults.disk`."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.faults.disk import Op

CALLS = "openat,write,pwrite64,ftruncate,truncate,lseek,sendfile,fsync,fdatasync"
CALLS += ",rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat"
CALL = re.compile(r"^(\w+)\((.*)\)\s+= (\d+)(?:<(.*)>)?$")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
PLACE = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>")


def strace() -> str | None:
    """Where it is, or None."""
    return shutil.which("strace")


def record(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[Op]:
    """Run a command to its end and return what it did below `folder`, after what makes the files that were there."""
    begun, reader = _made(folder), _Reader(folder)
    trace = folder.with_name(f"{folder.name}.strace")
    words = [strace() or "strace", "-f", "-y", "-x", "-s", "100000000", "--seccomp-bpf", "-e", f"trace={CALLS}"]
    done = subprocess.run(
        [*words, "-o", str(trace), *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with trace.open(encoding="latin-1") as lines:
        ops = [*begun, *reader.ops(_whole(lines))]
    trace.unlink()
    return ops


def _made(folder: Path) -> list[Op]:
    """The operations that make the files directly in a folder, and make them last."""
    ops = []
    for place in sorted(folder.iterdir()):
        ops += [Op("create", place.name), Op("write", place.name, place.read_bytes()), Op("fsync", place.name)]
    return [*ops, Op("fsync", "")]


def _whole(lines: Iterator[str]) -> Iterator[str]:
    """The calls in the order in which they returned, without the process."""
    begun: dict[str, str] = {}
    for line in lines:
        process, call = line.rstrip("\n").split(maxsplit=1)
        if call.endswith(" <unfinished ...>"):
            begun[process] = call.removesuffix(" <unfinished ...>")
        elif call.startswith("<... "):
            yield begun.pop(process) + call.partition(" resumed>")[2]
        else:
            yield call


class _Reader:
    """Remembers where each open file is written next."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.places: dict[str, int] = {}
        self.appending: set[str] = set()
        self.sizes: dict[str, int] = {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }

    def ops(self, calls: Iterator[str]) -> Iterator[Op]:
        for call in calls:
            match = CALL.match(call)
            read = match and getattr(self, f"_{match[1]}", None)
            if match and read:
                yield from read(match[2], int(match[3]), match[4] or "")

    def _inside(self, path: str) -> str | None:
        inside = path == self.folder or path.startswith(f"{self.folder}/")
        return path[len(self.folder) + 1 :] if inside and not path.endswith("(deleted)") else None

    def _named(self, words: str) -> list[str | None]:
        """The paths in a call's arguments, of which each relative one follows the folder that it is relative to."""
        found, at = [], ""
        for match in re.finditer(f"{PLACE.pattern}|{TEXT.pattern}", words):
            if match[1] is not None:
                at = match[1]
            else:
                path = _bytes(match[2]).decode()
                found.append(self._inside(path if path.startswith("/") else f"{at}/{path}"))
        return found

    def _openat(self, words: str, result: int, opened: str) -> Iterator[Op]:
        path = self._inside(opened)
        if path is None:
            return
        handle, flags = str(result), words.rpartition('"')[2]
        self.places[handle] = 0
        (self.appending.add if "O_APPEND" in flags else self.appending.discard)(handle)
        if "O_CREAT" in flags and path not in self.sizes:
            self.sizes[path] = 0
            yield Op("create", path)
        if "O_TRUNC" in flags:
            self.sizes[path] = 0
            yield Op("truncate", path)

    def _lseek(self, words: str, result: int, _: str) -> Iterator[Op]:
        self.places[words.partition("<")[0]] = result
        yield from ()

    def _write(self, words: str, result: int, _: str) -> Iterator[Op]:
        path, handle = self._inside(_first(words)), words.partition("<")[0]
        if path in self.sizes:
            at = self.sizes[path] if handle in self.appending else self.places.get(handle, 0)
            self.places[handle] = at + result
            yield self._written(path, _bytes(_text(words))[:result], at)

    def _pwrite64(self, words: str, result: int, _: str) -> Iterator[Op]:
        path = self._inside(_first(words))
        if path in self.sizes:
            yield self._written(path, _bytes(_text(words))[:result], int(words.rpartition(", ")[2]))

    def _sendfile(self, words: str, result: int, _: str) -> Iterator[Op]:
        path, handle = self._inside(_first(words)), words.partition("<")[0]
        source = PLACE.findall(words)[1]
        if path is not None and result:
            at = self.places.get(handle, 0)
            self.places[handle] = at + result
            yield self._written(path, Path(source).read_bytes()[at : at + result], at)

    def _written(self, path: str, data: bytes, at: int) -> Op:
        self.sizes[path] = max(self.sizes[path], at + len(data))
        return Op("write", path, data, at)

    def _ftruncate(self, words: str, result: int, _: str) -> Iterator[Op]:
        path = self._inside(_first(words))
        if path is not None:
            self.sizes[path] = int(words.rpartition(", ")[2])
            yield Op("truncate", path, number=self.sizes[path])

    def _fsync(self, words: str, result: int, _: str) -> Iterator[Op]:
        path = self._inside(_first(words))
        if path is not None:
            yield Op("fsync", path)

    _fdatasync = _fsync

    def _rename(self, words: str, result: int, _: str) -> Iterator[Op]:
        before, after = self._named(words)
        if before is not None and after is not None:
            for path in [path for path in self.sizes if path == before or path.startswith(f"{before}/")]:
                self.sizes[after + path.removeprefix(before)] = self.sizes.pop(path)
            yield Op("rename", before, to=after)

    _renameat = _renameat2 = _rename

    def _unlink(self, words: str, result: int, _: str) -> Iterator[Op]:
        (path,) = self._named(words)
        if path is not None:
            self.sizes.pop(path, None)
            yield Op("unlink", path)

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, words: str, result: int, _: str) -> Iterator[Op]:
        (path,) = self._named(words)
        if path:
            yield Op("mkdir", path)

    _mkdirat = _mkdir


def _first(words: str) -> str:
    """The path of the handle that a call begins with."""
    match = PLACE.match(words)
    return match[1] if match else ""


def _text(words: str) -> str:
    match = TEXT.search(words)
    return match[1] if match else ""


def _bytes(text: str) -> bytes:
    """A string as C writes it."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")
