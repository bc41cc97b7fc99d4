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

from phasegpt.files import read_json, whole_folder, write_json
from phasegpt.forward import PairModel
from phasegpt.models import load_trainable_state, trainable_state
from phasegpt.objectives import Objective, PairOutputs, step_logs
from phasegpt.schedule import optimizer_steps
from phasegpt.shared_work import SharedWork

ADAPTER = "adapter_model"
TRAINABLE = "trainable.safetensors"
WHOLE = "complete.json"
STATE = "trainer_state.json"
log = logging.getLogger("phasegpt")


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became NaN or infinite; the message tells the step. Nothing of it is recorded."""


class ReferenceMismatchError(ValueError):
    """A policy that has not been trained yet is not the reference; the message tells the pair and the cure."""


@dataclass(frozen=True)
class TrainerSettings:
    """The loop's own numbers, named as in transformers; `max_steps` None: `num_epochs` decide."""

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
    logging_steps: int = 1
    device: str = "cpu"
    bf16: bool = False
    fp16: bool = False
    deterministic: bool = True


StepLog = Callable[[int, Mapping[str, float]], None]
AfterSave = Callable[[int, Path], None]


def total_steps(pairs: int, settings: TrainerSettings) -> int:
    """How many optimizer steps a run takes."""
    return optimizer_steps(
        pairs, settings.batch_size, settings.gradient_accumulation_steps, settings.num_epochs, settings.max_steps
    )


def train(
    model: PairModel,
    shared: SharedWork,
    pair_ids: Sequence[str],
    objective: Objective,
    *,
    beta: float,
    settings: TrainerSettings,
    output_dir: Path,
    on_log: StepLog,
    after_save: AfterSave,
) -> int:
    """Train `model` on `pair_ids`, going on from the newest whole checkpoint in `output_dir`; returns the last step.

    `on_log(step, {loss, learning_rate, grad_norm, rewards_…})` after each optimizer step; `after_save(step, folder)`
    after each checkpoint, every `eval_interval` steps and at the end, and for the one that a run goes on from, since
    the cut may have come right after its save. Raises NonFiniteLossError, ReferenceMismatchError.
    """
    steps = total_steps(len(pair_ids), settings)
    newest = newest_checkpoint(output_dir)
    if newest is not None:
        load_trainable_state(model.policy, load_file(newest / TRAINABLE))
        after_save(checkpoint_step(newest), newest)
        if checkpoint_step(newest) >= steps:
            return checkpoint_step(newest)
    trainer = _PairTrainer(
        model, shared, pair_ids, objective, beta=beta, settings=settings, steps=steps, output_dir=output_dir
    )
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


def step_history(checkpoint: Path) -> list[dict[str, float]]:
    """{step, loss, learning_rate, grad_norm, rewards_…} of every optimizer step up to a checkpoint, cuts or not."""
    rows = [row for row in read_json(checkpoint / STATE)["log_history"] if "loss" in row]
    return [{name: value for name, value in row.items() if name != "epoch"} for row in rows]


def check_start(outputs: PairOutputs, pair_ids: Sequence[str], *, half_precision: bool) -> None:
    """Raises ReferenceMismatchError where a policy before its first step is not the reference (DESIGN decision 4).

    Two passes over one sequence differ by rounding: 1e-3 + 1e-5·|log-prob| is allowed, in half precision
    0.5 + 5e-2·|log-prob|.
    """
    policy = torch.cat([outputs.policy_chosen_logps, outputs.policy_rejected_logps]).detach()
    reference = torch.cat([outputs.reference_chosen_logps, outputs.reference_rejected_logps])
    absolute, relative = (0.5, 5e-2) if half_precision else (1e-3, 1e-5)
    apart = (policy - reference).abs() > absolute + relative * policy.abs()
    for row in apart.nonzero()[:, 0].tolist()[:1]:
        answer, pair_id = ("chosen", "rejected")[row // len(pair_ids)], pair_ids[row % len(pair_ids)]
        raise ReferenceMismatchError(
            f"before the first step the policy gives the {answer} answer of pair {pair_id} the log-prob "
            f"{policy[row].item():.4f}, the reference {reference[row].item():.4f}; the shared work or the reference "
            f"adapter does not belong to this model: remove the shared work and check training.reference_model"
        )


class SeededOrder(Sampler[int]):
    """Each epoch a fresh permutation, of the seed and the epoch alone, so that a resumed run sees the same."""

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
        *,
        beta: float,
        settings: TrainerSettings,
        steps: int,
        output_dir: Path,
    ) -> None:
        self.pair_ids = pair_ids
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
            train_dataset=list(range(len(pair_ids))),
            data_collator=_collator(shared, pair_ids, model, objective),
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
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

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
        if self.state.global_step == 0:
            names = [self.pair_ids[row] for row in inputs["rows"].tolist()]
            check_start(outputs, names, half_precision=self.args.bf16 or self.args.fp16)
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What transformers logs of a step with what the objective says of it; checkpoints keep both."""
        super().log({**logs, **self.take_step_logs()} if "loss" in logs else logs, start_time)

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
    shared: SharedWork, pair_ids: Sequence[str], model: PairModel, objective: Objective
) -> Callable[[Sequence[int]], dict[str, Tensor]]:
    """Rows of `pair_ids` -> a batch of shared work that also says which rows it holds."""
    pad_id = int(model.policy.base.tokenizer.pad_token_id)

    def collate(rows: Sequence[int]) -> dict[str, Tensor]:
        batch = shared.batch([pair_ids[row] for row in rows], pad_id, with_hidden=objective.needs_divergence)
        return {**batch, "rows": torch.tensor(rows)}

    return collate


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
        logging_steps=settings.logging_steps,
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
            self._refuse_non_finite_gradient(args, state.global_step, numbers)
            self.on_log_step(state.global_step, numbers)

    def _refuse_non_finite_gradient(self, args: TrainingArguments, step: int, numbers: Mapping[str, float]) -> None:
        """Before the checkpoint is written; fp16 is left alone, whose loss scaler skips such steps by itself."""
        norm = numbers.get("grad_norm", 0.0)
        if not args.fp16 and not math.isfinite(norm):
            raise NonFiniteLossError(f"the gradient became {norm} at step {step}; lower training.learning_rate")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        interval = self.trainer.eval_interval
        control.should_save = state.global_step % interval == 0 or state.global_step >= state.max_steps
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.after_save(state.global_step, self.trainer.final_dir / f"checkpoint-{state.global_step}")


def prune_checkpoints(output_dir: Path, keep: Sequence[Path], limit: int) -> None:
    """Remove old checkpoints: those in `keep` and the newest stay, and as many more as make `limit` in all."""
    whole = [folder for folder in output_dir.glob("checkpoint-*") if (folder / WHOLE).is_file()]
    folders = sorted(whole, key=checkpoint_step, reverse=True)
    kept = [folder for index, folder in enumerate(folders) if folder in keep or index == 0]
    spare = [folder for folder in folders if folder not in kept]
    for folder in spare[max(0, limit - len(kept)) :]:
        shutil.rmtree(folder)
