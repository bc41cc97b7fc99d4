"""fit: one config in, metrics, per-prompt rows and a checkpoint out. The function that everything above calls.

Every stage of a run (Track C has two) goes the same way: split, shared work, policy on the warm base, train, evaluate
after each checkpoint, keep the chosen one. Knows nothing of search, Ray or MLflow.
"""

import importlib.metadata
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from phasegpt.config import METRICS, Config, config_hash, stages
from phasegpt.config_io import project_root, resolve, write_resolved
from phasegpt.config_search import Search
from phasegpt.evaluate import Evaluation, Suite, evaluate
from phasegpt.files import file_sha256, read_json, text_sha256, whole_folder, write_json
from phasegpt.forward import PairModel
from phasegpt.models import Base, LoraSettings, PhaseSettings, attach_policy, load_base
from phasegpt.objectives import Dpo, Objective, PenalisedDpo, Sft
from phasegpt.pairs import Split, pairs_hash, read_pairs, read_prompts, split_pairs, take_prompts
from phasegpt.shared_work import Lengths, Progress, SharedWork, model_fingerprint, prepare
from phasegpt.trainer import (
    ADAPTER,
    StepLog,
    TrainerSettings,
    checkpoint_step,
    newest_checkpoint,
    prune_checkpoints,
    step_history,
    total_steps,
    train,
)

log = logging.getLogger("phasegpt")
OnEvaluation = Callable[[Evaluation, Path], None]
VERSIONS_OF = ("torch", "transformers", "peft", "trl", "ray", "optuna", "mlflow", "phasegpt-tune")
NOT_OF_A_STAGE = frozenset({"beta", "label_smoothing", "kto_lambda", "kto_config", "phase_a", "phase_b"})


class RunError(ValueError):
    """A run that cannot be done as asked on this machine; the message names the key and the cure."""


@dataclass(frozen=True)
class RunPaths:
    """Where one run writes: the places of the seed, below a storage folder."""

    name: str
    checkpoints: Path
    log: Path
    results: Path
    shared_work: Path

    @property
    def adapter(self) -> Path:
        """The PEFT folder of the chosen checkpoint."""
        return self.checkpoints / ADAPTER


def run_paths(storage: Path, track: str, run: str, output_dir: str | None = None) -> RunPaths:
    """The seed's layout: <run>/, <run>.log and <run>.json in v14/track_x/ of checkpoints/, experiments/ and results/.

    `output_dir` (logging.output_dir) replaces the checkpoint folder alone.
    """
    place = Path("v14") / f"track_{track}"
    return RunPaths(
        name=run,
        checkpoints=storage / output_dir if output_dir else storage / "checkpoints" / place / run,
        log=storage / "experiments" / place / f"{run}.log",
        results=storage / "results" / place / f"{run}.json",
        shared_work=storage / "checkpoints" / "v14" / "shared_work",
    )


@dataclass(frozen=True)
class RunResult:
    """What a run found. `metrics` and rows are of the chosen checkpoint, at `step`; `curve` has all summaries."""

    name: str
    metrics: Mapping[str, float]
    step: int
    steps: int
    answers: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    training_log: Sequence[Mapping[str, Any]]
    adapter: str
    seconds: Mapping[str, float]
    half: str
    config: Mapping[str, Any]
    config_hash: str
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """The result that a run wrote to `path`."""
        return cls(**read_json(path))


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


def fit(
    config: Config,
    on_evaluation: OnEvaluation | None = None,
    *,
    paths: RunPaths,
    half: str = "search",
    workbench: Workbench | None = None,
    on_step: StepLog | None = None,
    on_progress: Progress | None = None,
) -> RunResult:
    """Run `config` to its end and write its checkpoints, log and results to `paths`; the result is what was written.

    `on_evaluation(evaluation, checkpoint folder)` after each evaluation, once the checkpoint is safe on disk; it may
    raise to end the run early. `half` says which evaluation prompts judge (search or final). A run that was cut
    before goes on from its newest checkpoint, exactly; one that was finished is read back. Raises NonFiniteLossError,
    ReferenceMismatchError, RunError, ModelError, PairsError.
    """
    bench = workbench or Workbench()
    _claim(config, paths, half)
    with _log_to(paths.log):
        *earlier, last = stages(config)
        for stage in earlier:
            adapter = _earlier_stage(stage, paths, bench, on_step, on_progress)
            last = last.model_copy(
                update={"training": last.training.model_copy(update={"reference_model": str(adapter)})}
            )
        with _bench_set_up(last, paths, bench, half, on_progress) as run:
            return _run(config, run, paths, half, on_evaluation, on_step)


