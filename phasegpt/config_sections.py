"""The sections of a run: every key with its type and default, and the combinations within a section that cannot run.

configs/v14/README.md says what each key does; the `search:` block is in `config_search`.
"""

from typing import Annotated, Literal

from pydantic import Field, Strict

from phasegpt.config_types import (
    Count,
    Fraction,
    LoraLayers,
    NotNegative,
    Part,
    PhaseLayers,
    Positive,
    Problems,
    Strata,
    Text,
    Texts,
)
from phasegpt.key_paths import KeyPath


class Lora(Part):
    """Low-rank adapters, as in PEFT."""

    r: Count = 16
    lora_alpha: Count = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[Texts, Field(min_length=1)] = ("q_proj", "k_proj", "v_proj", "o_proj")
    bias: Literal["none", "all", "lora_only"] = "none"
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    layers_to_transform: LoraLayers = None

    def problems(self) -> Problems:
        if self.bias != "none":
            yield (
                "bias",
                f"{self.bias} would train the base model's own biases, which taking the adapter off does not undo: the "
                f"reference would move with the policy; take none",
            )


class Model(Part):
    """The base model, its adapters and its phase branch."""

    base_model: Text
    use_phase_attention: bool = False
    phase_layer_idx: PhaseLayers = ("0.3",)
    num_oscillators: Count = 32
    coupling_strength: NotNegative = 1.0
    natural_freq: float = 1.0
    dt: Positive = 0.1
    n_sync_steps: Count = 5
    use_gradient_checkpointing: bool = False
    lora_config: Lora = Lora()

    def problems(self) -> Problems:
        if self.use_phase_attention and not self.phase_layer_idx:
            yield (
                "phase_layer_idx",
                'use_phase_attention is true but no layer is given; write [7], or ["0.3"] of the depth',
            )


class LambdaSchedule(Part):
    """λ moving over the steps of a run."""

    enabled: bool = False
    initial_lambda: NotNegative | None = None
    final_lambda: NotNegative | None = None
    schedule_type: Literal["linear", "cosine"] = "linear"

    def problems(self) -> Problems:
        ends = {"initial_lambda": self.initial_lambda, "final_lambda": self.final_lambda}
        missing = [name for name, value in ends.items() if value is None]
        if self.enabled and missing:
            yield "enabled", f"a schedule needs both ends; give {' and '.join(missing)} beside it, e.g. 0.5 and 0.05"


class KtoConfig(Part):
    """The divergence that `kto` adds to the DPO loss."""

    kl_temperature: Positive = 1.0
    kl_penalty_type: Literal["kl", "reverse_kl", "js_divergence"] = "kl"
    log_kl_components: bool = False
    lambda_schedule: LambdaSchedule = LambdaSchedule()


class CurriculumStage(Part):
    """One step from easy to hard: trains on the easiest `data_fraction`."""

    name: Text
    epochs: Count
    data_fraction: Annotated[float, Field(gt=0, le=1)]


class Curriculum(Part):
    """Easy pairs first."""

    enabled: bool = False
    stages: Annotated[tuple[CurriculumStage, ...], Strict(False)] = ()

    @property
    def active(self) -> tuple[CurriculumStage, ...]:
        """The stages of a curriculum that is enabled; none where it is not."""
        return self.stages if self.enabled else ()

    def problems(self) -> Problems:
        if self.enabled and not self.stages:
            yield "enabled", "a curriculum needs stages; give some, e.g. {name: easy, epochs: 1, data_fraction: 0.3}"


class Stage(Part):
    """What phase_a or phase_b sets differently from `training`; None keeps training's value."""

    method: Literal["lora", "dpo", "kto", "kto_unpaired"] | None = None
    num_epochs: Count | None = None
    max_steps: Count | None = None
    learning_rate: Positive | None = None
    batch_size: Count | None = None
    gradient_accumulation_steps: Count | None = None
    beta: Positive | None = None


