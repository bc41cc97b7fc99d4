"""Where MLflow is, and what of an address may be shown. What is delivered is tested with the tracker."""

from pathlib import Path

import pytest

from phasegpt.config_io import project_root
from phasegpt.credentials import without_credentials
from phasegpt.mlflow_client import tracking_uri
from tune.delivery import artifact_location


def test_the_address_is_the_given_one_then_the_environments_then_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path, None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path, None) == "http://server:5000"
    assert tracking_uri(tmp_path, "http://other") == "http://other"


def test_files_lie_beside_an_sqlite_file_and_else_where_the_server_says(tmp_path: Path) -> None:
    assert artifact_location(f"sqlite:///{tmp_path}/mlflow.db") == f"file://{tmp_path}/mlartifacts"
    assert artifact_location("http://server:5000") is None
    assert artifact_location("postgresql://host/db") == (project_root() / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://u:p@host:5000/x: no", "at http://host:5000/x: no"),
        ("http://u:p@ss@host", "http://host"),
        ("postgresql://u:p/ss@host/db", "postgresql://host/db"),
        (
            "postgresql://host/db?user=u&password=p&sslmode=require",
            "postgresql://host/db?user=u&password=&sslmode=require",
        ),
        ("http://host:5000/runs/a@b", "http://host:5000/runs/a@b"),
        ("models:/phasegpt-track-b@champion", "models:/phasegpt-track-b@champion"),
    ],
)
def test_credentials_are_taken_out_of_addresses_only(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