def _claim(config: Config, paths: RunPaths, half: str) -> None:
    """A run's folder belongs to one config and one half of the prompts: its files must not pass for another run's."""
    file = paths.checkpoints / "run.json"
    own = {"config_hash": config_hash(config.model_copy(update={"search": Search()})), "half": half}
    if file.is_file() and read_json(file) != own:
        raise RunError(
            f"{paths.checkpoints} holds another run, as its config.yaml and run.json say; give this one another name"
        )
    write_json(file, own)


def measure(
    config: Config, *, paths: RunPaths, half: str, workbench: Workbench, on_progress: Progress | None = None
) -> Evaluation:
    """The reference itself (nothing trained) on the suite of `config`: the baseline of every gain."""
    with _bench_set_up(stages(config)[-1], paths, workbench, half, on_progress) as run:
        return evaluate(run.judged, run.shared, run.suite)


@dataclass(frozen=True)
class _SetUp:
    """A stage ready to run: `model` trains under the config's divergence, `judged` is the same under plain KL."""

    config: Config
    model: PairModel
    judged: PairModel
    shared: SharedWork
    split: Split
    suite: Suite
    hashes: Mapping[str, str]


@contextmanager
def _bench_set_up(
    config: Config, paths: RunPaths, bench: Workbench, half: str, on_progress: Progress | None
) -> Iterator[_SetUp]:
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
        shared = prepare(paths.shared_work, policy, pairs, lengths, on_progress)
        model = PairModel(policy, training.kto_config.kl_penalty_type, training.kto_config.kl_temperature)
        hashes = {
            "data": pairs_hash(pairs),
            "base_model": model_fingerprint(base.folder),
            "reference_adapter": policy.reference,
        }
        yield _SetUp(config, model, PairModel(policy), shared, split, _suite(config, base, split, half), hashes)
    finally:
        policy.detach()


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
        device=device,
        bf16=training.bf16,
        fp16=training.fp16,
        deterministic=config.experiment.deterministic,
    )


def _run(
    config: Config,
    run: _SetUp,
    paths: RunPaths,
    half: str,
    on_evaluation: OnEvaluation | None,
    on_step: StepLog | None,
) -> RunResult:
    begun = time.monotonic()
    settings = trainer_settings(run.config, device_of(run.config))
    write_resolved(config, paths.checkpoints / "config.yaml")
    pair_ids = [pair.id for pair in run.split.train]
    total = total_steps(len(pair_ids), settings)
    record = _Record(run, paths, total, on_evaluation, on_step)
    log.info("%s: %d pairs, %d steps, method %s", paths.name, len(pair_ids), total, run.config.training.method)
    steps = train(
        run.model,
        run.shared,
        pair_ids,
        objective_of(run.config),
        beta=run.config.training.beta,
        settings=settings,
        output_dir=paths.checkpoints,
        on_log=record.step,
        after_save=record.after_save,
    )
    chosen = record.chosen()
    _publish(paths.checkpoints / f"checkpoint-{chosen.step}" / ADAPTER, paths.adapter)
    result = RunResult(
        name=paths.name,
        metrics=chosen.summary,
        step=chosen.step,
        steps=steps,
        answers=chosen.answers,
        pairs=chosen.pairs,
        curve=[{"step": e.step, **e.summary} for e in record.evaluations],
        training_log=step_history(paths.checkpoints / f"checkpoint-{steps}"),
        adapter=str(paths.adapter),
        seconds={"total": time.monotonic() - begun, "evaluation": record.evaluation_seconds()},
        half=half,
        config=config.dump(),
        config_hash=config_hash(config),
        hashes=run.hashes,
        versions=versions(),
        data={"train": len(run.split.train), "val": len(run.split.val), "cut_tokens": run.shared.cut_tokens},
    )
    write_json(paths.results, asdict(result))
    log.info("%s: ended at step %d with %s", paths.name, steps, _short(result.metrics))
    return RunResult.read(paths.results)


