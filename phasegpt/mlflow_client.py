"""Where MLflow is, and a quiet client of it. Imports mlflow where a client is opened, no earlier."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def tracking_uri(root: Path, given: str | None = None) -> str:
    """Where MLflow is: `given`, else $MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in `root`."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def open_client(uri: str) -> "MlflowClient":
    """A quiet client: no banners, no telemetry, no migration log. The first use of an SQLite file migrates it (2 s)."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def one_attempt() -> Iterator[None]:
    """Without MLflow's HTTP retries: they ask a server that is away for minutes, and could create a run twice."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(RETRIES, None)
        else:
            os.environ[RETRIES] = before
