"""A saved checkpoint opened to generate: an adapter folder, a run's folder, or a registry address."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phasegpt.base_model import ModelError
from phasegpt.config_io import project_root
from phasegpt.evaluate import generate
from phasegpt.models import Policy, load_base, load_policy
from phasegpt.trainer import ADAPTER

if TYPE_CHECKING:
    from mlflow import MlflowClient


def answers(address: str, prompts: Sequence[str], max_new_tokens: int, work: Path, uri: str | None) -> list[str]:
    """Greedy answers of a checkpoint; `work` is a folder to download to, `uri` the MLflow of a registry address."""
    return generate(open_checkpoint(address, work, uri), prompts, max_new_tokens)


def open_checkpoint(address: str, work: Path, uri: str | None = None) -> Policy:
    """The policy of `address` (a folder, or models:/NAME@ALIAS) on the base model that its adapter names."""
    folder = _adapter_folder(fetch(address, work, uri) if address.startswith("models:/") else Path(address))
    name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    return load_policy(load_base(name, project_root()), folder)


def fetch(address: str, work: Path, uri: str | None) -> Path:
    """Download a registered model to `work`. Raises ModelError where the registry has none at this address."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # eleven small files
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    tracking = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"
    client = MlflowClient(tracking, tracking)
    try:
        # by its source: for a models:/ address MLflow 3.17 asks the process's own registry, whatever tracking_uri says
        source = client.get_model_version_download_uri(*_name_and_version(client, address))
        return Path(download_artifacts(artifact_uri=source, dst_path=str(work), tracking_uri=tracking))
    except MlflowException as error:
        raise ModelError(f"{address}: the registry has no such model ({error.message}); run a search first") from error


def _name_and_version(client: "MlflowClient", address: str) -> tuple[str, str]:
    """What models:/NAME@ALIAS or models:/NAME/VERSION names."""
    name, _, alias = address.removeprefix("models:/").partition("@")
    if alias:
        return name, str(client.get_model_version_by_alias(name, alias).version)
    name, _, version = name.partition("/")
    return name, version


def _adapter_folder(folder: Path) -> Path:
    places = (folder, folder / ADAPTER, folder / "data" / "phasegpt" / "adapter")
    found = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if found is None:
        raise ModelError(
            f"{folder}: no adapter there (expected adapter_config.json, or a run's folder with {ADAPTER}/)"
        )
    return found
