"""Addresses of databases, for MLflow or for a study: is the driver here? Imports nothing for other addresses."""

from tune.spool import TrackingError

DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
EXTRA = 'pip install "phasegpt-tune[postgres]"'


class DatabaseError(TrackingError):
    """An address of a database that cannot be used here; the message names the cure and no password."""


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
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        cure = EXTRA if scheme.startswith("postgresql") else f"pip install the driver of {scheme}"
        raise DatabaseError(f"{scheme}://: the Python package {error.name} is not installed; {cure}") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise DatabaseError(f"{scheme}: expected an address as postgresql://user@host/database") from error
