"""The weights that a clone is to begin with: in its parent's folder, or fetched back there from MLflow."""

import shutil
import tempfile
from pathlib import Path

from phasegpt.checkpoint_files import ADAPTER, last_adapter
from phasegpt.credentials import without_credentials
from phasegpt.files import whole_folder
from phasegpt.mlflow_client import open_client
from tune.delivery import run_of
from tune.jobs import trial_name
from tune.request import Request, RequestError
from tune.spool import SPOOL, read_spool


def provide_weights(request: Request, trial: int, uri: str | None = None) -> bool:
    """See to it that the adapter of a trial that has ended lies in its folder; whether MLflow had to give it back.

    `uri` is the MLflow to ask, by default the one that the search wrote to. Raises RequestError where nobody has it.
    """
    folder = request.places.checkpoints / trial_name(trial)
    if last_adapter(folder) is not None:
        return False
    address = uri or _address(request)
    try:
        if address is None:
            raise ValueError("the search has sent nothing to MLflow")
        _fetch(request, trial, address, folder)
    except (ValueError, OSError) as error:
        raise RequestError(
            f"--warm-start: the weights of {trial_name(trial)} are not in {folder}, and cannot be fetched: {error}; "
            f"clone it without --warm-start, or a finalist"
        ) from error
    return True


def _address(request: Request) -> str | None:
    opened = [event["uri"] for event in read_spool(request.places.folder / SPOOL) if event["kind"] == "open"]
    return opened[-1] if opened else None


def _fetch(request: Request, trial: int, uri: str, folder: Path) -> None:
    """Download the adapter that MLflow keeps of a trial's run. Raises ValueError where it has none."""
    from mlflow.exceptions import MlflowException

    from phasegpt.checkpoints import locate

    client, experiment = open_client(uri), request.config.logging.wandb_project
    try:
        key = f"{request.name}/{trial_name(trial)}"
        run_id = run_of(client, experiment, key)
    except MlflowException as error:
        said = without_credentials(str(error))
        raise ValueError(f"MLflow does not answer ({said}); --tracking-uri names another") from error
    if run_id is None:
        raise ValueError(f"MLflow has no run {key} in {experiment}; --tracking-uri names another MLflow")
    with tempfile.TemporaryDirectory() as work, whole_folder(folder / ADAPTER) as stage:
        adapter = locate(run_id, Path(work), uri).adapter
        shutil.copytree(str(adapter), stage, dirs_exist_ok=True)