class Distributed(Part):
    """Several workers for one run: `num_gpus` of them, with a GPU each where the cluster has any."""

    enabled: bool = False
    strategy: Literal["ddp", "deepspeed", "fsdp"] = "ddp"
    num_gpus: Count = 1

    @property
    def workers(self) -> int:
        """How many workers share a run."""
        return self.num_gpus if self.enabled else 1


class Training(Part):
    """The objective and the optimiser."""

    method: Literal["dpo", "kto", "kto_unpaired", "lora"]
    preference_dataset: Text
    reference_model: Text | None = None
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    kto_lambda: NotNegative | None = None
    kto_config: KtoConfig = KtoConfig()
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0
    learning_rate: Positive = 5e-5
    num_epochs: Count = 3
    max_steps: Count | None = None
    batch_size: Count = 4
    gradient_accumulation_steps: Count = 8
    warmup_ratio: Fraction = 0.1
    weight_decay: NotNegative = 0.01
    max_grad_norm: Positive = 1.0
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    fp16: bool = False
    bf16: bool = False
    max_length: Count = 512
    max_prompt_length: Count = 128
    curriculum_learning: Curriculum = Curriculum()
    deepspeed_config: Text | None = None
    phase_a: Stage | None = None
    phase_b: Stage | None = None
    distributed: Distributed = Distributed()

    @property
    def micro_batch(self) -> int:
        """The examples of a micro-batch, of all workers together: each has `batch_size` of them."""
        return self.batch_size * self.distributed.workers

    def problems(self) -> Problems:
        scheduled = self.kto_config.lambda_schedule.enabled
        if self.method == "kto" and self.kto_lambda is None and not scheduled:
            yield "kto_lambda", "method kto needs a weight; give training.kto_lambda, e.g. 0.1"
        if scheduled:
            yield from self._schedule_problems()
        if is_text(self.preference_dataset):
            yield from self._text_problems()
        if self.curriculum_learning.enabled and self.method == "kto_unpaired":
            yield (
                ("curriculum_learning", "enabled"),
                "kto_unpaired trains on answers, and the order from easy to hard is one of pairs; set it to false",
            )
        if self.fp16 and self.bf16:
            yield "bf16", "fp16 and bf16 are both true; choose one"
        if self.max_prompt_length >= self.max_length:
            yield (
                "max_prompt_length",
                f"expected fewer tokens than max_length ({self.max_length}), found {self.max_prompt_length}",
            )
        if self.method == "kto_unpaired":
            yield from self._baseline_problems()
        if self.deepspeed_config and self.distributed.strategy != "deepspeed":
            yield (
                "deepspeed_config",
                f"read by training.distributed.strategy deepspeed alone, found {self.distributed.strategy}; set that "
                f"strategy or remove the file",
            )
        if self.method == "kto_unpaired" and self.distributed.strategy == "fsdp":
            yield (
                ("distributed", "strategy"),
                "kto_unpaired runs the model more often on workers with mismatched pairs, and fsdp must run it equally "
                "often on all; take ddp",
            )
        yield from self._phase_problems()

    def _text_problems(self) -> Problems:
        if self.method != "lora" or self.phase_b is not None:
            yield "preference_dataset", f"a text holds no preferences; only method lora takes one, found {self.method}"
        elif self.curriculum_learning.enabled:
            yield ("curriculum_learning", "enabled"), "a text has no easy and hard pairs; set it to false"

    def _schedule_problems(self) -> Problems:
        place = ("kto_config", "lambda_schedule", "enabled")
        if self.method != "kto":
            yield place, f"only method kto has a λ that can move, found method {self.method}; remove the schedule"
        elif self.kto_lambda is not None:
            yield place, f"the schedule sets λ, and so does kto_lambda ({self.kto_lambda}); set kto_lambda to null"

    def _baseline_problems(self) -> Problems:
        """kto_unpaired estimates its KL baseline from the rows of one batch, which is then the whole step."""
        phase = self.phase_b or Stage()
        batch_size = phase.batch_size or self.batch_size
        if batch_size * self.distributed.workers < 2:
            yield (
                _place("batch_size", phase.batch_size),
                f"kto_unpaired pairs each prompt with another row's answer; expected at least 2, found {batch_size}",
            )
        accumulation = phase.gradient_accumulation_steps or self.gradient_accumulation_steps
        if accumulation != 1:
            yield (
                _place("gradient_accumulation_steps", phase.gradient_accumulation_steps),
                f"the KL baseline of kto_unpaired is a statistic of one batch, so that several small batches are no "
                f"large one; expected 1, found {accumulation}; raise batch_size instead",
            )

    def _phase_problems(self) -> Problems:
        if (self.phase_a is None) != (self.phase_b is None):
            given, missing = ("phase_a", "phase_b") if self.phase_b is None else ("phase_b", "phase_a")
            yield given, f"{given} needs {missing}; give both or neither"
        if self.phase_a and (self.phase_a.method not in (None, "lora") or self.phase_a.beta is not None):
            yield "phase_a", "expected method lora without a beta: phase_a is the supervised stage"
        if self.phase_b and (self.phase_b.method == "lora" or self.phase_b.method not in (None, self.method)):
            yield (
                "phase_b",
                f"expected the method of training ({self.method}), found {self.phase_b.method}; make them equal",
            )
        if self.phase_b and self.method == "lora":
            yield "method", "expected dpo, kto or kto_unpaired beside phase_b, found lora"


