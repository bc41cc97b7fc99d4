"""The base model, its tokenizer, and the policy: adapters on a frozen base that can be put on and taken off.

The reference is always "trial adapter off" (DESIGN decision 4): the bare base, or the base with a frozen reference
adapter underneath. Nothing here knows of pairs, losses or configs.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from phasegpt.base_model import ModelError, resolve_base
from phasegpt.phase_attention import PhaseHandles, attach_phase_branch, load_phase_state, phase_state_dict

POLICY = "policy"
REFERENCE = "reference"
PHASE_FILE = "phase_branch.safetensors"


@dataclass(frozen=True)
class Base:
    """A frozen causal language model with its tokenizer. `folder` is where it was read from, `name` what was asked for."""

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
    bias: str = "none"


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
    """Load a base model frozen, in evaluation mode, from safetensors only and without code from the model's repository."""
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
    return Base(name, folder, model.to(device).eval(), tokenizer)


def layer_count(folder: Path) -> int:
    """How many decoder layers the model in `folder` has, from its config alone."""
    return int(AutoConfig.from_pretrained(folder, trust_remote_code=False).num_hidden_layers)


def adapter_layers(layers: tuple[int, ...] | str | None, depth: int) -> tuple[int, ...] | None:
    """`layers_to_transform` as indices: "upper_third" is the last third of `depth` layers, None stays None (all)."""
    if layers is None or isinstance(layers, tuple):
        return layers
    if layers != "upper_third":
        raise ModelError(f'model.lora_config.layers_to_transform: expected a list or "upper_third", found {layers!r}')
    return tuple(range(depth - depth // 3, depth))


class Policy:
    """The model under training: base + frozen reference adapter (if any) + trial adapter + phase branch (if any).

    Take it off with `detach()`, which leaves the base bit-equal to what it was.
    """

    def __init__(self, base: Base, model: PeftModel, phase: PhaseHandles | None, has_reference: bool) -> None:
        self.base = base
        self.model = model
        self.phase = phase
        self.has_reference = has_reference

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
        """Within the block the model is the reference: trial adapter and phase branch off, dropout off, no gradient."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._trial_adapter_off():
            yield
        self.model.train(training)

    @contextmanager
    def _trial_adapter_off(self) -> Iterator[None]:
        with _phase_off(self.phase):
            if not self.has_reference:
                with self.model.disable_adapter():
                    yield
                return
            self.model.base_model.set_adapter(REFERENCE)
            try:
                yield
            finally:
                _activate_both(self.model)

    def save(self, folder: Path) -> None:
        """Write the policy's adapter as a PEFT folder that stands on the base alone (a reference adapter is summed in)."""
        folder.mkdir(parents=True, exist_ok=True)
        name = _combined(self.model) if self.has_reference else POLICY
        config = self.model.peft_config[name]
        tensors = get_peft_model_state_dict(self.model, adapter_name=name)
        save_file(
            {key: value.contiguous().cpu() for key, value in tensors.items()}, folder / "adapter_model.safetensors"
        )
        settings = {**config.to_dict(), "base_model_name_or_path": self.base.name, "inference_mode": True}
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1, default=_plain, sort_keys=True))
        if name != POLICY:
            self.model.delete_adapter(name)
            _activate_both(self.model)
        if self.phase is not None:
            save_file(phase_state_dict(self.model), folder / PHASE_FILE)

    def detach(self) -> None:
        """Take adapters and branch off; the base is again what it was, frozen and in evaluation mode."""
        if self.phase is not None:
            self.phase.remove()
        self.model.unload()
        if hasattr(self.base.model, "peft_config"):
            del self.base.model.peft_config
        self.base.model.requires_grad_(False)
        self.base.model.eval()


@contextmanager
def _phase_off(phase: PhaseHandles | None) -> Iterator[None]:
    if phase is None:
        yield
    else:
        with phase.disabled():
            yield


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _activate_both(model: PeftModel) -> None:
    model.base_model.set_adapter([REFERENCE, POLICY])
    for name, parameter in model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)