class _Record:
    """What a run has evaluated so far: on disk as soon as it is made, and only of steps that a checkpoint reaches."""

    def __init__(
        self, run: _SetUp, paths: RunPaths, total: int, on_evaluation: OnEvaluation | None, on_step: StepLog | None
    ) -> None:
        self.run, self.paths, self.total, self.on_evaluation, self.on_step = run, paths, total, on_evaluation, on_step
        self.folder = paths.checkpoints / "evaluations"
        newest = newest_checkpoint(paths.checkpoints)
        reached = checkpoint_step(newest) if newest else 0
        stored = [_read_evaluation(path) for path in sorted(self.folder.glob("step-*.json"))]
        self.evaluations = [evaluation for evaluation in stored if evaluation.step <= reached]

    def evaluation_seconds(self) -> float:
        """What all evaluations of the run took, those before a cut included."""
        return sum(sum(evaluation.seconds.values()) for evaluation in self.evaluations)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        log.info("%s: step %d %s", self.paths.name, step, _short(values))
        if self.on_step is not None:
            self.on_step(step, values)

    def after_save(self, step: int, checkpoint: Path) -> None:
        if any(evaluation.step == step for evaluation in self.evaluations):
            return
        evaluation = evaluate(self.run.judged, self.run.shared, self.run.suite, step, self.total)
        write_json(self.folder / f"step-{step:08d}.json", asdict(evaluation))
        self.evaluations.append(evaluation)
        log.info("%s: evaluation at step %d %s", self.paths.name, step, _short(evaluation.summary))
        keep = self.paths.checkpoints / f"checkpoint-{self.chosen().step}"
        prune_checkpoints(self.paths.checkpoints, [keep], self.run.config.evaluation.save_total_limit)
        if self.on_evaluation is not None:
            self.on_evaluation(evaluation, checkpoint)

    def chosen(self) -> Evaluation:
        """The evaluation whose checkpoint is the run's result: the best where save_best_only, else the last."""
        evaluation = self.run.config.evaluation
        name = evaluation.metric_for_best_model
        scored = [e for e in self.evaluations if name in e.summary]
        if not evaluation.save_best_only or not scored:
            return self.evaluations[-1]
        sign = 1 if METRICS[name] == "max" else -1
        return max(scored, key=lambda e: (sign * e.summary[name], e.step))


def _read_evaluation(path: Path) -> Evaluation:
    stored = read_json(path)
    return Evaluation(**{**stored, "answers": tuple(stored["answers"]), "pairs": tuple(stored["pairs"])})


def _publish(source: Path, target: Path) -> None:
    with whole_folder(target) as stage:
        shutil.copytree(source, stage, dirs_exist_ok=True)


def _earlier_stage(
    config: Config, paths: RunPaths, bench: Workbench, on_step: StepLog | None, on_progress: Progress | None
) -> Path:
    """The adapter of a stage that several trials share (Track C's phase_a): trained once for what it depends on."""
    content = (file_sha256(resolve(config.training.preference_dataset)), model_fingerprint(bench.base(config).folder))
    own = stage_paths(config, paths, content)
    own.checkpoints.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{own.checkpoints}.lock"):
        if not (own.adapter / "adapter_config.json").is_file():
            with _bench_set_up(config, own, bench, "search", on_progress) as run:
                _run(config, run, own, "search", None, on_step)
    return own.adapter


def stage_paths(config: Config, paths: RunPaths, content: Sequence[str]) -> RunPaths:
    """Where a shared earlier stage lives: beside the shared work, under the hash of what it depends on.

    `content` holds hashes of the files that the config names.
    """
    tree = config.dump()
    training = {key: value for key, value in tree["training"].items() if key not in NOT_OF_A_STAGE}
    depends = {"training": training, **{key: tree[key] for key in ("model", "data", "experiment", "evaluation")}}
    name = f"stage-{text_sha256(repr(sorted(_flat(depends))), *content)[:16]}"
    folder = paths.shared_work.parent / "stages" / name
    return RunPaths(name, folder, paths.log.parent / f"{name}.log", folder / "result.json", paths.shared_work)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", repr(value)


def versions() -> dict[str, str]:
    """The versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in VERSIONS_OF}


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _short(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(values.items()))
