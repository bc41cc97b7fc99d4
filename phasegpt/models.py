"""The base model, its tokenizer, and the policy: adapters on a frozen base that can be put on and taken off.

The reference is always "trial adapter off" (DESIGN decision 4): the bare base, or the base with a frozen reference
adapter underneath. Nothing here knows of pairs, losses or configs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from phasegpt.base_model import ModelError, resolve_base
from phasegpt.files import file_sha256, text_sha256
from phasegpt.phase_attention import (
    PhaseAttentionError,
    PhaseHandles,
    attach_phase_branch,
    load_phase_state,
    phase_state_dict,
)

POLICY = "policy"
REFERENCE = "reference"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PHASE_FILE = "phase_branch.safetensors"


@dataclass(frozen=True)
class Base:
    """A frozen causal language model and its tokenizer. `folder` is where it was read from, `name` as asked for."""

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoraSettings:
    """LoRA as in PEFT (arXiv 2106.09685): ΔW = (alpha/r)·B·A on `target_modules` of `layers` (None: all layers)."""

    r: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...] | str | None = None
    bias: str = "none"  # the only value so far: PEFT trains the base's own biases, which taking it off would not undo


@dataclass(frozen=True)
class PhaseSettings:
    """The Kuramoto branch: which layers (indices, or fractions of the depth as text) and its constants."""

    layers: tuple[int | str, ...]
    num_oscillators: int
    coupling_strength: float
    natural_freq: float
    dt: float
    n_sync_steps: int


def load_base(name: str, root: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Base:
    """Load a base model frozen, in evaluation mode; safetensors only, and no code from the model's repository.

    Of its generation settings only the end tokens stay: a repetition penalty (Qwen2.5 ships one) is no greedy decoding.
    """
    folder = resolve_base(name, root)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.base_model: {folder} cannot be loaded: {error}") from error
    if tokenizer.chat_template is None:
        raise ModelError(f"model.base_model: {name} has no chat template; take an instruction-tuned model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    model.config.use_cache = False
    model.generation_config = GenerationConfig(
        eos_token_id=model.generation_config.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return Base(name, folder, model.to(device).eval(), tokenizer)


def layer_count(folder: Path) -> int:
    """How many decoder layers the model in `folder` has, from its config alone."""
    return int(AutoConfig.from_pretrained(folder, trust_remote_code=False).num_hidden_layers)


def adapter_layers(layers: tuple[int, ...] | str | None, depth: int) -> tuple[int, ...] | None:
    """`layers_to_transform` as indices: "upper_third" is the last third of `depth` layers, None stays None (all)."""
    if layers is None:
        return None
    if layers == "upper_third":
        return tuple(range(depth - max(1, depth // 3), depth))
    if isinstance(layers, str) or not layers or not all(0 <= layer < depth for layer in layers):
        raise ModelError(
            f"model.lora_config.layers_to_transform: expected upper_third or layers from 0 to {depth - 1}, "
            f"found {layers}"
        )
    return layers


class Policy:
    """The model under training: base + frozen reference adapter (if any) + trial adapter + phase branch (if any).

    `reference` is the hash of the reference adapter, "" for the bare base; `reference_phase` the branch that adapter
    was trained with, where the trial's branch starts. `detach()` leaves the base bit-equal to what it was.
    """

    def __init__(
        self,
        base: Base,
        model: PeftModel,
        phase: PhaseHandles | None,
        *,
        reference: str = "",
        reference_phase: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.base = base
        self.model = model
        self.phase = phase
        self.reference = reference
        self.reference_phase = reference_phase

    @property
    def decoder(self) -> nn.Module:
        """The stack of decoder layers with embedding and final norm: token ids in, last hidden states out."""
        return self.model.get_base_model().model  # type: ignore[no-any-return]

    @property
    def head(self) -> Tensor:
        """[V, d] weight of the language-model head, which no adapter touches."""
        return self.model.get_base_model().get_output_embeddings().weight  # type: ignore[no-any-return]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters under training by name: the trial adapter and the phase branch."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Within the block the model is the reference: trial adapter and branch off, dropout off, no gradient."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self._reference_branch(), self._trial_adapter_off():
                yield
        finally:
            self.model.train(training)

    @contextmanager
    def _trial_adapter_off(self) -> Iterator[None]:
        if not self.reference:
            with self.model.disable_adapter():
                yield
            return
        self.model.base_model.set_adapter(REFERENCE)
        try:
            yield
        finally:
            _activate_both(self.model)

    @contextmanager
    def _reference_branch(self) -> Iterator[None]:
        if self.phase is None:
            yield
        elif self.reference_phase is None:
            with self.phase.disabled():
                yield
        else:
            own = phase_state_dict(self.model)
            load_phase_state(self.model, self.reference_phase)
            try:
                yield
            finally:
                load_phase_state(self.model, own)

    def save(self, folder: Path) -> None:
        """Write the policy as a PEFT folder that stands on the base alone: a reference adapter is summed in."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.reference:
            config, tensors = _combined(self.model)
        else:
            config, tensors = self.model.peft_config[POLICY], get_peft_model_state_dict(self.model, adapter_name=POLICY)
        save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, folder / ADAPTER_FILE)
        settings = {**config.to_dict(), "base_model_name_or_path": self.base.name, "inference_mode": True}
        (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=1, default=_plain, sort_keys=True))
        if self.phase is not None:
            save_file(phase_state_dict(self.model), folder / PHASE_FILE)

    def detach(self) -> None:
        """Take adapters and branch off; the base is again what it was, frozen and in evaluation mode."""
        if self.phase is not None:
            self.phase.remove()
        _strip(self.base.model)