def _combined(model: PeftModel) -> str:
    """Reference + trial adapter as one exact adapter: the ranks are laid side by side (PEFT's `cat`)."""
    name = "combined"
    model.add_weighted_adapter([REFERENCE, POLICY], [1.0, 1.0], combination_type="cat", adapter_name=name)
    return name


def attach_policy(
    base: Base,
    lora: LoraSettings,
    seed: int,
    reference_adapter: Path | None = None,
    phase: PhaseSettings | None = None,
) -> Policy:
    """Put a fresh trial adapter (B = 0, so the policy starts at the reference) on `base`; A is drawn from `seed`."""
    check_targets(base.model, lora.target_modules)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if reference_adapter is None:
            model = get_peft_model(base.model, config, adapter_name=POLICY)
        else:
            model = _on_reference(base, config, reference_adapter)
        handles = _attach_phase(base, phase)  # after the adapter, whose draw is then the same with and without it
    return Policy(base, model, handles, reference_adapter is not None)


def _as_list(layers: Sequence[int] | None) -> list[int] | None:
    return None if layers is None else list(layers)


def _attach_phase(base: Base, phase: PhaseSettings | None) -> PhaseHandles | None:
    if phase is None:
        return None
    return attach_phase_branch(
        base.model,
        phase.layers,
        num_oscillators=phase.num_oscillators,
        coupling_strength=phase.coupling_strength,
        natural_freq=phase.natural_freq,
        dt=phase.dt,
        n_sync_steps=phase.n_sync_steps,
    )


def _on_reference(base: Base, config: LoraConfig, folder: Path) -> PeftModel:
    check_adapter(folder, base)
    model = PeftModel.from_pretrained(base.model, folder, adapter_name=REFERENCE, is_trainable=False)
    model.add_adapter(POLICY, config)
    _activate_both(model)
    return model


def load_policy(base: Base, folder: Path, phase: PhaseSettings | None = None) -> Policy:
    """A saved adapter on its base, ready to generate. Raises ModelError where the folder is no adapter of this base."""
    check_adapter(folder, base)
    model = PeftModel.from_pretrained(base.model, folder, adapter_name=POLICY, is_trainable=False)
    handles = _attach_phase(base, phase)
    if handles is not None:
        load_phase_state(model, load_file(folder / PHASE_FILE))
    return Policy(base, model.eval(), handles, has_reference=False)


def trainable_state(policy: Policy) -> dict[str, Tensor]:
    """The tensors under training, for exact resume: trial adapter and phase branch."""
    return {name: p.detach().cpu().contiguous() for name, p in policy.trainable().items()}


def load_trainable_state(policy: Policy, tensors: dict[str, Tensor]) -> None:
    """Lay saved tensors on the policy; raises ModelError where names or shapes differ."""
    own = policy.trainable()
    if own.keys() != tensors.keys():
        raise ModelError("the checkpoint holds other trainable parameters than this config makes; start afresh")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Raises ModelError where a LoRA target names no linear module of the model, and lists those it has."""
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
    missing = [target for target in targets if target.rsplit(".", 1)[-1] not in linear]
    if missing:
        raise ModelError(
            f"model.lora_config.target_modules: this model has no {', '.join(missing)}; it has {', '.join(linear)}"
        )


def check_adapter(folder: Path, base: Base) -> None:
    """Raises ModelError where `folder` holds no safetensors LoRA adapter."""
    config_file = folder / "adapter_config.json"
    if not config_file.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} is no adapter (adapter_config.json and adapter_model.safetensors are expected there); "
            f"make one with: python train.py --config configs/v14/v12_lora.yaml"
        )
    try:
        settings = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config_file} is not JSON: {error}") from error
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{folder} holds a {settings.get('peft_type')} adapter; only LORA is supported")
    made_for = settings.get("base_model_name_or_path")
    if made_for and Path(made_for).name != Path(base.name).name:
        raise ModelError(f"{folder} was made for the base model {made_for}, not for {base.name}")
