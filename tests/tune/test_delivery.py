"""Where MLflow is, and what of an address may be shown. What is delivered is tested with the tracker."""

from pathlib import Path

import pytest

from tune.delivery import artifact_location, tracking_uri, without_credentials


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


def test_credentials_are_taken_out_of_addresses_only() -> None:
    assert without_credentials("at http://u:p@host:5000/x: no") == "at http://host:5000/x: no"
    assert without_credentials("models:/phasegpt-track-b@champion") == "models:/phasegpt-track-b@champion"
