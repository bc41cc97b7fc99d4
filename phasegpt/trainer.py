"""The training loop: transformers.Trainer with our batches, our objective and our checkpoints.

A checkpoint folder is there whole or not at all and holds the adapter as a PEFT folder (`adapter_model/`), the
tensors under training, the optimizer, the schedule, the random states and the position, so that a run that was cut
goes on exactly. Knows nothing of configs, metrics or search; the objective is a value.
"""

import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phasegpt.files import whole_folder, write_json
from phasegpt.forward import PairModel
from phasegpt.models import load_trainable_state, trainable_state
from phasegpt.objectives import Objective, step_logs
from phasegpt.shared_work import SharedWork

ADAPTER = "adapter_model"
TRAINABLE = "trainable.safetensors"
WHOLE = "complete.json"
log = logging.getLogger("phasegpt")


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the message tells the step. The run ends here instead of recording NaN."""


@dataclass(frozen=True)
class TrainerSettings:
    """The loop's own numbers, named as in transformers. `max_steps` None: `num_epochs` decide; both count optimizer steps."""

    learning_rate: float
    num_epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    lr_scheduler: str
    seed: int
    eval_interval: int
    save_total_limit: int
    device: str = "cpu"
    bf16: bool = False
    fp16: bool = False
    deterministic: bool = True


StepLog = Callable[[int, Mapping[str, float]], None]
AfterSave = Callable[[int, Path], None]


def total_steps(pairs: int, settings: TrainerSettings) -> int:
    """How many optimizer steps a run takes."""
    per_epoch = math.ceil(math.ceil(pairs / settings.batch_size) / settings.gradient_accumulation_steps)
    by_epochs = per_epoch * settings.num_epochs
    return by_epochs if settings.max_steps is None else min(settings.max_steps, by_epochs)


def train(
    model: PairModel,
    shared: SharedWork,
    pair_ids: Sequence[str],
    objective: Objective,
    beta: float,
    settings: TrainerSettings,
    output_dir: Path,
    on_log: StepLog,
    after_save: AfterSave,
) -> int:
    """Train `model` on `pair_ids`, going on from the newest whole checkpoint in `output_dir`; returns the last step.

    `on_log(step, {loss, learning_rate, grad_norm, rewards_…})` after each optimizer step; `after_save(step, folder)`
    after each checkpoint, every `eval_interval` steps and at the end. Raises NonFiniteLossError.
    """
    steps = total_steps(len(pair_ids), settings)
    newest = newest_checkpoint(output_dir)
    if newest is not None and checkpoint_step(newest) >= steps:
        model_state = load_file(newest / TRAINABLE)
        load_trainable_state(model.policy, model_state)
        after_save(steps, newest)
        return steps
    trainer = _PairTrainer(model, shared, pair_ids, objective, beta, settings, steps, output_dir)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Hooks(trainer, on_log, after_save))
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    return int(trainer.state.global_step)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The whole checkpoint with the highest step, or None. Damaged ones are passed over with a warning."""
    for folder in sorted(output_dir.glob("checkpoint-*"), key=checkpoint_step, reverse=True):
        if (folder / WHOLE).is_file():
            return folder
        log.warning("%s is not whole and is passed over", folder)
    return None


def checkpoint_step(folder: Path) -> int:
    """The optimizer step in a checkpoint folder's name."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1


