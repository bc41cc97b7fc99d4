"""The training loop: transformers.Trainer with our examples, our objective and our checkpoints.

Several workers may share a run: each micro-batch is dealt out among them and counts as if one worker had it all, so
that the losses and the weights do not depend on their number. The first of them writes.

A checkpoint folder is there whole or not at all and holds the adapter as a PEFT folder (`adapter_model/`), the
tensors under training, the optimizer, the schedule and the position, so that a run that was cut goes on exactly.
Random numbers need no keeping: those of a step follow from seed, step and worker. Knows nothing of configs, metrics or
search; the objective is a value.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phasegpt import ranks
from phasegpt.checkpoint_files import ADAPTER, TRAINABLE, checkpoint_step, newest_checkpoint, seal
from phasegpt.config_sections import CurriculumStage
from phasegpt.epochs import LapsTrainer, SeededOrder
from phasegpt.examples import Examples
from phasegpt.files import whole_folder
from phasegpt.forward import AnswerModel, PairModel, TextModel
from phasegpt.meters import Meter
from phasegpt.models import Policy, load_adapter, load_trainable_state, trainable_state
from phasegpt.objectives import Objective
from phasegpt.phase_dynamics import PhaseDynamics
from phasegpt.schedule import Lap, laps, optimizer_steps
from phasegpt.shards import part_of_state, shard_layers, whole, whole_state

NUMBERS, WHOLE = "numbers", "whole"
"""Where a batch says which examples it holds, and how many the micro-batch holds that it is a worker's part of."""

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # as transformers names them


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became NaN or infinite; the message tells the step. Nothing of it is recorded."""


class ReferenceMismatchError(ValueError):
    """A policy that has not been trained yet is not the reference; the message tells the answer and the cure."""


@dataclass(frozen=True)
class TrainerSettings:
    """The loop's own numbers, named as in transformers; `max_steps` None: the epochs decide.

    `batch_size` counts the examples of a micro-batch, of all workers together. The stages of a `curriculum` have
    epochs of their own, which take the place of `num_epochs`. `strategy` says how several workers hold the model: ddp,
    fsdp, or deepspeed with its `deepspeed_config`. Every `phase_log_interval` steps the phase branch is noted, if there
    is one; None: never.
    """

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
    curriculum: tuple[CurriculumStage, ...] = ()
    phase_log_interval: int | None = None
    strategy: str = "ddp"
    deepspeed_config: Path | None = None


StepLog = Callable[[int, Mapping[str, float]], None]
AfterSave = Callable[[int, Path], None]


def laps_of(examples: Examples, settings: TrainerSettings) -> tuple[Lap, ...]:
    """The laps of a run over these examples, which lie from easy to hard where there is a curriculum."""
    return laps(len(examples), settings.num_epochs, settings.curriculum)


def total_steps(examples: Examples, settings: TrainerSettings) -> int:
    """How many optimizer steps a run takes."""
    run = laps_of(examples, settings)
    return optimizer_steps(run, settings.batch_size, settings.gradient_accumulation_steps, settings.max_steps)


def train(
    model: PairModel | AnswerModel | TextModel,
    examples: Examples,
    objective: Objective[Any],
    *,
    settings: TrainerSettings,
    output_dir: Path,
    on_log: StepLog,
    after_save: AfterSave,
    meter: Meter | None = None,
    start: Path | None = None,
) -> int:
    """Train `model` on `examples`, going on from the newest whole checkpoint in `output_dir`; returns the last step.

    Model, examples and objective belong together: all three for pairs, for answers, or for a text. `start` is an
    adapter folder with the weights to begin with, in place of the reference's.
    `on_log(step, {loss, learning_rate, grad_norm, rewards_…})` after each optimizer step; `after_save(step, folder)`
    after each checkpoint, every `eval_interval` steps and at the end, and for the one that a run goes on from, since
    the cut may have come right after its save. Every worker of a run calls this with the same arguments and gets the
    same calls. Raises NonFiniteLossError, ReferenceMismatchError.
    """
    steps = total_steps(examples, settings)
    dynamics = _dynamics(model.policy, settings)  # before a checkpoint is laid on: K and ω are at their start
    newest = ranks.agreed(newest_checkpoint(output_dir))
    if newest is not None:
        load_trainable_state(model.policy, load_file(newest / TRAINABLE))
        after_save(checkpoint_step(newest), newest)
        if checkpoint_step(newest) >= steps:
            return checkpoint_step(newest)
    elif start is not None:
        load_adapter(model.policy, start)
    trainer = _Trainer(
        model, examples, objective, settings=settings, steps=steps, output_dir=output_dir, meter=meter or Meter()
    )
    trainer.begins_at_reference = start is None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Hooks(trainer, on_log, after_save))
    if dynamics is not None:
        trainer.add_callback(dynamics.telling(trainer.step_values.append))
    try:
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    except UnpicklingError as error:
        raise ValueError(
            f"{newest}: {OPTIMIZER} or {SCHEDULER} is damaged, or holds more than tensors and numbers; "
            f"remove that folder, and the run goes on from the checkpoint before it"
        ) from error
    return int(trainer.state.global_step)


def _dynamics(policy: Policy, settings: TrainerSettings) -> PhaseDynamics | None:
    if policy.phase is None or settings.phase_log_interval is None:
        return None
    return PhaseDynamics(policy.phase.branches, settings.phase_log_interval)


def check_start(policy_logps: Tensor, reference_logps: Tensor, names: Sequence[str], *, half_precision: bool) -> None:
    """Raises ReferenceMismatchError where a policy before its first step is not the reference.

    Log-probs [S] of the sequences that `names` names. Two passes over one sequence differ by rounding: 1e-3 +
    1e-5·|log-prob| is allowed, in half precision 0.5 + 5e-2·|log-prob|.
    """
    policy = policy_logps.detach()
    absolute, relative = (0.5, 5e-2) if half_precision else (1e-3, 1e-5)
    apart = (policy - reference_logps).abs() > absolute + relative * policy.abs()
    for row in apart.nonzero()[:, 0].tolist()[:1]:
        raise ReferenceMismatchError(
            f"before the first step the policy gives {names[row]} the log-prob {policy[row].item():.4f}, the reference "
            f"{reference_logps[row].item():.4f}; the shared work or the reference adapter does not belong to this "
            f"model: remove the shared work and check training.reference_model"
        )


def own_part(examples: Examples, numbers: Sequence[int]) -> dict[str, Tensor]:
    """This worker's part of a micro-batch, with NUMBERS [own] and WHOLE [].

    A worker that gets none of it computes the first example, of which `none_of` leaves nothing: all workers must take
    part in adding up the gradients.
    """
    own = ranks.dealt(numbers)
    batch = examples.batch(own, numbers) if own else examples.batch(numbers[:1], ())
    return {**batch, NUMBERS: torch.tensor(own, dtype=torch.int64), WHOLE: torch.tensor(len(numbers))}


def none_of(outputs: Any) -> Any:
    """Outputs without a row, on which the gradients of all parameters are zero."""
    values = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    return replace(outputs, **{name: value[:0] for name, value in values.items() if isinstance(value, Tensor)})


class _Trainer(LapsTrainer):
    def __init__(
        self,
        model: PairModel | AnswerModel | TextModel,
        examples: Examples,
        objective: Objective[Any],
        *,
        settings: TrainerSettings,
        steps: int,
        output_dir: Path,
        meter: Meter,
    ) -> None:
        self.examples = examples
        self.objective = objective
        self.meter = meter
        self.step_values: list[Mapping[str, Tensor]] = []
        self.step_examples = 0
        self.eval_interval = settings.eval_interval
        self.final_dir = output_dir
        self.stage_dir: Path | None = None
        self.begins_at_reference = True
        self.policy = model.policy
        self.sharded = settings.strategy == "fsdp" and ranks.size() > 1
        if self.sharded:  # transformers then wraps nothing around a model whose parameters reduce their own gradients
            model.is_distributed_loading_by_transformers = True  # type: ignore[assignment]
        run = laps_of(examples, settings)
        super().__init__(
            laps=run,
            order=SeededOrder(run, settings.seed),
            batch_size=settings.batch_size,
            model=model,
            args=_arguments(settings, steps, output_dir),
            train_dataset=list(range(len(examples))),
            data_collator=lambda numbers: own_part(examples, numbers),
        )
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Each worker goes over all numbers and takes its part: accelerate would deal them out with repetitions."""
        return DataLoader(
            self.train_dataset, batch_size=self.batch_size, sampler=self.order, collate_fn=self.data_collator
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_examples = sum(int(batch[WHOLE]) for batch in batches)
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the optimizer step's mean loss over examples, however the step was cut.

        Times the number of workers, since their gradients are averaged.
        """
        own = inputs[NUMBERS].tolist()
        self.meter.count(inputs, len(own))
        outputs = self.examples.outputs(model, inputs)
        if not own:
            outputs = none_of(outputs)
        if self.begins_at_reference and self.state.global_step == 0 and outputs.reference_logps is not None:
            names, half_precision = self.examples.names(own), self.args.bf16 or self.args.fp16
            check_start(outputs.policy_logps, outputs.reference_logps, names, half_precision=half_precision)
        objective = self.objective.at(self.state.global_step + 1, self.args.max_steps)
        losses = objective.losses(outputs)
        if not bool(torch.isfinite(losses).all()):
            raise NonFiniteLossError(
                f"the loss became {losses.detach().mean().item()} at step {self.state.global_step + 1}; "
                f"lower training.learning_rate or training.max_grad_norm"
            )
        self.step_values.append(objective.logs(outputs))
        return losses.sum() * ranks.size() / self.step_examples

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """After the shards are cut: it holds the moments of this worker's part alone."""
        if self.sharded:
            shard_layers(self.policy)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay pulls matrices alone: the branch's frequencies, coupling and gate have their own zero."""
        return [name for name, parameter in model.named_parameters() if parameter.dim() > 1]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What transformers logs of a step with what the objective says of it; checkpoints keep both."""
        super().log({**logs, **self.take_step_logs()} if "loss" in logs else logs, start_time)

    def take_step_logs(self) -> dict[str, float]:
        """The means of what objective and branch have logged on all workers since the last call, and forget it."""
        own = [{name: value.cpu() for name, value in logs.items()} for logs in self.step_values]
        logged = list(chain(*ranks.everyones(own)))
        names = dict.fromkeys(name for logs in logged for name in logs)
        values = {name: torch.cat([logs[name] for logs in logged if name in logs]) for name in names}
        self.step_values.clear()
        return {name: value.mean().item() for name, value in values.items() if len(value)}

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.stage_dir or self.final_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers writes into a stage; the whole checkpoint then appears under its name at once."""
        name = f"checkpoint-{self.state.global_step}"
        with whole_folder(self.final_dir / name) if ranks.first() else nullcontext() as stage:
            self.stage_dir = ranks.agreed(stage)
            try:
                with whole(self.policy):
                    super()._save_checkpoint(model, trial)
            finally:
                self.stage_dir = None
            ranks.wait()
            if stage is not None:
                inner = stage / name
                for path in inner.iterdir():
                    path.rename(stage / path.name)
                inner.rmdir()
                seal(stage, self.state.global_step)
        ranks.wait()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """transformers writes what the optimizer says of itself, which is here the same with shards and without."""
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_state(self.optimizer.state_dict())
        if ranks.first():
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(part_of_state(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: see `_Hooks.on_step_begin`."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: see `_Hooks.on_step_begin`."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not ranks.first():
            return
        folder = Path(output_dir or self.final_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.policy), folder / TRAINABLE)
        self.policy.save(folder / ADAPTER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trainable_state(self.policy, load_file(Path(resume_from_checkpoint) / TRAINABLE))


def _arguments(settings: TrainerSettings, steps: int, output_dir: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=math.ceil(settings.batch_size / ranks.size()),
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
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,
        deepspeed=_deepspeed(settings),
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    # a process trains on one GPU: over several, transformers would cut the packed row into pieces
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _deepspeed(settings: TrainerSettings) -> str | None:
    """DeepSpeed's file where several workers run under it."""
    if settings.strategy != "deepspeed" or ranks.size() == 1:
        return None
    return str(settings.deepspeed_config)


class _Hooks(TrainerCallback):  # type: ignore[misc]
    """Step logs, the evaluation rhythm, and what follows a save; `trainer` is the one it is added to."""

    def __init__(self, trainer: _Trainer, on_log: StepLog, after_save: AfterSave) -> None:
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

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The random numbers of a step are those of the seed, the step and the worker, also in a run that was cut."""
        torch.manual_seed((args.seed * 1_000_003 + state.global_step) * 1_009 + ranks.rank())
        self.trainer.meter.step_begins()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.trainer.meter.step_ends()
        interval = self.trainer.eval_interval
        control.should_save = state.global_step % interval == 0 or state.global_step >= state.max_steps
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        with whole(self.trainer.policy):  # workers judge different prompts, each at its own pace
            self.after_save(state.global_step, self.trainer.final_dir / f"checkpoint-{state.global_step}")
