"""A reference adapter from the model registry: fetched once, named by version, frozen under the new adapter."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from phasegpt.checkpoints import with_fetched_models
from phasegpt.config_io import load_config, track_config
from phasegpt.runs import run_paths
from phasegpt.train import fit
from tests.mlflow_store import migrated
from tests.phasegpt.trained import train_toy

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_starts_from_the_registered_adapter_and_names_its_version(tmp_path: Path, toy_sets: list[str]) -> None:
    first = train_toy(tmp_path / "first", "first", toy_sets)
    uri = migrated(tmp_path)
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("made", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(first.paths.adapter), "adapter")
    client.create_registered_model("mine")
    version = client.create_model_version("mine", f"{client.get_run(run).info.artifact_uri}/adapter", run).version
    client.set_registered_model_alias("mine", "champion", version)

    sets = [*toy_sets, "training.max_steps=1", "training.reference_model=models:/mine@champion"]
    paths = run_paths(tmp_path / "second", "b", "second")
    config = with_fetched_models(load_config(track_config("b"), "laptop", sets), paths.references, uri)
    assert config.training.reference_model == f"models:/mine/{version}"
    client.delete_registered_model_alias("mine", "champion")  # from here on the registry is not asked
    result = fit(config, paths=paths)
    assert result.training_log[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.hashes["reference_adapter"] != first.result.hashes["reference_adapter"]
    assert mlflow.get_tracking_uri() != uri
