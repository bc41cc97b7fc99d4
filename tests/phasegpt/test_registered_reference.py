"""A reference adapter from the model registry: fetched once, named by version, frozen under the new adapter."""

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from phasegpt.base_model import ModelError
from phasegpt.checkpoints import with_fetched_models
from phasegpt.config_io import load_config, track_config
from phasegpt.models import LoraSettings, attach_policy, load_base
from phasegpt.runs import run_paths
from phasegpt.train import fit
from tests.mlflow_store import migrated
from tests.phasegpt.trained import train_toy

pytestmark = pytest.mark.usefixtures("one_thread")


def registered(folder: Path, adapter: Path) -> str:
    """The address of a registry in `folder` whose only version of `mine`, the champion, is this adapter."""
    uri = migrated(folder)
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("made", artifact_location=str(folder / "artifacts"))
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(adapter), "adapter")
    client.create_registered_model("mine")
    version = client.create_model_version("mine", f"{client.get_run(run).info.artifact_uri}/adapter", run).version
    client.set_registered_model_alias("mine", "champion", version)
    return uri


def test_a_run_starts_from_the_registered_adapter_and_names_its_version(tmp_path: Path, toy_sets: list[str]) -> None:
    first = train_toy(tmp_path / "first", "first", toy_sets)
    uri = registered(tmp_path, first.paths.adapter)
    client = MlflowClient(uri, uri)

    sets = [*toy_sets, "training.max_steps=1", "training.reference_model=models:/mine@champion"]
    paths = run_paths(tmp_path / "second", "b", "second")
    config = with_fetched_models(load_config(track_config("b"), "laptop", sets), paths.references, uri)
    assert config.training.reference_model == "models:/mine/1"
    client.delete_registered_model_alias("mine", "champion")  # from here on the registry is not asked
    result = fit(config, paths=paths)
    assert result.training_log[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.hashes["reference_adapter"] != first.result.hashes["reference_adapter"]
    assert mlflow.get_tracking_uri() != uri


def test_the_same_version_of_another_registry_is_not_taken_from_the_cache(
    tmp_path: Path, toy_sets: list[str], toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), tmp_path), LoraSettings(2, 4, 0.0, ("q_proj",)), seed=0)
    policy.save(tmp_path / "adapter")
    one, other = (registered(tmp_path / name, tmp_path / "adapter") for name in ("one", "other"))
    work = tmp_path / "references"
    config = load_config(track_config("b"), "laptop", [*toy_sets, "training.reference_model=models:/mine/1"])
    for _ in range(2):
        with_fetched_models(config, work, one)
    with pytest.raises(ModelError, match=r"training\.reference_model: .*references/mine/1 is not known to be this"):
        with_fetched_models(config, work, other)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with_fetched_models(config, work, "http://127.0.0.1:9")  # a server that is away
    with pytest.raises(ModelError, match="the registry has no such model"):
        with_fetched_models(config, work, migrated(tmp_path / "empty"))
    shutil.rmtree(work / "mine" / "1")
    with_fetched_models(config, work, other)
