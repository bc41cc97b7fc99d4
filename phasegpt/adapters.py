"""Adapter folders: what a PEFT folder of ours holds, how it is checked, put on a base model, joined and written.

A folder holds a plain LoRA adapter in safetensors and, where the run had one, the phase branch with its constants: it
needs nothing else to be opened again. Knows nothing of training.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.save_and_load import get_peft_model_state_dict
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from phasegpt.adapter_config import ADAPTER_CONFIG, read_plain_lora
from phasegpt.base_model import ModelError
from phasegpt.config_errors import one_line
from phasegpt.files import file_sha256, open_file, read_json, text_sha256, write_json

POLICY = "policy"
REFERENCE = "reference"
ADAPTER_FILE = "adapter_model.safetensors"
PHASE_FILE = "phase_branch.safetensors"
PHASE_SETTINGS = "phase_branch.json"
BASE_RECORD = "base_model.json"


@dataclass(frozen=True)
class PhaseSettings:
    """The Kuramoto branch: which layers (indices, or fractions of the depth as text) and its constants."""

    layers: tuple[int | str, ...]
    num_oscillators: int
    coupling_strength: float
    natural_freq: float
    dt: float
    n_sync_steps: int


@dataclass(frozen=True)
class SavedBranch:
    """The phase branch of an adapter folder: its constants and its parameters."""

    settings: PhaseSettings
    tensors: Mapping[str, Tensor]


def check_adapter(folder: Path, base: str) -> None:
    """Raises ModelError where `folder` holds no plain LoRA adapter in safetensors, or one of another base model."""
    config_file = folder / ADAPTER_CONFIG
    if not os.path.isfile(config_file) or not os.path.isfile(folder / ADAPTER_FILE):
        raise ModelError(
            f"{folder} is no adapter ({ADAPTER_CONFIG} and {ADAPTER_FILE} are expected there); "
            f"make one with: python train.py --config configs/v14/v12_lora.yaml"
        )
    settings = read_plain_lora(folder)
    made_for = _recorded(folder).get("address") or settings.base_model_name_or_path
    if made_for and Path(made_for).name != Path(base).name:
        raise ModelError(one_line(f"{folder} was made for the base model {made_for}, not for {base}"))


def write_base_record(folder: Path, address: str, identity: str) -> None:
    """Make an adapter folder name its base model by `address`, from anywhere, and say which model that was."""
    config_file = folder / ADAPTER_CONFIG
    settings = read_json(config_file)
    if settings.get("base_model_name_or_path") != address:
        write_json(config_file, {**settings, "base_model_name_or_path": address})
    write_json(folder / BASE_RECORD, {"address": address, "identity": identity})


def base_of(folder: Path) -> str:
    """The base model that an adapter names: in its record, which a version of the registry has, else as PEFT does."""
    named = _recorded(folder).get("address") or read_plain_lora(folder).base_model_name_or_path
    if not named:
        raise ModelError(f"{folder / ADAPTER_CONFIG} names no base model; save the adapter again")
    return named


def _recorded(folder: Path) -> dict[str, str]:
    """{address, identity} of the base model as `write_base_record` wrote them; empty for an adapter without."""
    file = folder / BASE_RECORD
    if not file.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, str]).validate_python(read_json(file))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged; expected the address and the identity of a base model") from error


def _check_identity(folder: Path, base: str, identity: str) -> None:
    """Raises ModelError where an adapter says which base model it was made for, and this is another one."""
    made_for = _recorded(folder).get("identity")
    if made_for and made_for != identity:
        raise ModelError(
            f"{base} is another model than {folder} was made for (its files hash to {identity[:12]}, expected "
            f"{made_for[:12]}): its weights, config or tokenizer have changed since; put the former ones back"
        )


def put_on(model: PreTrainedModel, base: str, identity: str, folder: Path, name: str) -> PeftModel:
    """The adapter in `folder`, frozen, as adapter `name` of the base model called `base` with this `base_identity`."""
    check_adapter(folder, base)
    _check_identity(folder, base, identity)
    try:
        return PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=False)
    except (RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be put on {base}: {error}") from error


def write_adapter(folder: Path, model: PeftModel, base: str, on_reference: bool) -> None:
    """Write the trial adapter of `model`, the reference adapter under it summed in, as one that needs `base` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if on_reference:
        config, tensors = _joined(model)
    else:
        parameters = dict(model.named_parameters())  # model.state_dict() would cut layers into shards again (FSDP2)
        tensors = get_peft_model_state_dict(model, state_dict=parameters, adapter_name=POLICY)
        config = model.peft_config[POLICY]
    save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, folder / ADAPTER_FILE)
    settings = {**config.to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=1, default=_plain, sort_keys=True))


