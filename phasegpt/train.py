"""fit: one config in, metrics, per-prompt rows and a checkpoint out. The function that everything above calls.

Every stage of a run (Track C has two) goes the same way: split, shared work, policy on the warm base, train, evaluate
after each checkpoint, keep the chosen one. Where several workers share a run each of them calls `fit` alike, and the
first writes. Knows nothing of search, Ray or MLflow.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from phasegpt import ranks
from phasegpt.adapters import adapter_hash
from phasegpt.checkpoint_files import (
    ADAPTER,
    EVALUATIONS,
    checkpoint_step,
    damage,
    evaluation_files,
    newest_checkpoint,
    prune_checkpoints,
    step_history,
)
from phasegpt.claims import claim, claim_content
from phasegpt.config import Config, config_hash, stages, value_at
from phasegpt.config_io import files_of, resolve, write_resolved
from phasegpt.evaluate import Evaluation, evaluate
from phasegpt.files import DamagedError, file_sha256, make_folder, read_json, text_sha256, whole_folder, write_json
from phasegpt.logs import log_to
from phasegpt.meters import Meter, scaling_metrics
from phasegpt.metrics.declared import is_own
from phasegpt.metrics.own import code_hash
from phasegpt.metrics.text import scorer
from phasegpt.once import made_once
from phasegpt.parts import (
    RunError,
    SetUp,
    Workbench,
    device_of,
    objective_of,
    reference_adapter,
    set_up,
    trainer_settings,
)
from phasegpt.runs import RunPaths, RunResult, versions
from phasegpt.shared_store import Progress
from phasegpt.texts import block_rows
from phasegpt.trainer import NonFiniteLossError, StepLog, total_steps, train

log = logging.getLogger("phasegpt")
OnEvaluation = Callable[[Evaluation, Path], None]
NOT_OF_A_STAGE = frozenset(
    {
        "beta",
        "label_smoothing",
        "kto_lambda",
        "kto_config",
        "desirable_weight",
        "undesirable_weight",
        "phase_a",
        "phase_b",
    }
)


class Paused(Exception):  # noqa: N818 - it is no error: the run did what it was asked for
    """A run came to the evaluation that it was asked for, and goes on from there when it is asked again."""

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__(f"paused at step {evaluation.step}")
        self.evaluation = evaluation


def fit(
    config: Config,
    on_evaluation: OnEvaluation | None = None,
    *,
    paths: RunPaths,
    half: str = "search",
    until: int | None = None,
    start: Path | None = None,
    workbench: Workbench | None = None,
    on_step: StepLog | None = None,
    on_progress: Progress | None = None,
    launched: float | None = None,
) -> RunResult:
    """Run `config` to its end and write its checkpoints, log and results to `paths`; the result is what was written.

    `on_step(step, {name: value})` after each step; those of an earlier stage have names that begin with phase_a/.
    `on_evaluation(evaluation, checkpoint folder)` after each evaluation, once the checkpoint is safe on disk; a run
    that goes on tells those of before once more, in their order, though older checkpoints may be gone. It may raise to
    end the run early, on all workers if on one. `half` says which evaluation prompts judge (search or final).
    With `until` the run pauses at its first evaluation at or after that step, unless it is its last, and raises Paused.
    `start` is an adapter folder whose weights the last stage begins with, in place of the reference's.
    `launched` is when the run was asked for (`time.time()`, None: now), from which its start-up counts. A run that was
    cut before goes on from its newest checkpoint, exactly; one that was finished is read back. Raises
    NonFiniteLossError, ReferenceMismatchError, RunError, ModelError, PairsError.
    """
    bench = workbench or Workbench()
    claim(config, paths, half, start)
    with log_to(paths.log) if ranks.first() else nullcontext():
        *earlier, last = stages(config)
        for stage in earlier:
            adapter = _earlier_stage(stage, paths, bench, _of_phase_a(on_step), on_progress, launched)
            launched = None  # it was this stage whose start-up it began
            last = last.model_copy(
                update={"training": last.training.model_copy(update={"reference_model": str(adapter)})}
            )
        with set_up(last, paths, bench, half, on_progress) as run:
            claim_content(run, paths)
            return _run(config, run, paths, half, on_evaluation, on_step, Meter(launched), until, start)


def _run(
    config: Config,
    run: SetUp,
    paths: RunPaths,
    half: str,
    on_evaluation: OnEvaluation | None,
    on_step: StepLog | None,
    meter: Meter,
    until: int | None = None,
    start: Path | None = None,
) -> RunResult:
    settings = trainer_settings(run.config, device_of(run.config))
    if ranks.first():
        write_resolved(config, paths.checkpoints / "config.yaml")
    examples = run.material.examples
    total = total_steps(examples, settings)
    record = _Record(run, paths, total, on_evaluation, on_step, meter, until)
    log.info("%s: %d examples, %d steps, method %s", paths.name, len(examples), total, run.config.training.method)
    parameters = run.judged.policy.parameter_counts()
    log.info("%s: parameters %s", paths.name, ", ".join(f"{name} {count:,}" for name, count in parameters.items()))
    record.tell_again()
    had_ended = bool(record.evaluations) and record.evaluations[-1].step == total
    steps = train(
        run.material.model,
        examples,
        objective_of(run.config),
        settings=settings,
        output_dir=paths.checkpoints,
        on_log=record.step,
        after_save=record.after_save,
        meter=meter,
        start=start,
    )
    chosen = record.chosen()
    clock = meter.read()
    if ranks.first():
        _publish(paths.checkpoints / f"checkpoint-{chosen.step}", paths.adapter)
    if had_ended and (stored := ranks.by_first(lambda: _stored(config, paths))) is not None:
        return stored
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
        seconds={"total": record.worked(), "evaluation": record.evaluation_seconds()},
        half=half,
        config=config.dump(),
        config_hash=config_hash(config),
        hashes={**run.hashes, **({} if start is None else {"start": adapter_hash(start)})},
        versions=versions(),
        data=run.material.sizes,
        parameters=parameters,
        clock=clock,
    )
    if ranks.first():
        write_json(paths.results, asdict(result))
    ranks.wait()
    log.info("%s: ended at step %d with %s", paths.name, steps, _short(result.metrics))
    return RunResult.read(paths.results)


def _stored(config: Config, paths: RunPaths) -> RunResult | None:
    """The result of a run that had ended; None where there is none, or it is damaged or of another config or place."""
    try:
        stored = RunResult.read(paths.results)
    except (OSError, DamagedError, TypeError):
        return None
    is_ours = (stored.config_hash, stored.adapter) == (config_hash(config), str(paths.adapter))
    return stored if is_ours else None


class _Record:
    """What a run has evaluated so far: on disk as soon as it is made, and only of steps that a checkpoint reaches."""

    def __init__(
        self,
        run: SetUp,
        paths: RunPaths,
        total: int,
        on_evaluation: OnEvaluation | None,
        on_step: StepLog | None,
        meter: Meter,
        until: int | None,
    ) -> None:
        self.run, self.paths, self.total, self.on_evaluation, self.on_step = run, paths, total, on_evaluation, on_step
        self.meter, self.until = meter, until
        self.folder = paths.checkpoints / EVALUATIONS
        self.evaluations = ranks.by_first(self._stored)
        self.begun = time.monotonic()
        self.before = self.evaluations[-1].worked if self.evaluations else 0.0

    def _stored(self) -> list[Evaluation]:
        newest = newest_checkpoint(self.paths.checkpoints)
        reached = checkpoint_step(newest) if newest else 0
        stored = [read_evaluation(path) for path in evaluation_files(self.paths.checkpoints)]
        return [evaluation for evaluation in stored if evaluation.step <= reached]

    def worked(self) -> float:
        """How many seconds the run has taken; work that was lost in a cut, and done again, counts once."""
        return self.before + time.monotonic() - self.begun

    def evaluation_seconds(self) -> float:
        """What all evaluations of the run took, those before a cut included."""
        return sum(sum(evaluation.seconds.values()) for evaluation in self.evaluations)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        log.info("%s: step %d %s", self.paths.name, step, _short(values))
        if self.on_step is not None:
            self.on_step(step, values)

    def tell_again(self) -> None:
        """Tell what was evaluated before a cut, of which nobody knows whether all of it was told.

        The last evaluation is the run's end, which its result tells.
        """
        for evaluation in self.evaluations:
            if evaluation.step < self.total:
                self._tell(evaluation)

    def after_save(self, step: int, _: Path) -> None:
        if all(evaluation.step != step for evaluation in self.evaluations):
            self._tell(self._evaluate(step))

    def _tell(self, evaluation: Evaluation) -> None:
        """Raises Paused where the run was asked to come to this evaluation and no further."""
        if self.until is not None and self.until <= evaluation.step < self.total:
            raise Paused(evaluation)
        if self.on_evaluation is not None:
            self.on_evaluation(evaluation, self.paths.checkpoints / f"checkpoint-{evaluation.step}")

    def _evaluate(self, step: int) -> Evaluation:
        evaluation = evaluated(self.run, step, self.total)
        scaling = scaling_metrics(self.meter.read(), self.run.suite.metrics)
        evaluation = replace(evaluation, summary={**evaluation.summary, **scaling}, worked=self.worked())
        check_finite(evaluation)
        self.evaluations.append(evaluation)
        if ranks.first():
            self._keep(evaluation)
        log.info("%s: evaluation at step %d %s", self.paths.name, step, _short(evaluation.summary))
        return evaluation

    def _keep(self, evaluation: Evaluation) -> None:
        write_json(self.folder / f"step-{evaluation.step:08d}.json", asdict(evaluation))
        best = self.paths.checkpoints / f"checkpoint-{self.chosen().step}"
        prune_checkpoints(self.paths.checkpoints, [best], self.run.config.evaluation.save_total_limit)

    def chosen(self) -> Evaluation:
        """The evaluation whose checkpoint is the run's result: the best where save_best_only, else the last."""
        evaluation = self.run.config.evaluation
        name = evaluation.metric_for_best_model
        scored = [e for e in self.evaluations if name in e.summary]
        if not evaluation.save_best_only or not scored:
            return self.evaluations[-1]
        sign = 1 if self.run.suite.better(name) == "max" else -1
        return max(scored, key=lambda e: (sign * e.summary[name], e.step))


