"""A saved model by its address: an adapter folder, a run's folder, an MLflow run, a registry address, or a base model.

Says where the adapter lies, what config and result its run wrote, and opens it to generate. Knows nothing of the suite.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from phasegpt.adapter_config import ADAPTER_CONFIG
from phasegpt.adapters import base_of, check_adapter
from phasegpt.base_model import BUNDLED, ModelError
from phasegpt.checkpoint_files import ADAPTER
from phasegpt.config import Config
from phasegpt.config_io import project_root, resolve
from phasegpt.config_sections import BASELINE, REFERENCE, REGISTRY, is_registered
from phasegpt.credentials import without_credentials
from phasegpt.evaluate import generate
from phasegpt.files import make_folder, read_json, whole_folder, write_json
from phasegpt.mlflow_client import one_attempt, open_client, tracking_uri
from phasegpt.models import Policy, load_base, load_policy

if TYPE_CHECKING:
    from mlflow import MlflowClient

BASE = "base"
ORIGIN = "registered.json"
"""Lies beside what was fetched from a registry, and says which version of its model that was."""
RUN_ID = re.compile(r"[0-9a-f]{32}")
FORMS = "an adapter folder, a run's folder, an MLflow run id, models:/NAME@ALIAS, models:/NAME/VERSION, or base"


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be opened: `adapter` on `base_model`, or that base model untuned where `adapter` is None.

    `address` names it for good: a registry alias has become its version. `base_model` is None for the address `base`:
    the base model of whatever it is judged beside. `config_file` and `result` are what its run wrote, where they lie
    with it.
    """

    address: str
    adapter: Path | None
    base_model: str | None
    config_file: Path | None = None
    result: Path | None = None


def locate(address: str, work: Path, uri: str | None = None) -> Checkpoint:
    """The checkpoint at `address`; what MLflow at `uri` holds is downloaded below `work`. Raises ModelError."""
    if address == BASE:
        return Checkpoint(BASE, None, None)
    if is_registered(address):
        return _registered(pinned(address, uri), work, uri)
    if RUN_ID.fullmatch(address):
        return _of_run(address, work, uri)
    folder = next(
        (place for place in (Path(os.path.expanduser(address)), resolve(address)) if os.path.isdir(place)), None
    )
    if folder is not None and not (folder / "config.json").is_file():
        return _in_folder(address, folder)
    if folder is None and not _is_model_name(address):
        raise ModelError(f"{address}: no such checkpoint; expected {FORMS}")
    return Checkpoint(address, None, address)


def answers(address: str, prompts: Sequence[str], max_new_tokens: int, work: Path, uri: str | None) -> list[str]:
    """Greedy answers of a checkpoint; `work` is a folder to download to, `uri` the MLflow of a registry address."""
    return generate(open_checkpoint(address, work, uri), prompts, max_new_tokens)


def open_checkpoint(address: str, work: Path, uri: str | None = None) -> Policy:
    """The policy at `address` on the base model that its adapter names. Raises ModelError where there is no adapter."""
    found = locate(address, work, uri)
    if found.adapter is None or found.base_model is None:
        raise ModelError(f"{address}: an untuned model, without an adapter; expected {FORMS.removesuffix(', or base')}")
    return open_adapter(found.adapter)


def open_adapter(folder: Path, device: str = "cpu") -> Policy:
    """The policy in an adapter folder, on the base model that it names. Raises ModelError."""
    return load_policy(load_base(base_of(folder), project_root(), device=device), folder)


def pinned(address: str, uri: str | None = None) -> str:
    """A registry address by version, models:/NAME/3, which stays when the alias moves. Raises ModelError."""
    name, at, alias = address.removeprefix(REGISTRY).partition("@")
    if not at:
        return address
    from mlflow.exceptions import MlflowException

    try:
        return f"{REGISTRY}{name}/{_client(uri).get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise _no_such_model(address, error) from error


