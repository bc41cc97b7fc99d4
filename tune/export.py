"""A version taken out of the registry, for those who have no PhaseGPT: a PEFT folder, or merged weights.

Either is laid out as the hub lays them out: weights, tokenizer and README.md side by side. The adapter names its base
model by the hub's id where it has one. Knows nothing of the gate, and runs nothing that a version holds.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from phasegpt.base_model import resolve_base
from phasegpt.config_io import project_root
from phasegpt.files import read_json, whole_folder, write_json, write_text
from tune.gate import Champion, RegistryError
from tune.model_card import hub_id
from tune.served import DATA, save_tokenizer
from tune.versions import read_version

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from mlflow import MlflowClient
    from transformers import PreTrainedModel

Precision = Literal["float32", "bfloat16", "float16"]
CARD = "README.md"


def export(client: "MlflowClient", track: str, version: str, to: Path, merge_as: Precision | None = None) -> None:
    """Write a version to the folder `to`, whole or not at all: its adapter, or with `merge_as` the merged model.

    Raises RegistryError where `to` holds something, or where a merge would leave out a phase branch; ModelError where
    the base model is not here or is another one.
    """
    from phasegpt.checkpoints import fetch

    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise RegistryError(f"--to {to}: something is there already; name a folder that is new or empty")
    found = read_version(client, track, version)
    with tempfile.TemporaryDirectory() as work:
        _say(f"fetching {found.address}")
        data = fetch(found.address, Path(work), client.tracking_uri) / "data" / DATA
        _check_branch(data / "adapter", found.address, merged=merge_as is not None)
        with whole_folder(to) as stage:
            if merge_as is None:
                _copy_adapter(data / "adapter", stage)
            else:
                _write_merged(data / "adapter", stage, merge_as)
            _copy_tokenizer(data, stage)
            write_text(stage / CARD, _card(data / CARD, found, merged=merge_as is not None))
            for file in stage.iterdir():
                file.chmod(0o644)  # safetensors writes for its owner alone


def _check_branch(adapter: Path, address: str, *, merged: bool) -> None:
    from phasegpt.adapters import PHASE_FILE

    if not (adapter / PHASE_FILE).is_file():
        return
    if merged:
        raise RegistryError(
            f"{address} was trained with a phase branch, a layer that transformers does not have: merged weights would "
            f"answer without it; export the adapter, or train with model.use_phase_attention=false"
        )
    _say("this adapter has a phase branch beside it, which PEFT alone does not load: it will answer otherwise there")


def _copy_adapter(adapter: Path, to: Path) -> None:
    """The adapter, on a base model that the hub knows where it has one there."""
    from phasegpt.adapter_config import ADAPTER_CONFIG

    shutil.copytree(adapter, to, dirs_exist_ok=True)
    settings = read_json(to / ADAPTER_CONFIG)
    base = str(settings["base_model_name_or_path"])
    write_json(to / ADAPTER_CONFIG, {**settings, "base_model_name_or_path": hub_id(base) or base})


def _write_merged(adapter: Path, to: Path, precision: Precision) -> None:
    """The base model with the adapter added into its weights, in float32, then written in `precision`."""
    import torch

    from phasegpt.checkpoints import open_adapter

    _say("loading the base model and adding the adapter into its weights")
    policy = open_adapter(adapter)
    model: PreTrainedModel = policy.model.merge_and_unload()
    model = model.to(getattr(torch, precision))
    model.config.use_cache = True  # training had it off
    _say(f"writing {sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9:.2f} GB as {precision}")
    model.save_pretrained(to)


def _copy_tokenizer(data: Path, to: Path) -> None:
    """The version's tokenizer; that of its base model where it is older than versions with one."""
    from phasegpt.adapters import base_of

    if (data / "tokenizer").is_dir():
        shutil.copytree(data / "tokenizer", to, dirs_exist_ok=True)
    else:
        save_tokenizer(resolve_base(base_of(data / "adapter"), project_root()), to)


def _card(stored: Path, found: Champion, *, merged: bool) -> str:
    """The model card of a version, with the gate's decision, and for merged weights under their own library."""
    from huggingface_hub import ModelCard

    card = ModelCard(stored.read_text(encoding="utf-8"))
    data = cast("ModelCardData", card.data)
    if merged:
        data.library_name = "transformers"
        data["base_model_relation"] = "finetune"
    tags = found.tags
    said = f"{tags['reason']} ({tags['decided_at']}, version {found.version})" if tags.get("reason") else "not decided"
    return f"---\n{data.to_yaml()}\n---\n\n{card.text.strip()}\n\n## Decision\n\n{said}\n"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