def evaluated(run: SetUp, step: int = 0, steps: int = 0) -> Evaluation:
    """The suite on the policy as it stands; a run on a text has its held-out blocks where others have pairs."""
    material = run.material
    # shared work is asked for pairs alone, of which a text has none
    evaluation = evaluate(run.judged, material.shared, run.suite, step, steps)
    if material.blocks is None or "eval_loss" not in run.suite.metrics:
        return evaluation
    rows = tuple(block_rows(run.judged.policy, material.blocks, run.suite.batch_size))
    loss = fmean(float(row["eval_loss"]) for row in rows)
    return replace(evaluation, pairs=rows, summary={**evaluation.summary, "eval_loss": loss})


def check_finite(evaluation: Evaluation) -> None:
    """Raises NonFiniteLossError where a metric is NaN or infinite: no such number is recorded."""
    bad = [f"{name} {value}" for name, value in evaluation.summary.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteLossError(
            f"the evaluation at step {evaluation.step} gave {', '.join(bad)}; lower training.learning_rate"
        )


def read_evaluation(path: Path) -> Evaluation:
    """An evaluation as it was kept."""
    stored = read_json(path)
    return Evaluation(**{**stored, "answers": tuple(stored["answers"]), "pairs": tuple(stored["pairs"])})


def _publish(checkpoint: Path, target: Path) -> None:
    """Copy the adapter of the chosen checkpoint, which may be older than the newest, to where the run's result lies."""
    if wrong := damage(checkpoint):
        raise RunError(f"{checkpoint}, the best of the run, is {wrong}; remove {checkpoint.parent} and run again")
    with whole_folder(target) as stage:
        shutil.copytree(checkpoint / ADAPTER, stage, dirs_exist_ok=True)


def _of_phase_a(on_step: StepLog | None) -> StepLog | None:
    """The steps of an earlier stage under names of their own: they are counted from 1, as those of the last stage."""
    if on_step is None:
        return None
    return lambda step, values: on_step(step, {f"phase_a/{name}": value for name, value in values.items()})


def _earlier_stage(
    config: Config,
    paths: RunPaths,
    bench: Workbench,
    on_step: StepLog | None,
    on_progress: Progress | None,
    launched: float | None,
) -> Path:
    """The adapter of a stage that several trials share (Track C's phase_a): trained once for what it depends on."""
    own = stage_paths(config, paths, stage_content(config, paths, bench))
    make_folder(own.checkpoints.parent)
    # the first worker holds the lock for all of them, which come to `by_first` and wait for it there
    whole = (own.adapter / "adapter_config.json").is_file
    with (
        FileLock(f"{own.checkpoints}.lock") if ranks.first() else nullcontext(),
        made_once(own.checkpoints, whole),
    ):
        if not ranks.by_first(whole):
            with set_up(config, own, bench, "search", on_progress) as run:
                _run(config, run, own, "search", None, on_step, Meter(launched))
    return own.adapter


def stage_content(config: Config, paths: RunPaths, bench: Workbench) -> tuple[str, ...]:
    """Hashes of all that a stage depends on beside its settings; what evaluates it chooses its checkpoint."""
    reference = reference_adapter(config, paths)
    return (
        bench.base(config).fingerprint,
        "" if reference is None else adapter_hash(reference),
        *(file_sha256(resolve(value_at(config, key))) for key in files_of(config)),
        scorer(),
        *(code_hash(name) for name in config.evaluation.metrics if is_own(name)),
    )


def stage_paths(config: Config, paths: RunPaths, content: Sequence[str]) -> RunPaths:
    """Where a shared earlier stage lives: beside the shared work, under the hash of what it depends on.

    `content` is that of `stage_content`.
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


def _short(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(values.items()))