def is_text(source: str) -> bool:
    """Whether a dataset is a plain text to fine-tune on, by its name: it ends in .txt."""
    return source.endswith(".txt")


REGISTRY = "models:/"
REFERENCE, BASELINE = "training.reference_model", "evaluation.baseline_checkpoint"
"""The keys that may name a model of the registry."""


def is_registered(name: str) -> bool:
    """Whether the name of a model is an address of the model registry."""
    return name.startswith(REGISTRY)


def _place(key: str, of_phase: int | None) -> str | KeyPath:
    """Where a value that phase_b may replace was given."""
    return key if of_phase is None else ("phase_b", key)


class Data(Part):
    """How the pairs are split and labelled."""

    train_split: Fraction = 0.85
    val_split: Fraction = 0.15
    stratify_by: Strata = ("domain", "complexity", "subtlety")
    domains: Texts = ("philosophy", "science", "social", "artistic")

    def problems(self) -> Problems:
        if abs(self.train_split + self.val_split - 1) > 1e-9:
            yield "train_split", f"train_split and val_split must sum to 1, found {self.train_split} + {self.val_split}"


class Evaluation(Part):
    """What is measured, how often and on what."""

    metrics: Texts = (
        "spiral_score",
        "subtlety",
        "perplexity",
        "eval_loss",
        "reward_margin",
        "reward_accuracy",
        "kl_divergence",
    )
    eval_interval: Count = 100
    save_best_only: bool = True
    held_out_domains: Texts = ("artistic",)
    metric_for_best_model: Text = "spiral_score"
    save_total_limit: Count = 5
    baseline_checkpoint: Text | None = None
    prompts: Text = "data/eval_prompts.jsonl"
    max_prompts: Count | None = None
    fluency_text: Text = "data/fluency.txt"
    fluency_tokens: Count = 3000
    max_new_tokens: Count = 128
    batch_size: Count = 16


class Logging(Part):
    """Where a run writes and how often."""

    wandb_project: Text = "phasegpt-v14"
    wandb_run_name: Text | None = None
    use_wandb: bool = False
    output_dir: Text | None = None
    logging_steps: Count = 1
    track_phase_dynamics: bool = False
    phase_log_interval: Count = 10


class Experiment(Part):
    """Name, seed and device of a run."""

    name: Text | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = True


class SharedWork(Part):
    """What the trials of a search share, in GB at most."""

    max_gb: NotNegative = 20.0
