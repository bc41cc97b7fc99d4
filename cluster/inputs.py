"""The files that a search reads, sorted by how they get to a cluster: with the project, or by being there already."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.package import PROJECT, Package
from phasegpt.config import Config, value_at
from phasegpt.config_io import files_of, project_root

MODELS = ("model.base_model", "training.reference_model", "evaluation.baseline_checkpoint", "training.deepspeed_config")
"""Keys that may name a file or folder; what is neither is a name on a hub or in the registry."""


def with_inputs(package: Package, configs: Sequence[Config]) -> tuple[Package, list[str]]:
    """The package with what the configs name inside the project, and the full paths that every node must have."""
    elsewhere: list[str] = []
    for path in dict.fromkeys(path for config in configs for path in named_paths(config)):
        place = Path(os.path.expanduser(path))
        if place.is_absolute():
            elsewhere.append(str(place))
            continue
        for file in _files(project_root() / place):
            if file.resolve().is_relative_to(PROJECT):
                package, _ = package.with_file(file)
            else:
                elsewhere.append(str(file))
    return package, elsewhere


def named_paths(config: Config) -> Iterable[str]:
    """What a config names that is, or by its form can only be, a path."""
    for key in (*files_of(config), *MODELS):
        value = value_at(config, key)
        if value and (value.startswith(("/", "~")) or (project_root() / value).exists()):
            yield value


def _files(place: Path) -> Iterable[Path]:
    return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
