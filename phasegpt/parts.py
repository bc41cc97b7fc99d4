"""From a config to the parts of a run: base, policy, shared work, split, suite, objective, the loop's numbers.

The only place where parts learn what the config says; each of them takes plain arguments.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from phasegpt import ranks
from phasegpt.adapters import PhaseSettings
from phasegpt.answers import UNPAIRED_METHOD, Couples
from phasegpt.base_model import ModelError
from phasegpt.bundled import BundledModelError, ensure_bundled
from phasegpt.checkpoints import adapter_folder
from phasegpt.config import Config
from phasegpt.config_io import project_root, resolve
from phasegpt.config_sections import REFERENCE, is_registered, is_text
from phasegpt.determinism import choose_kernels
from phasegpt.evaluate import Suite
from phasegpt.forward import PairModel
from phasegpt.material import Material, TextSource, source_of
from phasegpt.metrics import preference
from phasegpt.metrics.declared import is_own
from phasegpt.metrics.fluency import Prose, prose_of
from phasegpt.metrics.own import OwnMetric, load_own
from phasegpt.metrics.text import JUDGED, scorer
from phasegpt.models import Base, LoraSettings, attach_policy, load_base
from phasegpt.objectives import Dpo, Kto, Objective, PenalisedDpo, ScheduledDpo, Sft, TextSft
from phasegpt.pairs import read_prompts, take_prompts
from phasegpt.runs import RunPaths
from phasegpt.schedule import Course
from phasegpt.shared_store import Progress, SharedStore
from phasegpt.trainer import TrainerSettings

DEEPSPEED_DEFAULT = "ds_config.json"


class RunError(ValueError):
    """A run that cannot be done as asked on this machine; the message names the key and the cure."""


class Workbench:
    """What stays warm in a process between fits: one base model, loaded when first asked for, and shared work."""

    def __init__(self) -> None:
        self._key: tuple[str, torch.dtype, str] | None = None
        self._base: Base | None = None
        self._store: SharedStore | None = None

    def base(self, config: Config) -> Base:
        """The base model of `config` on its device; another model than the last one takes its place."""
        device = device_of(config)
        dtype = torch.bfloat16 if config.training.bf16 else torch.float16 if config.training.fp16 else torch.float32
        key = (config.model.base_model, dtype, device)
        choose_kernels(device, deterministic=config.experiment.deterministic)
        if self._base is None or self._key != key:
            self._base = None
            self._base = load_base(config.model.base_model, project_root(), dtype, device)
            self._key = key
        return self._base

    def store(self, folder: Path, max_gb: float) -> SharedStore:
        """The shared work under `folder`; another folder or budget than the last one takes its place."""
        if self._store is None or (self._store.folder, self._store.max_gb) != (folder, max_gb):
            self._store = SharedStore(folder, max_gb)
        return self._store


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
    """A stage ready to run: what it trains on, and its suite; `judged` is the policy, seen by pairs under plain KL."""

    config: Config
    material: Material
    judged: PairModel
    suite: Suite
    hashes: Mapping[str, str]


@contextmanager
def set_up(
    config: Config, paths: RunPaths, bench: Workbench, half: str, on_progress: Progress | None
) -> Iterator[SetUp]:
    source, with_divergence = source_of(config), objective_of(config).needs_divergence
    base = bench.base(config)
    suite = suite_of(config, base, source.couples, half)
    if isinstance(source, TextSource):
        _check_measured(config)
    reference = reference_adapter(config, paths)
    policy = attach_policy(
        base,
        _lora(config),
        config.experiment.seed,
        reference,
        _phase(config),
        gradient_checkpointing=config.model.use_gradient_checkpointing,
    )
    try:
        store = bench.store(paths.shared_work, config.shared_work.max_gb)
        with ranks.first_ahead():  # to make the shared work, which the others read
            material = source.material(policy, store, on_progress, with_divergence=with_divergence)
            suite = replace(suite, prose=suite.prose.share(store, policy))
        hashes = {
            **material.hashes,
            "base_model": base.fingerprint,
            "reference_adapter": policy.reference,
            "scorer": scorer(),
        }
        yield SetUp(config, material, PairModel(policy), suite, hashes)
    finally:
        policy.detach()


def _check_measured(config: Config) -> None:
    """Raises RunError where a run on a text would choose its checkpoint by what only pairs can measure."""
    best = config.evaluation.metric_for_best_model
    if best in preference.NAMES and best != "eval_loss":
        raise RunError(
            f"evaluation.metric_for_best_model: {best} is measured on pairs, and a text has none; "
            f"take eval_loss, perplexity or a metric of answers"
        )


def reference_adapter(config: Config, paths: RunPaths) -> Path | None:
    """The folder of training.reference_model; dpo does without a missing one, of which the config has warned."""
    name = config.training.reference_model
    if not name or (config.training.method == "dpo" and not is_registered(name) and not resolve(name).is_dir()):
        return None
    return adapter_folder(REFERENCE, name, paths.references, config.model.base_model)


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


def suite_of(config: Config, base: Base, couples: Couples, half: str) -> Suite:
    """What an evaluation under this config looks at.

    Raises ModelError where the judge of a metric cannot be had, RunError where the prose for perplexity cannot.
    """
    evaluation = config.evaluation
    if judged := sorted(JUDGED.intersection(evaluation.metrics)):
        _ensure_judge(judged)
    return Suite(
        metrics=evaluation.metrics,
        pair_ids=tuple(couples),
        prompts=take_prompts(read_prompts(resolve(evaluation.prompts)), half, evaluation.max_prompts),
        prose=_prose(config, base) if "perplexity" in evaluation.metrics else prose_of(()),
        beta=config.training.beta,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        own=own_metrics(config),
    )


def _prose(config: Config, base: Base) -> Prose:
    """The neutral prose. Raises RunError where the file is no text, or gives too little of it to score."""
    path, most = resolve(config.evaluation.fluency_text), config.evaluation.fluency_tokens
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(
            f"evaluation.fluency_text: {path} is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from error
    tokens = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:most]
    if len(tokens) < 2:
        raise RunError(
            f"evaluation.fluency_text: {path} gives {len(tokens)} of at most {most} tokens "
            f"(evaluation.fluency_tokens), and perplexity needs two; give more, or leave it out of evaluation.metrics"
        )
    return prose_of(tokens)


def _ensure_judge(metrics: Sequence[str]) -> None:
    try:
        ensure_bundled()
    except BundledModelError as error:
        raise ModelError(
            f"evaluation.metrics: {' and '.join(metrics)} ask the bundled model, which cannot be had: {error}; "
            f"spiral_lexical does without it"
        ) from error


def own_metrics(config: Config) -> tuple[OwnMetric, ...]:
    """The user's own metrics, imported by the names in the config."""
    best, objectives = config.evaluation.metric_for_best_model, config.search.objectives
    metrics = tuple(load_own(name, objectives.get(name)) for name in config.evaluation.metrics if is_own(name))
    if any(metric.name == best and metric.better is None for metric in metrics):
        raise RunError(
            f"evaluation.metric_for_best_model: {best} does not say which way is better; give the function an "
            f"attribute direction = 'max' or 'min', or name it in search.objectives"
        )
    return metrics