def _strip(model: PreTrainedModel) -> None:
    """Take every adapter off a base model, also where PEFT had put on only some of them."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.activation_checkpointing_disable()
    model.requires_grad_(False)
    model.eval()


@contextmanager
def _stripped_on_error(base: Base) -> Iterator[None]:
    """An error within the block leaves the base as it was, ready for the next policy."""
    try:
        yield
    except BaseException:
        _strip(base.model)
        raise


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _activate_both(model: PeftModel) -> None:
    model.base_model.set_adapter([REFERENCE, POLICY])
    for name, parameter in model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)


def _combined(model: PeftModel) -> tuple[LoraConfig, dict[str, Tensor]]:
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


def attach_policy(
    base: Base,
    lora: LoraSettings,
    seed: int,
    reference_adapter: Path | None = None,
    phase: PhaseSettings | None = None,
    *,
    gradient_checkpointing: bool = False,
) -> Policy:
    """Put a fresh trial adapter on `base`; A is drawn from `seed`.

    B = 0, and the branch starts where the reference adapter's ends or else with a closed gate: the policy starts at the
    reference. `gradient_checkpointing` computes the layers' activations twice instead of keeping them. Raises
    ModelError or PhaseAttentionError where a part does not fit, and leaves the base as it was.
    """
    check_targets(base.model, lora.target_modules)
    if lora.bias != "none":
        raise ModelError(f"model.lora_config.bias: {lora.bias!r} is not available yet; take none")
    depth = base.model.config.num_hidden_layers
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        layers_to_transform=_as_list(adapter_layers(lora.layers, depth)),
        bias=lora.bias,
        task_type="CAUSAL_LM",
    )
    branch = None if reference_adapter is None else _saved_branch(reference_adapter, phase)
    with torch.random.fork_rng(devices=[]), _stripped_on_error(base):
        torch.manual_seed(seed)
        if reference_adapter is None:
            model = get_peft_model(base.model, config, adapter_name=POLICY)
        else:
            model = _on_reference(base, config, reference_adapter)
        # after the adapter, whose draw is then the same with and without it
        handles = None if phase is None else _attach_phase(base, phase, branch)
    if gradient_checkpointing:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    reference = "" if reference_adapter is None else _adapter_hash(reference_adapter, phase)
    return Policy(base, model, handles, reference=reference, reference_phase=branch)


def _as_list(layers: Sequence[int] | None) -> list[int] | None:
    return None if layers is None else list(layers)


def _adapter_hash(folder: Path, phase: PhaseSettings | None) -> str:
    """sha256 of all that an adapter's outputs depend on; a branch's constants stand in the settings alone."""
    files = [folder / ADAPTER_CONFIG, folder / ADAPTER_FILE, folder / PHASE_FILE]
    hashes = [file_sha256(file) for file in files if file.is_file()]
    return text_sha256(*hashes, repr(phase)) if files[-1].is_file() else text_sha256(*hashes)


def _saved_branch(folder: Path, phase: PhaseSettings | None) -> dict[str, Tensor] | None:
    """The phase branch that an adapter was trained with, if any; ModelError where the config leaves it off."""
    if not (folder / PHASE_FILE).is_file():
        return None
    if phase is None:
        raise ModelError(
            f"{folder} was trained with a phase branch; set model.use_phase_attention: true as it was then"
        )
    branch: dict[str, Tensor] = load_file(folder / PHASE_FILE)
    return branch


def _attach_phase(base: Base, phase: PhaseSettings, start: Mapping[str, Tensor] | None) -> PhaseHandles:
    """A branch with the values in `start`, or a fresh one with a closed gate."""
    handles = attach_phase_branch(
        base.model,
        phase.layers,
        num_oscillators=phase.num_oscillators,
        coupling_strength=phase.coupling_strength,
        natural_freq=phase.natural_freq,
        dt=phase.dt,
        n_sync_steps=phase.n_sync_steps,
    )
    if start is not None:
        try:
            load_phase_state(base.model, start)
        except PhaseAttentionError:
            handles.remove()
            raise
    return handles


def _on_reference(base: Base, config: LoraConfig, folder: Path) -> PeftModel:
    model = _with_adapter(base, folder, REFERENCE)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout[REFERENCE] = nn.Identity()  # the reference is the same in training as in evaluation
    model.add_adapter(POLICY, config)
    _activate_both(model)
    return model


def _with_adapter(base: Base, folder: Path, name: str) -> PeftModel:
    check_adapter(folder, base)
    try:
        return PeftModel.from_pretrained(base.model, folder, adapter_name=name, is_trainable=False)
    except (RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be put on {base.name}: {error}") from error


def load_policy(base: Base, folder: Path, phase: PhaseSettings | None = None) -> Policy:
    """A saved adapter on its base, ready to generate. Raises ModelError where the folder is no adapter of this base."""
    branch = _saved_branch(folder, phase)
    with _stripped_on_error(base):
        model = _with_adapter(base, folder, POLICY)
        if phase is not None and branch is None:
            raise ModelError(f"{folder} was trained without a phase branch; set model.use_phase_attention: false")
        handles = None if phase is None else _attach_phase(base, phase, branch)
    return Policy(base, model.eval(), handles)


def trainable_state(policy: Policy) -> dict[str, Tensor]:
    """The tensors under training, for exact resume: trial adapter and phase branch."""
    return {name: p.detach().cpu().contiguous() for name, p in policy.trainable().items()}


def load_trainable_state(policy: Policy, tensors: dict[str, Tensor]) -> None:
    """Lay saved tensors on the policy; raises ModelError where names or shapes differ."""
    own = policy.trainable()
    shapes = {name: parameter.shape for name, parameter in own.items()}
    if shapes != {name: value.shape for name, value in tensors.items()}:
        raise ModelError("the checkpoint holds other trainable parameters than this config makes; start afresh")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raises ModelError where a LoRA target names no linear module of the decoder, and lists those it has.

    The language-model head is none of them: it is shared by policy and reference.
    """
    head = model.get_output_embeddings()
    modules = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    linear = sorted({name.rsplit(".", 1)[-1] for name in modules})
    missing = [target for target in targets if target.rsplit(".", 1)[-1] not in linear]
    if missing:
        raise ModelError(
            f"model.lora_config.target_modules: this model has no {', '.join(missing)}; it has {', '.join(linear)}"
        )


def check_adapter(folder: Path, base: Base) -> None:
    """Raises ModelError where `folder` holds no plain LoRA adapter in safetensors, or one of another base model."""
    config_file = folder / ADAPTER_CONFIG
    if not config_file.is_file() or not (folder / ADAPTER_FILE).is_file():
        raise ModelError(
            f"{folder} is no adapter ({ADAPTER_CONFIG} and {ADAPTER_FILE} are expected there); "
            f"make one with: python train.py --config configs/v14/v12_lora.yaml"
        )
    try:
        settings = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config_file} is not JSON: {error}") from error
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{folder} holds a {settings.get('peft_type')} adapter; only LORA is supported")
    if odd := [key for key in ("use_dora", "modules_to_save") if settings.get(key)]:
        raise ModelError(f"{folder} is no plain LoRA adapter: {', '.join(odd)} is set in {ADAPTER_CONFIG}")
    made_for = settings.get("base_model_name_or_path")
    if made_for and Path(made_for).name != Path(base.name).name:
        raise ModelError(f"{folder} was made for the base model {made_for}, not for {base.name}")
