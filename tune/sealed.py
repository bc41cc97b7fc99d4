"""A search's own files in object storage as one object, and their way back to a machine.

STATE holds study, spool, request and what else lies in the search's folder as they were at one time: a store puts it
whole or leaves the one before. In an ordinary folder there is no such thing. Knows nothing of who runs the search.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from phasegpt.files import make_folder, read_json, whole_file
from phasegpt.mirror import Mirror, mirror_of
from phasegpt.object_store import StorageError
from tune.commands import COMMANDS
from tune.spool import SPOOL, take_over

if TYPE_CHECKING:
    from tune.request import SearchPlaces

STATE, WRITER = "state.zip", "writer.json"
ORDER = ("study.journal", f"{SPOOL}.sent", SPOOL)
"""The study is never ahead of the spool, nor what was sent: an event may be told again or asked for, never missed."""


def put_state(places: "SearchPlaces") -> None:
    """Put a search's own files to the storage, as they are now. Raises OSError."""
    mirror = mirror_of(places.storage)
    if mirror is not None:
        mirror.store.write(mirror.name(places.folder / STATE), _packed(places.folder))


def put_new(places: "SearchPlaces") -> None:
    """Put a search that has not begun. Raises StorageError."""
    mirror = mirror_of(places.storage)
    try:
        put_state(places)
    except OSError as error:
        raise StorageError(mirror.store.trouble(error) if mirror is not None else str(error)) from error


def own_files(folder: Path) -> list[Path]:
    """The files that a search's driver alone writes, in the order in which they are read."""
    here = [path for path in folder.glob("*") if path.is_file() and path.name != COMMANDS]
    own = [path for path in here if path.suffix not in (".lock", ".log") and not path.name.startswith(".")]
    return sorted(own, key=lambda path: (ORDER.index(path.name) if path.name in ORDER else len(ORDER), path.name))


def _packed(folder: Path) -> bytes:
    packed, content = io.BytesIO(), [(path.name, path.read_bytes()) for path in own_files(folder)]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return packed.getvalue()


def has_state(places: "SearchPlaces") -> bool:
    """Whether the storage has a search of this name. Raises OSError."""
    mirror = mirror_of(places.storage)
    return mirror is not None and bool(mirror.store.list(mirror.name(places.folder / STATE)))


def known_searches(places: "SearchPlaces") -> list[str]:
    """The names of the track's searches in the storage. Raises OSError."""
    mirror = mirror_of(places.storage)
    found = mirror.store.list(mirror.name(places.folder.parent)) if mirror is not None else ()
    return sorted(Path(name).parent.name for name in found if Path(name).name == STATE)


def put_commands(places: "SearchPlaces") -> None:
    """Put what is asked of a search where its driver finds it. Raises OSError."""
    mirror = mirror_of(places.storage)
    if mirror is not None:
        mirror.push(places.folder / COMMANDS)


def fetch_commands(places: "SearchPlaces") -> None:
    """Fetch what was asked of a search from other machines; commands are only ever added. Raises OSError."""
    mirror, place = mirror_of(places.storage), places.folder / COMMANDS
    if mirror is None:
        return
    name = mirror.name(place)
    found = mirror.store.list(name).get(name)
    if found is not None and (not place.is_file() or found.size > place.stat().st_size):
        mirror.store.download(name, place)


def left(places: "SearchPlaces") -> list[Path]:
    """What a search leaves for people: its log, summary, pictures and reports."""
    names = (f"{places.name}.json", f"{places.name}.png", f"{places.name}-report", f"{places.name}-insight")
    return [places.log, *(places.results.with_name(name) for name in names)]


def restore(places: "SearchPlaces", *, with_checkpoints: bool = False) -> None:
    """Lay a search here as the storage has it: its own files, unless this machine wrote those last, and results.

    Where its driver runs on this machine nothing is touched. Raises StorageError where the storage is away.
    """
    mirror = mirror_of(places.storage)
    if mirror is None:
        return
    try:
        packed = mirror.store.read(mirror.name(places.folder / STATE))
        if packed is not None:
            make_folder(places.folder)
            with FileLock(places.folder / "driver.lock", timeout=0):
                lay(mirror, places, packed, with_checkpoints=with_checkpoints)
    except Timeout:
        return
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StorageError(mirror.store.trouble(error)) from error


def lay(mirror: Mirror, places: "SearchPlaces", packed: bytes, *, with_checkpoints: bool) -> None:
    """Lay a search here of which `packed` is the state; nobody else may write to its folder. Raises OSError."""
    _unpack(packed, places.folder, mirror)
    fetch_commands(places)
    jobs = [places.checkpoints, *_job_logs(mirror, places)] if with_checkpoints else []
    for place in (places.results, *left(places), *jobs):
        mirror.pull(place)


def _job_logs(mirror: Mirror, places: "SearchPlaces") -> list[Path]:
    return [mirror.folder / name for name in mirror.store.list(mirror.name(places.folder)) if name.endswith(".log")]


def _unpack(packed: bytes, folder: Path, mirror: Mirror) -> None:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        if odd := [name for name in archive.namelist() if name != Path(name).name or name.startswith(".")]:
            raise zipfile.BadZipFile(f"{STATE} holds {odd[0]!r:.100}, which is no file of a search")
        content = {name: archive.read(name) for name in archive.namelist()}
    writer, own = json.loads(content.pop(WRITER, b"{}")), folder / WRITER
    if own.is_file() and read_json(own) == writer:
        return  # nobody has gone on with it elsewhere: what is here is as new
    own.unlink(missing_ok=True)
    for name, data in content.items():
        with whole_file(folder / name) as stage:
            stage.write_bytes(data)
    if SPOOL in content:
        take_over(folder / SPOOL, writer.get("folder", ""), str(mirror.folder.resolve()))