def lay_on(folder: Path, model: PeftModel, base: str, on_reference: bool) -> None:
    """Give the trial adapter of `model` the weights that `write_adapter` wrote to `folder`: the reference's come out.

    Raises ModelError where the folder is on other modules, of another rank or on another reference.
    """
    check_adapter(folder, base)
    saved = load_file(folder / ADAPTER_FILE)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    if saved.keys() != {f"{name}.lora_{part}.weight" for name in layers for part in "AB"}:
        raise ModelError(f"{folder} is an adapter on other modules than this config's")
    with torch.no_grad():
        for name, layer in layers.items():
            a, b = saved[f"{name}.lora_A.weight"], saved[f"{name}.lora_B.weight"]
            try:
                _lay_on_layer(layer, a, b, on_reference)
            except ValueError as error:
                raise ModelError(f"{folder}: {name} is {error}") from error


def _lay_on_layer(layer: Any, a: Tensor, b: Tensor, on_reference: bool) -> None:
    """The inverse of `_side_by_side` on one module; rows of zeros may follow (`_joined`)."""
    under = layer.lora_A[REFERENCE].weight if REFERENCE in layer.lora_A else a[:0]
    begin = len(under)
    if not torch.equal(a[:begin].to(under), under):
        raise ValueError("on another reference than this config's")
    end = begin + (len(layer.lora_A[POLICY].weight) if POLICY in layer.lora_A else 0)
    if len(a) < end or bool(a[end:].any()):
        raise ValueError("of another rank than this config's")
    if POLICY in layer.lora_A:
        scale = layer.scaling[POLICY] if on_reference else 1.0
        layer.lora_A[POLICY].weight.copy_(a[begin:end])
        layer.lora_B[POLICY].weight.copy_(b[:, begin:end] / scale)


def write_branch(folder: Path, branch: SavedBranch) -> None:
    """Write the phase branch beside the adapter."""
    save_file(dict(branch.tensors), folder / PHASE_FILE)
    (folder / PHASE_SETTINGS).write_text(json.dumps(asdict(branch.settings), indent=1))


def read_branch(folder: Path) -> SavedBranch | None:
    """The phase branch that an adapter was trained with, or None."""
    if not (folder / PHASE_FILE).is_file():
        return None
    try:
        with open_file(folder / PHASE_SETTINGS) as file:
            settings = TypeAdapter(PhaseSettings).validate_json(file.read(), strict=True)
        return SavedBranch(settings, load_file(folder / PHASE_FILE))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: the phase branch is damaged: {' '.join(str(error).split())[:300]}") from error


def adapter_hash(folder: Path) -> str:
    """sha256 of all that an adapter's outputs depend on."""
    files = [folder / name for name in (ADAPTER_CONFIG, ADAPTER_FILE, PHASE_FILE, PHASE_SETTINGS)]
    return text_sha256(*(file_sha256(file) for file in files if file.is_file()))


def _joined(model: PeftModel) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Reference + trial adapter as one exact adapter on every module that carries either, each named in full.

    PEFT's own `cat` takes the layers of its first adapter and loses the rest.
    """
    joined = {name: _side_by_side(m) for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    rank = max(len(a) for a, _ in joined.values())
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in joined.items():
        tensors[f"{name}.lora_A.weight"] = nn.functional.pad(a, (0, 0, 0, rank - len(a)))
        tensors[f"{name}.lora_B.weight"] = nn.functional.pad(b, (0, rank - len(a)))
    modules = [name.removeprefix("base_model.model.") for name in joined]
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, task_type="CAUSAL_LM"), tensors


def _side_by_side(layer: Any) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] of both adapters of a module, their scales alpha/r laid into B."""
    names = [name for name in (REFERENCE, POLICY) if name in layer.lora_A]
    a = torch.cat([layer.lora_A[name].weight for name in names], dim=0)
    return a, torch.cat([layer.lora_B[name].weight * layer.scaling[name] for name in names], dim=1)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
