"""Databases by their address, for MLflow or for a study: is the driver here, who may hold a name, what may be shown.

Imports SQLAlchemy where an address needs it, and nothing for others.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from tune.spool import TrackingError

DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
EXTRA = 'pip install "phasegpt-tune[postgres]"'


class DatabaseError(TrackingError):
    """A database that cannot be used here; the message names the cure and no password."""


def is_database(uri: str) -> bool:
    """Whether an address is that of a database rather than of a server before one."""
    return uri.startswith(DATABASES)


def require_driver(uri: str) -> None:
    """Raises DatabaseError where `uri` is a database whose driver is not installed or not known."""
    if not is_database(uri) or uri.startswith("sqlite:"):
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    scheme = uri.partition(":")[0]
    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
    except ImportError as error:
        cure = EXTRA if scheme.startswith("postgresql") else f"pip install the driver of {scheme}"
        raise DatabaseError(f"{scheme}://: the Python package {error.name} is not installed; {cure}") from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise DatabaseError(f"{scheme}: expected an address as postgresql://user@host/database") from error
    if "@" in (url.host or ""):  # it would be shown as part of the host
        raise DatabaseError(f"{scheme}: write a password's @ as %40 and its / as %2F, or give it as PGPASSWORD")


def require_postgresql(url: str) -> None:
    """Raises DatabaseError where `url` is no PostgreSQL that can be used here."""
    if not url.startswith(("postgresql://", "postgresql+")):
        scheme = url.partition(":")[0]
        raise DatabaseError(f"a study lies in PostgreSQL, as postgresql://user@host/database; found {scheme}:…")
    require_driver(url)


def without_password(url: str) -> str:
    """The address of a database without its password, wherever that stands."""
    from sqlalchemy.engine import URL, make_url

    whole = make_url(url).difference_update_query(["password", "sslpassword"])
    bare = URL.create(whole.drivername, whole.username, None, whole.host, whole.port, whole.database, whole.query)
    return bare.render_as_string()


@contextmanager
def spoken(url: str) -> Iterator[None]:
    """Within the block, an error of the database is a DatabaseError that names it."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        said = str(error).splitlines()[0]
        raise DatabaseError(
            f"{without_password(url)}: {said}; the password is read from PGPASSWORD, ~/.pgpass or the address"
        ) from error


@contextmanager
def held(url: str | None, name: str) -> Iterator[bool]:
    """Hold a name in a PostgreSQL while the block lasts; False where another process, on any machine, holds it.

    The lock goes with the connection, and so with the process. Without a `url` nothing is held, which is True.
    """
    if url is None:
        yield True
        return
    from sqlalchemy import create_engine, func, select
    from sqlalchemy.pool import NullPool

    with spoken(url):
        connection = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
        alone = connection.scalar(select(func.pg_try_advisory_lock(zlib.crc32(name.encode()))))
    try:
        yield bool(alone)
    finally:
        connection.close()