def fetch(address: str, work: Path, uri: str | None) -> Path:
    """Download a registered model to `work`. Raises ModelError where the registry has none at this address."""
    from mlflow.exceptions import MlflowException

    client, version = _client(uri), pinned(address, uri)
    name, _, number = version.removeprefix(REGISTRY).partition("/")
    try:
        # by its source: for a models:/ address MLflow 3.17 asks the process's own registry, whatever tracking_uri says
        folder = _download(client, client.get_model_version_download_uri(name, number), work)
        write_json(folder / ORIGIN, _origin(client, version))
        return folder
    except (MlflowException, OSError) as error:
        raise _no_such_model(address, error) from error


def with_fetched_models(config: Config, work: Path, uri: str | None = None) -> Config:
    """A config whose reference and baseline, where the registry has them, are named by version and lie in `work`.

    Called once, where a run or a search begins: every trial then has the same ones though an alias may move, and none
    asks the registry. Raises ModelError as `adapter_folder` does.
    """
    training, evaluation = config.training, config.evaluation
    reference = _fetched(REFERENCE, training.reference_model, work, config.model.base_model, uri)
    baseline = _fetched(BASELINE, evaluation.baseline_checkpoint, work, config.model.base_model, uri)
    return config.model_copy(
        update={
            "training": training.model_copy(update={"reference_model": reference}),
            "evaluation": evaluation.model_copy(update={"baseline_checkpoint": baseline}),
        }
    )


def _fetched(key: str, name: str | None, work: Path, base_model: str, uri: str | None) -> str | None:
    """A name of the registry by version, once its adapter lies in `work`; another one as it is."""
    if not name or not is_registered(name):
        return name
    try:
        version = pinned(name, uri)
        _check_origin(version, _place(version, work), uri)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    adapter_folder(key, version, work, base_model, uri)
    return version


def adapter_folder(key: str, name: str, work: Path, base_model: str, uri: str | None = None) -> Path:
    """The adapter folder that the config's `key` names, checked to be one of `base_model`.

    A folder is taken as it is, a run's folder for the adapter in it; a registry address is downloaded once to `work`,
    by version: `pinned` gives the version for the record. Raises ModelError where there is no such model or folder, or
    where it is of another base model.
    """
    try:
        folder = _cached(pinned(name, uri), work, uri) if is_registered(name) else _adapter_folder(resolve(name))
        check_adapter(folder, base_model)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    return folder


def _cached(version: str, work: Path, uri: str | None) -> Path:
    """The adapter of models:/NAME/VERSION in the cache `work`; others that need it at once wait for it."""
    folder = _place(version, work)
    make_folder(folder.parent)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory() as download, whole_folder(folder) as stage:
                fetched = fetch(version, Path(download), uri)
                shutil.copytree(_adapter_folder(fetched), stage, dirs_exist_ok=True)
                shutil.copyfile(fetched / ORIGIN, stage / ORIGIN)
    return folder


def _place(version: str, work: Path) -> Path:
    return work / version.removeprefix(REGISTRY)


def _origin(client: "MlflowClient", version: str) -> dict[str, Any]:
    """What tells a version from that of another registry under its name."""
    name, _, number = version.removeprefix(REGISTRY).partition("/")
    found = client.get_model_version(name, number)
    return {"version": version, "created": found.creation_timestamp, "run_id": found.run_id}


