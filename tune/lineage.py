"""Where a search or a run comes from: commit, data, versions, machine. What its MLflow runs are tagged with."""

import os
import subprocess
from pathlib import Path

from phasegpt.answers import preferences_of
from phasegpt.config import Config, config_hash
from phasegpt.config_io import resolve
from phasegpt.config_sections import is_text
from phasegpt.files import file_sha256
from phasegpt.metrics.text import scorer
from phasegpt.pairs import pairs_hash
from phasegpt.runs import versions
from tune.machine import described
from tune.request import Request
from tune.tracking import flat_params

COMMIT, DIRTY = "PHASEGPT_COMMIT", "+changes"


def search_tags(request: Request) -> dict[str, str]:
    """Tags that every run of a search carries; `config_hash` is that of the search's own config."""
    own = {"search": request.name, "profile": request.profile or "none"}
    return {**run_tags(request.config, request.track, "tune.search"), **own}


def run_tags(config: Config, track: str, source: str) -> dict[str, str]:
    """Where a run of `config` comes from: method, model, hashes of data and config, scorer, commit, versions.

    `source` is the command that began it.
    """
    commit, dirty = git_state()
    return {
        "track": track,
        "method": config.training.method,
        "base_model": config.model.base_model,
        "data_hash": _data_hash(config),
        "config_hash": config_hash(config),
        "scorer": scorer(),
        "git_commit": commit,
        "git_dirty": str(dirty).lower(),
        **{f"{name.replace('-', '_')}_version": version for name, version in versions().items()},
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": source,
        "mlflow.source.git.commit": commit,
        "machine": described(),
    }


def _data_hash(config: Config) -> str:
    dataset = config.training.preference_dataset
    return file_sha256(resolve(dataset)) if is_text(dataset) else pairs_hash(preferences_of(config))


def search_params(request: Request) -> dict[str, str]:
    """The search's whole config, flat."""
    return flat_params(request.config.dump())


def git_state() -> tuple[str, bool]:
    """(commit of this code, whether its tree differs from it); ("unknown", False) outside a checkout.

    A job on a cluster runs a copy without its history: who sends it says both in $PHASEGPT_COMMIT, as git_words does.
    """
    if told := os.environ.get(COMMIT):
        return told.removesuffix(DIRTY), told.endswith(DIRTY)
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit, bool(_git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def git_words() -> str:
    """What `git_state` knows, in one word: the commit, and DIRTY where the tree differs from it."""
    commit, dirty = git_state()
    return commit + DIRTY * dirty


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parents[1]), *words], check=True, capture_output=True, text=True, timeout=10
    ).stdout
