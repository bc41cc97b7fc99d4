"""The base model, its tokenizer, and the policy: adapters on a frozen base that can be put on and taken off.

The reference is always "trial adapter off": the bare base, or the base with a frozen reference
adapter underneath. Nothing here knows of pairs, losses or configs.
"""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from phasegpt.adapters import (
    POLICY,
    REFERENCE,
    PhaseSettings,
    SavedBranch,
    adapter_hash,
    lay_on,
    put_on,
    read_branch,
    write_adapter,
    write_branch,
)
from phasegpt.base_model import ModelError, base_identity, model_fingerprint, resolve_base
from phasegpt.packed_attention import check_packable, packed_arguments
from phasegpt.packing import Packing
from phasegpt.phase_attention import BRANCH, PhaseHandles, attach_phase_branch, load_phase_state, phase_state_dict
from phasegpt.phase_state import PhaseAttentionError

# PEFT 0.21 asks transformers 5.23 for an attribute that has a new name; its users can do nothing about it
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
log = logging.getLogger("phasegpt")
UNLOADABLE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip
"""What transformers raises on a model folder that is damaged, or that asks for code of its own."""
RESCALED = ("logits_scaling", "logit_scale", "lm_head_multiplier", "final_logit_softcapping")
"""What models call in their config that changes logits after the head: Granite, Cohere, Falcon-H1, Gemma."""

disable_progress_bar()  # loading takes under a second, and the terminal belongs to the search


@dataclass(frozen=True)
class Base:
    """A frozen causal language model and its tokenizer. `folder` is where it was read from, `name` as asked for."""

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files that it was read from."""
        return model_fingerprint(self.folder)

    @property
    def identity(self) -> str:
        """What tells it from another model under its name."""
        return base_identity(self.name, self.fingerprint)


@dataclass(frozen=True)
class LoraSettings:
    """LoRA as in PEFT (arXiv 2106.09685): ΔW = (alpha/r)·B·A on `target_modules` of `layers` (None: all layers)."""

    r: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...] | str | None = None
    bias: str = "none"  # the only value: PEFT trains the base's own biases, which taking it off would not undo


def load_base(name: str, root: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Base:
    """Load a base model frozen, in evaluation mode; safetensors only, and no code from the model's repository.

    Of its generation settings only the end tokens stay: a repetition penalty (Qwen2.5 ships one) is no greedy decoding.
    """
    folder = resolve_base(name, root)
    attention, reason = attention_for(dtype, device)
    log.info("attention of %s: %s (%s)", name, attention, reason)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, attn_implementation=attention
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UNLOADABLE as error:
        said = " ".join(str(error).split())[:500]
        raise ModelError(f"model.base_model: {folder} cannot be loaded: {type(error).__name__}: {said}") from error
    check_packable(model.config)
    _check_head(model)
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


def _check_head(model: PreTrainedModel) -> None:
    """Raises ModelError where logits are more than hidden states times the head's weight, as all is computed here."""
    config = model.config.get_text_config()
    odd = [f"{name} {value}" for name in RESCALED if (value := getattr(config, name, None)) not in (None, 1)]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        odd.append("a bias on the output head")
    if odd:
        raise ModelError(
            f"model.base_model: {config.model_type} makes its logits with {', '.join(odd)}, and such models are not "
            f"supported; take one whose logits are hidden states times a weight, such as Llama or Qwen"
        )