def _check_origin(version: str, folder: Path, uri: str | None) -> None:
    """Raises ModelError where a cached version is not this registry's; one that is away is believed to have it."""
    from mlflow.exceptions import MlflowException

    if not folder.is_dir():
        return
    try:
        with one_attempt():
            origin = _origin(_client(uri), version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise _no_such_model(version, error) from error
        return
    if not (folder / ORIGIN).is_file() or read_json(folder / ORIGIN) != origin:
        raise ModelError(
            f"{folder} is not known to be this registry's {version}; remove that folder, and it is fetched anew, "
            f"or take another --storage"
        )


def _registered(version: str, work: Path, uri: str | None) -> Checkpoint:
    adapter = _adapter_folder(fetch(version, work / "registered", uri))
    return Checkpoint(version, adapter, base_of(adapter), _file(adapter.with_name("config.json")))


def _of_run(run_id: str, work: Path, uri: str | None) -> Checkpoint:
    folder = _fetch_run(run_id, work, uri)
    adapter, config_file = folder / "adapter", _file(folder / "config" / "config.yaml")
    return Checkpoint(run_id, adapter, base_of(adapter), config_file, next((folder / "result").glob("*.json"), None))


def _in_folder(address: str, folder: Path) -> Checkpoint:
    """The checkpoint in a folder: an adapter, a run with its chosen one, or one of a run's checkpoints."""
    adapter = _adapter_folder(folder.resolve())
    run = next((place for place in adapter.parents[:2] if (place / "run.json").is_file()), None)
    if run is None:
        return Checkpoint(address, adapter, base_of(adapter))
    result = _result_of(run) if adapter == run / ADAPTER else None
    return Checkpoint(address, adapter, base_of(adapter), _file(run / "config.yaml"), result)


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _result_of(run: Path) -> Path | None:
    """The result of the run whose checkpoints lie in `run`, where both lie as `run_paths` lays them."""
    parts = run.parts
    if "checkpoints" not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index("checkpoints")
    return _file(Path(*parts[:place], "results", *parts[place + 1 : -1], f"{parts[-1]}.json"))


def _adapter_folder(folder: Path) -> Path:
    places = (folder, folder / ADAPTER, folder / "data" / "phasegpt" / "adapter")
    found = next((place for place in places if (place / ADAPTER_CONFIG).is_file()), None)
    if found is None:
        gone = (folder / "run.json").is_file()
        where = "; a search leaves those of its finalists (search.keep), others are in MLflow: give the run's id"
        raise ModelError(
            f"{folder}: no adapter there (expected {ADAPTER_CONFIG}, or a run's folder with {ADAPTER}/){where * gone}"
        )
    return found


def _is_model_name(address: str) -> bool:
    """Whether an address that is no folder can name a base model: the bundled one, or OWNER/NAME on the hub."""
    is_in_a_folder = any(os.path.isdir(path.parent) for path in (Path(address), resolve(address)))
    return address == BUNDLED or (address.count("/") == 1 and not is_in_a_folder)


def _fetch_run(run_id: str, work: Path, uri: str | None) -> Path:
    """What MLflow keeps of a run, as a folder with adapter/, config/ and result/."""
    from mlflow.exceptions import MlflowException

    client, folder = _client(uri), work / run_id
    try:
        run = client.get_run(run_id)
        kept = {file.path for file in client.list_artifacts(run_id)}
        if "adapter" not in kept:
            raise ModelError(f"{run_id}: the run {run.info.run_name} keeps no adapter; give the id of a finished trial")
        for part in sorted(kept & {"adapter", "config", "result"}):
            _download(client, f"{run.info.artifact_uri}/{part}", folder)
    except (MlflowException, OSError) as error:
        said = without_credentials(str(error))
        raise ModelError(f"{run_id}: MLflow has no such run ({said}); --tracking-uri names another MLflow") from error
    return folder


def _download(client: "MlflowClient", source: str, to: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    to.mkdir(parents=True, exist_ok=True)
    return Path(download_artifacts(artifact_uri=source, dst_path=str(to), tracking_uri=client.tracking_uri))


def _client(uri: str | None) -> "MlflowClient":
    return open_client(tracking_uri(project_root(), uri))


def _no_such_model(address: str, error: Exception) -> ModelError:
    said = without_credentials(str(error))
    return ModelError(f"{address}: the registry has no such model ({said}); run a search first")