def objective_of(config: Config) -> Objective[Any]:
    """The training objective that `training.method` names."""
    training = config.training
    if training.method == "lora":
        return TextSft() if is_text(training.preference_dataset) else Sft()
    if training.method == UNPAIRED_METHOD:
        return Kto(training.beta, training.desirable_weight, training.undesirable_weight, ranks.joined)
    dpo = Dpo(training.beta, training.label_smoothing)
    if training.method == "dpo":
        return dpo
    schedule, log_components = training.kto_config.lambda_schedule, training.kto_config.log_kl_components
    if schedule.enabled and schedule.initial_lambda is not None and schedule.final_lambda is not None:
        course = Course(schedule.initial_lambda, schedule.final_lambda, schedule.schedule_type)
        return ScheduledDpo(dpo, course, log_components)
    if training.kto_lambda is not None:
        return PenalisedDpo(dpo, training.kto_lambda, log_components)
    raise RunError(f"training.kto_lambda: method {training.method} needs a weight, such as 0.1")


def trainer_settings(config: Config, device: str) -> TrainerSettings:
    """The loop's numbers from a config."""
    training = config.training
    return TrainerSettings(
        learning_rate=training.learning_rate,
        num_epochs=training.num_epochs,
        max_steps=training.max_steps,
        batch_size=training.micro_batch,
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
        curriculum=training.curriculum_learning.active,
        phase_log_interval=config.logging.phase_log_interval if config.logging.track_phase_dynamics else None,
        strategy=training.distributed.strategy,
        deepspeed_config=deepspeed_config(config),
    )


def deepspeed_config(config: Config) -> Path | None:
    """DeepSpeed's file of a run under it: as named, or of that name in configs/. Raises RunError without one."""
    training = config.training
    if training.distributed.strategy != "deepspeed":
        return None
    name = training.deepspeed_config or DEEPSPEED_DEFAULT
    places = (resolve(name), resolve(f"configs/{name}"))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RunError(f"training.deepspeed_config: expected a file, found none at {places[0]} or {places[1]}")
    if importlib.util.find_spec("deepspeed") is None:
        raise RunError(
            'training.distributed.strategy: deepspeed is not installed; pip install "phasegpt-tune[deepspeed]"'
        )
    return found