class SeededOrder(Sampler[int]):
    """Each epoch a fresh permutation that depends on the seed and the epoch alone, so that a resumed run sees the same."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


class _PairTrainer(Trainer):  # type: ignore[misc]
    def __init__(
        self,
        model: PairModel,
        shared: SharedWork,
        pair_ids: Sequence[str],
        objective: Objective,
        beta: float,
        settings: TrainerSettings,
        steps: int,
        output_dir: Path,
    ) -> None:
        self.objective = objective
        self.beta = beta
        self.step_values: list[tuple[int, Mapping[str, float]]] = []
        self.step_pairs = 0
        self.eval_interval = settings.eval_interval
        self.final_dir = output_dir
        self.stage_dir: Path | None = None
        self.policy = model.policy
        super().__init__(
            model=model,
            args=_arguments(settings, steps, output_dir),
            train_dataset=list(pair_ids),
            data_collator=_collator(shared, model, objective),
        )
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            sampler=SeededOrder(len(self.train_dataset), self.args.seed),
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_pairs = sum(len(batch["reference_logps"]) // 2 for batch in batches)
        return batches, items

    def compute_loss(
        self,
        model: PairModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the optimizer step's mean loss over pairs, however the step was cut."""
        outputs = model(inputs, with_divergence=self.objective.needs_divergence)
        losses = self.objective.losses(outputs)
        if not bool(torch.isfinite(losses).all()):
            raise NonFiniteLossError(
                f"the loss became {losses.detach().mean().item()} at step {self.state.global_step + 1}; "
                f"lower training.learning_rate or training.max_grad_norm"
            )
        self.step_values.append((len(losses), step_logs(outputs, self.beta)))
        return losses.sum() / self.step_pairs

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay pulls matrices alone: the branch's frequencies, coupling and gate have their own zero."""
        return [name for name, parameter in model.named_parameters() if parameter.dim() > 1]

    def take_step_logs(self) -> dict[str, float]:
        """The means over the pairs since the last call, and forget them."""
        total = sum(count for count, _ in self.step_values)
        names = self.step_values[0][1] if self.step_values else ()
        means = {name: sum(count * logs[name] for count, logs in self.step_values) / total for name in names}
        self.step_values = []
        return means

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.stage_dir or self.final_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers writes into a stage; the whole checkpoint then appears under its name at once."""
        name = f"checkpoint-{self.state.global_step}"
        with whole_folder(self.final_dir / name) as stage:
            self.stage_dir = stage
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.stage_dir = None
            inner = stage / name
            for path in inner.iterdir():
                path.rename(stage / path.name)
            inner.rmdir()
            write_json(stage / WHOLE, {"step": self.state.global_step})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        folder = Path(output_dir or self.final_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.policy), folder / TRAINABLE)
        self.policy.save(folder / ADAPTER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trainable_state(self.policy, load_file(Path(resume_from_checkpoint) / TRAINABLE))


def _collator(
    shared: SharedWork, model: PairModel, objective: Objective
) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    pad_id = int(model.policy.base.tokenizer.pad_token_id)
    with_hidden = objective.needs_divergence
    return lambda pair_ids: shared.batch(pair_ids, pad_id, with_hidden)


def _arguments(settings: TrainerSettings, steps: int, output_dir: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        max_steps=steps,
        warmup_steps=math.ceil(steps * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.lr_scheduler if settings.lr_scheduler != "constant" else "constant_with_warmup",
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=settings.device == "cpu",
        bf16=settings.bf16,
        fp16=settings.fp16,
        full_determinism=settings.deterministic and settings.device != "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


class _Hooks(TrainerCallback):  # type: ignore[misc]
    """Step logs, the evaluation rhythm, and what follows a save; `trainer` is the one it is added to."""

    def __init__(self, trainer: _PairTrainer, on_log: StepLog, after_save: AfterSave) -> None:
        self.trainer, self.on_log_step, self.after_save = trainer, on_log, after_save

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            numbers = {name: float(value) for name, value in logs.items() if name != "epoch"}
            self.on_log_step(state.global_step, {**numbers, **self.trainer.take_step_logs()})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        interval = self.trainer.eval_interval
        control.should_save = state.global_step % interval == 0 or state.global_step >= state.max_steps
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.after_save(state.global_step, self.trainer.final_dir / f"checkpoint-{state.global_step}")


def prune_checkpoints(output_dir: Path, keep: Sequence[Path], limit: int) -> None:
    """Remove old checkpoints: those in `keep` and the newest stay, and at most `limit` in all where that leaves room."""
    folders = sorted(output_dir.glob("checkpoint-*"), key=checkpoint_step, reverse=True)
    kept = [folder for index, folder in enumerate(folders) if folder in keep or index == 0]
    spare = [folder for folder in folders if folder not in kept]
    for folder in spare[max(0, limit - len(kept)) :]:
        shutil.rmtree(folder)