def attention_for(dtype: torch.dtype, device: str) -> tuple[str, str]:
    """The attention implementation, as transformers names it, and why it is this one: flash where it can run.

    Neither a phase branch nor the shared trunk asks for another: the branch stands beside the attention, and both read
    the padding mask alone.
    """
    if device == "cpu":
        return "sdpa", "flash attention needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return "sdpa", "flash attention needs bf16 or fp16"
    if torch.cuda.get_device_capability()[0] < 8:
        return "sdpa", "flash attention needs an Ampere GPU or a later one"
    if not is_flash_attn_2_available():
        return "sdpa", "the package flash-attn is not installed"
    return "flash_attention_2", "GPU, precision and package allow it"


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

    `trunk_depth` counts the lowest layers, in which nothing trains: what comes out of them is the same in every trial
    and step. `reference` is the hash of the reference adapter, "" for the bare base; `reference_phase` the branch that
    adapter was trained with, where the trial's branch starts. `detach()` leaves the base bit-equal to what it was.
    """

    def __init__(
        self,
        base: Base,
        model: PeftModel,
        phase: PhaseHandles | None,
        *,
        phase_settings: PhaseSettings | None = None,
        reference: str = "",
        reference_phase: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.base = base
        self.model = model
        self.phase = phase
        self.phase_settings = phase_settings
        self.reference = reference
        self.reference_phase = reference_phase
        self.trunk_depth = _lowest_layer(self.trainable())

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

    def parameter_counts(self) -> dict[str, int]:
        """How many numbers train in the trial adapter and in the phase branch, and how many are frozen."""
        branch = sum(p.numel() for name, p in self.trainable().items() if f".{BRANCH}." in name)
        training = sum(p.numel() for p in self.trainable().values())
        whole = sum(p.numel() for p in self.model.parameters())
        return {"adapter": training - branch, "phase_branch": branch, "frozen": whole - training}

    def states(self, input_ids: Tensor, packing: Packing) -> Tensor:
        """Last hidden states [N, d] of a packed row of token ids [N]."""
        return self._read({"input_ids": input_ids[None]}, packing)

    def above_trunk(self, trunk: Tensor, packing: Packing) -> Tensor:
        """Last hidden states [N, d] from what the trunk gives for a packed row, [N, d] in any precision."""
        decoder: Any = self.decoder
        layers = decoder.layers
        decoder.layers = layers[self.trunk_depth :]
        try:
            return self._read({"inputs_embeds": trunk[None].to(self.head.dtype)}, packing)
        finally:
            decoder.layers = layers

    def _read(self, row: dict[str, Tensor], packing: Packing) -> Tensor:
        states: Tensor = self.decoder(**row, **packed_arguments(packing, self.head)).last_hidden_state
        return states[0]

    @contextmanager
    def trunk_noted(self) -> Iterator[list[Tensor]]:
        """Within the block each pass over a packed row appends what its trunk, if it has one, gives: [N, d]."""
        noted: list[Tensor] = []
        if self.trunk_depth == 0:
            yield noted
            return
        decoder: Any = self.decoder

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            noted.append((args[0] if args else kwargs["hidden_states"])[0])

        hook = decoder.layers[self.trunk_depth].register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield noted
        finally:
            hook.remove()

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
        write_adapter(folder, self.model, self.base.name, on_reference=bool(self.reference))
        if self.phase is not None and self.phase_settings is not None:
            write_branch(folder, SavedBranch(self.phase_settings, phase_state_dict(self.model)))

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


def _lowest_layer(names: Iterable[str]) -> int:
    """The lowest decoder layer among parameter names; 0 where none is named."""
    found = (re.search(r"\.layers\.(\d+)\.", name) for name in names)
    return min((int(match[1]) for match in found if match), default=0)


@contextmanager
def _stripped_on_error(base: Base) -> Iterator[None]:
    """An error within the block leaves the base as it was, ready for the next policy."""
    try:
        yield
    except BaseException:
        _strip(base.model)
        raise


def _activate_both(model: PeftModel) -> None:
    model.base_model.set_adapter([REFERENCE, POLICY])
    for name, parameter in model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)


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
        raise ModelError(
            f"model.lora_config.bias: {lora.bias} trains what taking the adapter off cannot undo; take none"
        )
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
    start = None if reference_adapter is None else _reference_branch(reference_adapter, phase)
    with torch.random.fork_rng(devices=[]), _stripped_on_error(base):
        torch.manual_seed(seed)
        if reference_adapter is None:
            model = get_peft_model(base.model, config, adapter_name=POLICY)
        else:
            model = _on_reference(base, config, reference_adapter)
        # after the adapter, whose draw is then the same with and without it
        handles = None if phase is None else _attach_phase(base, phase, start)
    if gradient_checkpointing:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    reference = "" if reference_adapter is None else adapter_hash(reference_adapter)
    return Policy(base, model, handles, phase_settings=phase, reference=reference, reference_phase=start)


def _reference_branch(folder: Path, phase: PhaseSettings | None) -> Mapping[str, Tensor] | None:
    """The branch of a reference adapter, where the trial's is to start; ModelError where the config makes another."""
    branch = read_branch(folder)
    if branch is None:
        return None
    if branch.settings != phase:
        raise ModelError(
            f"{folder} was trained with a phase branch ({branch.settings}); "
            f"give the same under model: use_phase_attention true and these constants"
        )
    return branch.tensors


def _as_list(layers: Sequence[int] | None) -> list[int] | None:
    return None if layers is None else list(layers)


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
    model = put_on(base.model, base.name, base.identity, folder, REFERENCE)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout[REFERENCE] = nn.Identity()  # the reference is the same in training as in evaluation
    model.add_adapter(POLICY, config)
    _activate_both(model)
    return model


def load_policy(base: Base, folder: Path) -> Policy:
    """A saved adapter on its base, ready to generate. Raises ModelError where the folder is no adapter of this base."""
    branch = read_branch(folder)
    with _stripped_on_error(base):
        model = put_on(base.model, base.name, base.identity, folder, POLICY)
        handles = None if branch is None else _attach_phase(base, branch.settings, branch.tensors)
    model.requires_grad_(False)  # the branch too: a policy that trains nothing has no trunk
    return Policy(base, model.eval(), handles, phase_settings=branch.settings if branch else None)


def load_adapter(policy: Policy, folder: Path) -> None:
    """Begin with a saved adapter: its weights on the trial's own, its branch on the branch.

    Raises ModelError where `folder` holds other trainable parameters than the policy has.
    """
    branch = read_branch(folder)
    if (branch and branch.settings) != (policy.phase_settings if policy.phase is not None else None):
        raise ModelError(f"{folder} was trained with another phase branch than this config makes")
    lay_on(folder, policy.model, policy.base.name, on_reference=bool(policy.reference))
    if branch is not None:
        load_phase_state(policy.model, branch.tensors)


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
