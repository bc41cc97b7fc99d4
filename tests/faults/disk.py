"""A disk as POSIX promises it: what is there after so many operations, and what of that survives a loss of power.

Names are as durable as the last fsync of their folder, a file's bytes as the last fsync of the file. Paths are relative
to one folder. Knows nothing of where operations come from.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

Data = bytes | bytearray
Content = dict[str, Data | None]
"""{path: bytes}; a folder has none."""


@dataclass(frozen=True)
class Op:
    """create, write (at `number`), truncate (to `number`), mkdir, rename (to `to`), unlink or fsync."""

    kind: str
    path: str
    data: bytes = b""
    number: int = 0
    to: str = ""


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    kept: bytes = b""


class Disk:
    """The operations so far; a folder is a name without a file."""

    def __init__(self) -> None:
        self.now: dict[str, _File | None] = {}
        self.kept: dict[str, _File | None] = {}

    def apply(self, ops: Iterable[Op]) -> "Disk":
        """Do them in order."""
        for op in ops:
            getattr(self, f"_{op.kind}")(op)
        return self

    def _create(self, op: Op) -> None:
        if op.path not in self.now:
            self.now[op.path] = _File()

    def _mkdir(self, op: Op) -> None:
        self.now[op.path] = None

    def _write(self, op: Op) -> None:
        file = self._file(op.path)
        file.now.extend(b"\0" * (op.number - len(file.now)))
        file.now[op.number : op.number + len(op.data)] = op.data

    def _truncate(self, op: Op) -> None:
        file = self._file(op.path)
        del file.now[op.number :]
        file.now.extend(b"\0" * (op.number - len(file.now)))

    def _file(self, path: str) -> _File:
        file = self.now.get(path)
        assert file is not None, f"{path} was written before it was created"
        return file

    def _rename(self, op: Op) -> None:
        inside = [path for path in self.now if path.startswith(f"{op.path}/")]
        for path in (op.path, *inside):
            self.now[op.to + path.removeprefix(op.path)] = self.now.pop(path)
            if path in inside and path in self.kept:  # what is durable in a folder moves with it
                self.kept[op.to + path.removeprefix(op.path)] = self.kept[path]

    def _unlink(self, op: Op) -> None:
        self.now.pop(op.path, None)

    def _fsync(self, op: Op) -> None:
        file = self.now.get(op.path) if op.path else None
        if file is not None:
            file.kept = bytes(file.now)
            return
        for path in {path for path in (*self.now, *self.kept) if str(Path(path).parent) == (op.path or ".")}:
            if path in self.now:
                self.kept[path] = self.now[path]
            else:
                self.kept.pop(path, None)

    def as_it_is(self) -> Content:
        """What a killed process leaves: all that was done."""
        return {path: None if file is None else file.now for path, file in self.now.items()}

    def without_power(self, spared: Callable[[str], bool], seed: int | None = None) -> Content:
        """What a loss of power leaves: what was synced, and with a seed some of the rest; all of the paths `spared`."""
        dice = random.Random(seed)  # noqa: S311 - not for secrets

        def lucky() -> bool:
            return seed is not None and dice.random() < 0.5

        found: Content = {}
        for path in sorted(self.now.keys() | self.kept.keys()):
            names = self.now if spared(path) or lucky() else self.kept
            if path not in names or not _has_folder(path, found):
                continue
            file = names[path]
            found[path] = None if file is None else file.now if spared(path) or lucky() else _torn(file, dice, seed)
        return found


def _has_folder(path: str, found: Content) -> bool:
    parent = str(Path(path).parent)
    return parent == "." or parent in found


def _torn(file: _File, dice: random.Random, seed: int | None) -> bytes:
    """The synced bytes; with a seed and where more were appended, some of those."""
    if seed is None or not file.now.startswith(file.kept):
        return file.kept
    return bytes(file.now[: dice.randint(len(file.kept), len(file.now))])


def lay(content: Content, folder: Path) -> None:
    """Write files and folders into an empty folder."""
    for path, data in sorted(content.items()):
        place = folder / path
        if data is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
