"""A folder of this machine that mirrors object storage: all work is done in it, and what is whole travels.

The folder lies below $PHASEGPT_CACHE/storage and carries MARK with the storage's address at its top, so that who is
handed a place below it finds the storage by `mirror_of`. Files travel in an order by which half a checkpoint never
passes for a whole one: what others rely on, JSON and seals, comes last. Knows nothing of what the files mean.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath

from phasegpt.bundled import cache_dir
from phasegpt.checkpoint_files import WHOLE
from phasegpt.files import read_json, text_sha256, write_json
from phasegpt.object_store import Found, ObjectStore, checked_address

MARK = ".storage.json"
OF_THIS_MACHINE = (".lock", "used")
"""Ends of names that mean something on one machine only; so do all names that begin with a dot."""
AT_ONCE = 8
log = logging.getLogger("phasegpt")
Stamp = tuple[int, int]


def mirror_folder(address: str) -> Path:
    """The folder that mirrors a storage on this machine, made where there is none. Raises StorageError."""
    address = checked_address(address)
    folder = cache_dir() / "storage" / text_sha256(address)[:16]
    if not (folder / MARK).is_file():
        write_json(folder / MARK, {"storage": address})
    return folder


def mirror_of(place: Path) -> "Mirror | None":
    """The mirror that a place lies in; None in an ordinary folder."""
    for folder in (place, *place.parents):
        if (folder / MARK).is_file():
            return _mirror(folder)
    return None


@cache
def _mirror(folder: Path) -> "Mirror":
    return Mirror(folder, read_json(folder / MARK)["storage"])


def push_below(place: Path) -> str:
    """Put a file or a folder to the storage that it lies in; why that could not be done, or nothing."""
    mirror = mirror_of(place)
    try:
        if mirror is not None:
            mirror.push(place)
    except OSError as error:
        log.warning("%s is here alone: %s", place, error)
        return mirror.store.trouble(error) if mirror is not None else ""
    return ""


def address_of(folder: Path) -> str:
    """What `--storage` says of a storage folder: the address that it mirrors, else its path."""
    mirror = mirror_of(folder)
    return str(folder) if mirror is None else mirror.store.address


class Mirror:
    """A folder and the store that it mirrors. Methods take places in the folder and raise OSError."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.store = folder, ObjectStore(address)
        self._same: dict[Path, Stamp] = {}

    def name(self, place: Path) -> str:
        """What a place is called in the store."""
        return str(PurePosixPath(place.relative_to(self.folder)))

    def push(self, place: Path, *, exact: bool = False) -> None:
        """Put what is new or changed at a file or below a folder; with `exact` what is here no more goes there too."""
        here = {self.name(path): path for path in _files(place)}
        there = self.store.list(self.name(place))
        new = [path for name, path in here.items() if not self._is_same(path, there.get(name))]
        self._in_order(new, self._upload)
        if exact:
            gone = sorted(there.keys() - here.keys(), key=_late, reverse=True)  # a seal before what it seals
            for name in gone:
                self.store.remove(name)

    def pull(self, place: Path) -> int:
        """Fetch what is missing at a file or below a folder; logs also where the store has more of them.

        Files that are here stay as they are. The number of those fetched.
        """
        there = self.store.list(self.name(place))
        lasting = {self.folder / name: found for name, found in there.items() if _travels(Path(name))}
        missing = [path for path, found in lasting.items() if _is_wanted(path, found)]
        self._in_order(missing, self._download)
        return len(missing)

    def remove(self, place: Path) -> None:
        """Take away there what lies at a file or below a folder; here nothing changes."""
        for name in sorted(self.store.list(self.name(place)), key=_late, reverse=True):
            self.store.remove(name)

    def _upload(self, path: Path) -> None:
        stamp = _stamp(path)
        if path.suffix == ".json":  # what others rely on
            self.store.write(self.name(path), path.read_bytes())
        else:
            self.store.upload(path, self.name(path))
        self._same[path] = stamp

    def _download(self, path: Path) -> None:
        self.store.download(self.name(path), path)
        self._same[path] = _stamp(path)

    def _is_same(self, path: Path, found: Found | None) -> bool:
        """Whether the store has a file as it is: this process moved it, or it was put there since its last change."""
        if found is None or found.size != path.stat().st_size:
            return False
        if path in self._same:
            return self._same[path] == _stamp(path)
        return found.put >= path.stat().st_mtime

    @staticmethod
    def _in_order(paths: Iterable[Path], move: Callable[[Path], None]) -> None:
        """Several at once, but nothing before what it speaks for."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _, group in groupby(sorted(paths, key=_late), key=_late):
                list(pool.map(move, group))


def _files(place: Path) -> list[Path]:
    paths = [place] if place.is_file() else place.rglob("*") if place.is_dir() else []
    return [p for p in paths if p.is_file() and not p.is_symlink() and _travels(p.relative_to(place.parent))]


def _travels(path: Path) -> bool:
    return not path.name.endswith(OF_THIS_MACHINE) and not any(part.startswith(".") for part in path.parts)


def _is_wanted(path: Path, found: Found) -> bool:
    if not path.is_file():
        return True
    return path.suffix == ".log" and found.size > path.stat().st_size


def _late(path: Path | str) -> int:
    """How late a file travels: JSON describes what lies beside it, WHOLE seals all of it."""
    name = Path(path).name
    return 2 if name == WHOLE else int(name.endswith(".json"))


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
