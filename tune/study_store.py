"""Where the record of a study lies: a journal beside its search, or a PostgreSQL that several machines can read.

Knows how a place is opened and copied, nothing of what a study says.
"""

import shutil
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from tune.databases import require_postgresql, spoken
from tune.journal import CheckedJournal

Where = Path | str
"""A journal file, or the address of a database."""


def open_study(name: str, where: Where, directions: Sequence[str]) -> optuna.Study:
    """The study of a name, created where there is none.

    Raises DatabaseError where the database does not answer, DamagedLineError where the journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(where, Path):
        return optuna.create_study(study_name=name, storage=_journal(where), directions=directions, load_if_exists=True)
    with spoken(where):
        return optuna.create_study(
            study_name=name, storage=_database(where), directions=directions, load_if_exists=True
        )


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """What a study is told while the block lasts goes to its journal by one write; a database takes each by itself."""
    backend = getattr(study._storage, "_backend", None)
    return backend.together() if isinstance(backend, CheckedJournal) else nullcontext()


def has_study(name: str, url: str) -> bool:
    """Whether a database has a study of a name. Raises DatabaseError where it does not answer."""
    with spoken(url):
        return name in optuna.get_all_study_names(_database(url))


def copied(name: str, where: Where, folder: Path) -> Path:
    """A journal in `folder` with the study as it is now, empty where there is none: the study itself is left as it is.

    A line that its driver is just writing is cut in the copy alone.
    """
    place = folder / "study.journal"
    if isinstance(where, str):
        with spoken(where):
            if has_study(name, where):
                optuna.copy_study(
                    from_study_name=name, from_storage=_database(where),
                    to_storage=_journal(place), to_study_name=name,
                )  # fmt: skip
    elif where.is_file():
        shutil.copyfile(where, place)
    return place


def _journal(path: Path) -> BaseStorage:
    return JournalStorage(CheckedJournal(path))


def _database(url: str) -> BaseStorage:
    require_postgresql(url)
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    weakref.finalize(storage, storage.engine.dispose)  # its connections go with it
    return storage
