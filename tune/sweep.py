"""Removes what `search.keep` lets go from the checkpoints of one search, and keeps count.

A folder is renamed away before it is deleted, so that it is never there by half under its name; what a crash leaves of
it goes with the next sweep. From the search's folder downwards no link is followed.
"""

import logging
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phasegpt.checkpoint_files import ADAPTER, last_adapter
from phasegpt.config_search import Keep
from phasegpt.files import read_json, sync_folder, write_json
from phasegpt.mirror import mirror_of
from tune.keep import CHECKPOINT, may_go
from tune.request import SearchPlaces
from tune.standing import Standings, named_jobs
from tune.study import Study

log = logging.getLogger("phasegpt")
LEDGER = "disk.json"


@dataclass(frozen=True)
class Going:
    """What may go of a job: the folders `names` in `folder`, with so many bytes, and whether its adapter stays."""

    folder: Path
    names: Sequence[str]
    size: int
    adapter_stays: bool


class Sweep:
    """The sweeps of one search. What the disk refuses is logged, and ends no search."""

    def __init__(self, places: SearchPlaces, keep: Keep, study: Study) -> None:
        self.places, self.keep, self.study = places, keep, study

    def job(self, name: str) -> None:
        """Remove what may go of a job whose end was just recorded."""
        self._remove(self.going(concluded=False, names=[name]))

    def all(self, *, concluded: bool) -> int:
        """Remove what may go of all jobs, none of which runs; `concluded` as in `may_go`. The bytes that this freed."""
        return self._remove(self.going(concluded=concluded))

    def going(self, *, concluded: bool, names: Collection[str] | None = None) -> Iterator[Going]:
        """What may go, job by job: of the jobs in `names`, or of all."""
        if self.keep == "all":
            return
        named = named_jobs(self.places) if names is None else self._named
        standings = Standings(self.places, self.study, named, concluded=concluded)
        top = self.places.checkpoints
        for folder in _folders(top) if names is None else [top / name for name in names if not top.is_symlink()]:
            there = {path.name: path for path in _folders(folder)}
            if not there:
                continue
            job = standings.of(folder.name)
            spare = may_go(there, job, self.keep, concluded=concluded)
            stays = not may_go([ADAPTER], job, self.keep, concluded=concluded)
            if spare:
                yield Going(folder, spare, sum(size_of(there[name]) for name in spare), stays)

    @cached_property
    def _named(self) -> frozenset[str]:
        """Read once for all jobs that end: there may be thousands of searches beside this one."""
        return named_jobs(self.places)

    def freed(self) -> int:
        """The bytes that all sweeps of the search have freed."""
        ledger = self.places.folder / LEDGER
        return int(read_json(ledger)["freed_bytes"]) if ledger.is_file() else 0

    def as_dict(self) -> dict[str, Any]:
        """For the summary: the rule, the bytes freed and left, and the jobs whose adapters are there."""
        top = self.places.checkpoints
        return {
            "keep": self.keep,
            "freed_bytes": self.freed(),
            "kept_bytes": size_of(top),
            "kept": [folder.name for folder in _folders(top) if (folder / ADAPTER).is_dir()],
        }

    def _remove(self, every: Iterator[Going]) -> int:
        total = 0
        try:
            for going in every:
                total += self._remove_one(going)
            if total:
                write_json(self.places.folder / LEDGER, {"freed_bytes": self.freed() + total})
        except OSError as error:
            log.warning("checkpoints were left as they are: %s", error)
        return total

    def _remove_one(self, going: Going) -> int:
        try:
            freed = remove(going)
        except OSError as error:
            log.warning("%s: checkpoints could not be removed: %s", going.folder, error)
            return 0
        log.info("%s: freed %s of checkpoints (search.keep: %s)", going.folder.name, bytes_text(freed), self.keep)
        return freed


def remove(going: Going) -> int:
    """Rename away, then delete; the bytes freed.

    A job that came to no result has its adapter in a checkpoint alone: where it is to stay, it is moved out first.
    """
    folder = going.folder
    if going.adapter_stays and any(map(CHECKPOINT.fullmatch, going.names)) and not os.path.lexists(folder / ADAPTER):
        adapter = last_adapter(folder)
        if adapter is not None:
            adapter.rename(folder / ADAPTER)
            sync_folder(folder)
    aside = [_aside(folder / name) for name in going.names]
    _remove_there(going)
    return sum(map(_delete, aside))


def _remove_there(going: Going) -> None:
    """The same in the object storage that the folder mirrors."""
    mirror = mirror_of(going.folder)
    if mirror is None:
        return
    if going.adapter_stays:
        mirror.push(going.folder / ADAPTER)
    for name in going.names:
        mirror.remove(going.folder / name)


def _aside(path: Path) -> Path:
    if path.name.startswith("."):
        return path
    aside = path.with_name(f".{path.name}.gone")
    if aside.exists():
        shutil.rmtree(aside)
    return path.rename(aside)


def _delete(folder: Path) -> int:
    size = size_of(folder)
    shutil.rmtree(folder)
    return size


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without links; none where it is a link itself."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def size_of(folder: Path) -> int:
    """The bytes of the files below a folder; of a link its own."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def bytes_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
