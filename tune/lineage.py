"""Where a search comes from: commit, data, versions. What its MLflow runs are tagged with."""

import os
import subprocess
from pathlib import Path

from phasegpt.answers import read_preferences
from phasegpt.config import config_hash
from phasegpt.config_io import resolve
from phasegpt.metrics.text import scorer
from phasegpt.pairs import pairs_hash
from tune.request import Request
from tune.tracking import flat_params

COMMIT, DIRTY = "PHASEGPT_COMMIT", "+changes"


def search_tags(request: Request) -> dict[str, str]:
    """Tags that every run of a search carries."""
    config, training = request.config, request.config.training
    dataset = resolve(training.preference_dataset)
    preferences = read_preferences(dataset, training.method, config.data.domains, config.data.stratify_by)
    commit, dirty = git_state()
    return {
        "track": request.track,
        "search": request.name,
        "method": config.training.method,
        "base_model": config.model.base_model,
        "profile": request.profile or "none",
        "data_hash": pairs_hash(preferences)[:16],
        "config_hash": config_hash(config)[:16],
        "scorer": scorer(),
        "git_commit": commit,
        "git_dirty": str(dirty).lower(),
    }


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
