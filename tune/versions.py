"""The versions of a track as MLflow's model registry holds them: found, read back, added.

Registered models `phasegpt-track-a|b|c`; aliases say which version sits where. Knows not who deserves a seat, and moves
no alias.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phasegpt.files import read_json
from tune.gate import Candidate, Champion, RegistryError, model_name
from tune.served import DATA, evidence_fields, lineage, pack, weights_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel


def registered_model(client: "MlflowClient", name: str) -> "RegisteredModel | None":
    """A registered model as MLflow has it, or None."""
    return cast("RegisteredModel | None", _or_none(lambda: client.get_registered_model(name)))


def make_model(client: "MlflowClient", name: str, about: str) -> None:
    """See that a registered model is there; another process may make it at the same moment."""
    from mlflow.exceptions import MlflowException

    if registered_model(client, name) is not None:
        return
    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def aliases_of(client: "MlflowClient", track: str) -> dict[str, str]:
    """{alias: version} of a track; empty before its first version."""
    model = registered_model(client, model_name(track))
    return {} if model is None else {alias: str(version) for alias, version in model.aliases.items()}


def exists(client: "MlflowClient", track: str, version: str) -> bool:
    """Whether a version is there; one that MLflow had may have been deleted since."""
    return bool(version) and _or_none(lambda: client.get_model_version(model_name(track), version)) is not None


def find_version(client: "MlflowClient", track: str, version: str) -> "ModelVersion":
    """A version as MLflow has it; raises RegistryError where there is none."""
    found = _or_none(lambda: client.get_model_version(model_name(track), version))
    if found is None:
        have = ", ".join(str(v.version) for v in versions_of(client, track)) or "none"
        raise RegistryError(f"{model_name(track)} has no version {version}; it has: {have}")
    return found


def versions_of(client: "MlflowClient", track: str) -> list["ModelVersion"]:
    """Every version of a track, newest first."""
    return versions_named(client, model_name(track))


def versions_named(client: "MlflowClient", name: str) -> list["ModelVersion"]:
    """Every version of a registered model, newest first, however many there are."""
    found, token = list["ModelVersion"](), None
    while token is None or token:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        found, token = [*found, *page], page.token or ""
    return sorted(found, key=lambda version: -int(version.version))


def read_version(client: "MlflowClient", track: str, version: str) -> Champion:
    """A registered version with its evidence; raises RegistryError where there is none, or it cannot be read."""
    found = find_version(client, track, version)
    with tempfile.TemporaryDirectory() as folder:
        stored = read_json(_download(client, track, version, "scores.json", Path(folder)))
    try:
        return Champion(**evidence_fields(stored), track=track, version=version, tags=dict(found.tags))
    except TypeError as error:
        raise RegistryError(f"{found.name} version {version} cannot be read by this version: {error}") from error


def register(client: "MlflowClient", candidate: Candidate) -> str:
    """The version that holds a candidate: a new one, save where this adapter of its run is registered already."""
    return _registered(client, candidate) or _add(client, candidate)


def _or_none(ask: Callable[[], Any]) -> Any:
    """The answer of MLflow, or None where it knows no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _download(client: "MlflowClient", track: str, version: str, part: str, to: Path) -> Path:
    """A file or folder of a version's data folder, copied below `to`."""
    from mlflow.artifacts import download_artifacts

    name = find_version(client, track, version).name
    source = client.get_model_version_download_uri(name, version)
    uri = f"{source.rstrip('/')}/data/{DATA}/{part}"
    return Path(download_artifacts(artifact_uri=uri, dst_path=str(to), tracking_uri=client.tracking_uri))


def _registered(client: "MlflowClient", candidate: Candidate) -> str | None:
    """The version that an earlier, cut promotion of the same adapter of the same run left, if any."""
    name, digest = model_name(candidate.track), weights_hash(candidate)
    found = client.search_model_versions(f"name = '{name}' and run_id = '{candidate.run_id}'")
    return next((str(v.version) for v in found if v.tags.get("adapter_sha256") == digest), None)


def _add(client: "MlflowClient", candidate: Candidate) -> str:
    """Log the model under its run, and make it a version of its track's registered model."""
    from mlflow.entities import LoggedModelOutput

    name = model_name(candidate.track)
    experiment = client.get_run(candidate.run_id).info.experiment_id
    model = client.create_logged_model(
        experiment, name=f"track-{candidate.track}", source_run_id=candidate.run_id, model_type="phasegpt-lora"
    )
    with tempfile.TemporaryDirectory() as folder:
        client.log_model_artifacts(model.model_id, str(pack(candidate, Path(folder), model)))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(candidate.run_id, [LoggedModelOutput(model.model_id, step=0)])
    make_model(client, name, f"The best adapter of track {candidate.track}, by evidence.")
    made = client.create_model_version(
        name, model.artifact_location, candidate.run_id, tags=lineage(candidate), model_id=model.model_id
    )
    return str(made.version)
