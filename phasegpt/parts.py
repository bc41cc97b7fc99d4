"""From a config to the parts of a run: base, policy, shared work, split, suite, objective, the loop's numbers.

The only place where parts learn what the config says; each of them takes plain arguments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from phasegpt.adapters import PhaseSettings
from phasegpt.config import Config
from phasegpt.config_io import project_root, resolve
from phasegpt.evaluate import Suite
from phasegpt.forward import PairModel
from phasegpt.models import Base, LoraSettings, attach_policy, load_base
from phasegpt.objectives import Dpo, Objective, PenalisedDpo, Sft
from phasegpt.pairs import Pair, Split, pairs_hash, read_pairs, read_prompts, split_pairs, take_prompts
from phasegpt.runs import RunPaths
from phasegpt.shared_work import Lengths, Progress, SharedWork, model_fingerprint, prepare
from phasegpt.trainer import TrainerSettings


class RunError(ValueError):
    """A run that cannot be done as asked on this machine; the message names the key and the cure."""


class Workbench:
    """What stays warm in a process between fits: one base model, loaded when first asked for."""

    def __init__(self) -> None:
        self._key: tuple[str, torch.dtype, str] | None = None
        self._base: Base | None = None

    def base(self, config: Config) -> Base:
        """The base model of `config` on its device; another model than the last one takes its place."""
        device = device_of(config)
        dtype = torch.bfloat16 if config.training.bf16 else torch.float16 if config.training.fp16 else torch.float32
        key = (config.model.base_model, dtype, device)
        if self._base is None or self._key != key:
            self._base = None
            self._base = load_base(config.model.base_model, project_root(), dtype, device)
            self._key = key
        return self._base


def device_of(config: Config) -> str:
    """cpu or cuda, as experiment.device asks and the machine allows."""
    wanted, has_gpu = config.experiment.device, torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise RunError("experiment.device: cuda was asked for and this machine has no GPU; take cpu or auto")
    device = "cuda" if has_gpu and wanted != "cpu" else "cpu"
    if device == "cpu" and (config.training.bf16 or config.training.fp16):
        raise RunError("training.bf16 / training.fp16: half precision needs a GPU; set both false (--profile laptop)")
    return device


@dataclass(frozen=True)
class SetUp:
    """A stage ready to run: `model` trains under the config's divergence, `judged` is the same under plain KL."""

    config: Config
    model: PairModel
    judged: PairModel
    shared: SharedWork
    split: Split
    suite: Suite
    hashes: Mapping[str, str]


@contextmanager
def set_up(
    config: Config, paths: RunPaths, bench: Workbench, half: str, on_progress: Progress | None
) -> Iterator[SetUp]:
    training, seed = config.training, config.experiment.seed
    pairs = read_pairs(resolve(training.preference_dataset), config.data.domains, config.data.stratify_by)
    split = split_pairs(pairs, config.data.val_split, config.data.stratify_by, config.evaluation.held_out_domains, seed)
    if not split.train:
        raise RunError("training.preference_dataset: no pair is left to train on after the split and held-out domains")
    base = bench.base(config)
    reference = _reference_adapter(config)
    checkpointing = config.model.use_gradient_checkpointing
    policy = attach_policy(base, _lora(config), seed, reference, _phase(config), gradient_checkpointing=checkpointing)
    try:
        lengths = Lengths(training.max_length, training.max_prompt_length)
        shared = prepare(paths.shared_work, policy, _scored(split), lengths, on_progress)
        model = PairModel(policy, training.kto_config.kl_penalty_type, training.kto_config.kl_temperature)
        hashes = {
            "data": pairs_hash(pairs),
            "base_model": model_fingerprint(base.folder),
            "reference_adapter": policy.reference,
        }
        yield SetUp(config, model, PairModel(policy), shared, split, _suite(config, base, split, half), hashes)
    finally:
        policy.detach()


def _scored(split: Split) -> list[Pair]:
    """Pairs that a run trains or evaluates on, the same under every seed; held-out domains are judged by prompts."""
    return sorted((*split.train, *split.val), key=lambda pair: pair.id)


def _reference_adapter(config: Config) -> Path | None:
    """The folder of training.reference_model; dpo does without a missing one, of which the config has warned."""
    name = config.training.reference_model
    if not name or (config.training.method == "dpo" and not resolve(name).is_dir()):
        return None
    return resolve(name)


def _lora(config: Config) -> LoraSettings:
    lora = config.model.lora_config
    return LoraSettings(
        r=lora.r,
        alpha=lora.lora_alpha,
        dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        layers=lora.layers_to_transform,
        bias=lora.bias,
    )


def _phase(config: Config) -> PhaseSettings | None:
    model = config.model
    if not model.use_phase_attention:
        return None
    return PhaseSettings(
        layers=model.phase_layer_idx,
        num_oscillators=model.num_oscillators,
        coupling_strength=model.coupling_strength,
        natural_freq=model.natural_freq,
        dt=model.dt,
        n_sync_steps=model.n_sync_steps,
    )


def _suite(config: Config, base: Base, split: Split, half: str) -> Suite:
    evaluation = config.evaluation
    text = resolve(evaluation.fluency_text).read_text(encoding="utf-8")
    tokens = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: evaluation.fluency_tokens]
    return Suite(
        metrics=evaluation.metrics,
        pair_ids=tuple(pair.id for pair in split.val),
        prompts=take_prompts(read_prompts(resolve(evaluation.prompts)), half, evaluation.max_prompts),
        fluency_tokens=tuple(tokens),
        beta=config.training.beta,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
    )


def objective_of(config: Config) -> Objective:
    """The training objective that `training.method` names."""
    training = config.training
    if training.method == "lora":
        return Sft()
    dpo = Dpo(training.beta, training.label_smoothing)
    if training.method == "dpo":
        return dpo
    if training.method == "kto" and training.kto_lambda is not None:
        return PenalisedDpo(dpo, training.kto_lambda)
    raise RunError(f"training.method: {training.method} cannot be trained yet")


def trainer_settings(config: Config, device: str) -> TrainerSettings:
    """The loop's numbers from a config."""
    training = config.training
    return TrainerSettings(
        learning_rate=training.learning_rate,
        num_epochs=training.num_epochs,
        max_steps=training.max_steps,
        batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        warmup_ratio=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        lr_scheduler=training.lr_scheduler,
        seed=config.experiment.seed,
        eval_interval=config.evaluation.eval_interval,
        logging_steps=config.logging.logging_steps,
        device=device,
        bf16=training.bf16,
        fp16=training.fp16,
        deterministic=config.experiment.deterministic,
    )
