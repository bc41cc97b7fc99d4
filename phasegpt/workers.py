"""`fit` on several workers under Ray Train: the same fit, the same metrics. Only this file and crew.py know Ray.

Whoever starts workers (the command line, a trial of a search) listens to them through a mailbox: what the first worker
tells waits for an answer, go on or stop, which all workers follow together. So a run that is stopped early ends as one
that is done does, with its processes and its placement group. Ray's own TuneReportCallback lets Tune kill the trial
instead, and the group stays reserved until a cleaner has missed its owner.

A worker that dies is restarted with the others, and the run goes on from its newest checkpoint. A worker that raises
for a reason of its own ends the run: the next attempt would raise again.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from phasegpt import ranks
from phasegpt.config import Config
from phasegpt.config_io import project_root
from phasegpt.crew import Crew, EndAtOwnError, Mailbox, Report, WorkerError
from phasegpt.runs import RunPaths, RunResult

if TYPE_CHECKING:
    from phasegpt.shared_store import Progress
    from phasegpt.train import OnEvaluation
    from phasegpt.trainer import StepLog

RESTARTS = 3  # of workers that died; a crash more is no accident
SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_TO_STOP = 100.0  # within the time that Tune gives a trial to end (tune/environment.py)
PATIENCE = 12 * 3600  # of a collective: a worker may wait for another trial's supervised stage; Ray finds dead ones


class Stopped(Exception):  # noqa: N818 - an end that was asked for, no error
    """The caller has told the workers to stop."""


class Telling:
    """A worker's side of the mailbox. Every worker of a run calls it alike, and all of them follow the answer."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self._last = time.monotonic()
        self._go_on = True

    def tell(self, report: Report) -> None:
        """Tell it now. Raises Stopped, on every worker, where the caller does not want the run to go on."""
        if not ranks.by_first(lambda: self._go_on and self._send(report)):
            raise Stopped

    def due(self) -> bool:
        """Whether the last report is old enough for another; the same on every worker."""
        return ranks.by_first(self._is_due)

    def aside(self, report: Report) -> None:
        """Tell from the first worker alone, where the others are elsewhere, now and then; a stop waits for `tell`."""
        if ranks.first() and self._go_on and self._is_due():
            self._go_on = self._send(report)

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= SECONDS_BETWEEN_REPORTS

    def _send(self, report: Report) -> bool:
        self._last = time.monotonic()
        return bool(ray.get(self.mailbox.tell.remote(report)))


Work = Callable[[Mapping[str, Any], Telling], Report | None]
"""What each worker does with plain values; what it returns on the first worker is the result."""


def run_on_workers(
    work: Work, plain: Mapping[str, Any], crew: Crew, folder: Path, listen: Callable[[Report], None]
) -> Any:
    """Run `work(plain, telling)` on each worker to its end; what the first one returns.

    `listen` gets what the workers tell; where it raises the workers stop, and its error goes on. Ray writes to
    `folder`. Ray must be running. Raises WorkerError.
    """
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    trainer = _trainer(work, plain, crew, folder, mailbox)
    outcome: dict[str, Any] = {}
    # a thread of its own: this one must hear of the workers, and be free to be interrupted
    thread = threading.Thread(target=_train, args=(trainer, outcome, mailbox), daemon=True)
    thread.start()
    try:
        while (report := ray.get(mailbox.take.remote())) is not None:
            listen(report)
            ray.get(mailbox.go_on.remote())
    except BaseException:  # Tune ends a trial by SystemExit
        ray.get(mailbox.stop.remote())
        thread.join(SECONDS_TO_STOP)
        raise
    thread.join()
    if "error" in outcome:
        raise worker_error(outcome["error"]) from outcome["error"]
    return outcome.get("result")


def _trainer(work: Work, plain: Mapping[str, Any], crew: Crew, folder: Path, mailbox: Any) -> TorchTrainer:
    threads = max(1, int(crew.cpus))

    def on_worker(values: dict[str, Any]) -> Report | None:
        return _on_worker(work, values, mailbox, threads)

    return TorchTrainer(
        on_worker,
        train_loop_config=dict(plain),
        torch_config=TorchConfig(backend=crew.backend, timeout_s=PATIENCE),
        scaling_config=crew.scaling(),
        run_config=RunConfig(
            name=f"workers-{os.getpid()}-{time.time_ns()}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=RESTARTS),
            callbacks=[EndAtOwnError()],
        ),
    )


def _train(trainer: TorchTrainer, outcome: dict[str, Any], mailbox: Any) -> None:
    try:
        outcome["result"] = trainer.fit().return_value
    except Exception as error:  # noqa: BLE001 - its controller may die, and this thread would take the news with it
        outcome["error"] = error
    finally:
        ray.get(mailbox.close.remote())


def _on_worker(work: Work, plain: Mapping[str, Any], mailbox: Any, threads: int) -> Report | None:
    """`work` in a worker's process; what it raises carries its rank and its traceback."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # accelerate takes all cores where nobody says it
    torch.set_num_threads(threads)
    os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"  # it takes GPU n for worker n, also where two share GPU 0
    try:
        return work(plain, Telling(mailbox))
    except Stopped:
        return None
    except Exception as error:  # noqa: BLE001 - becomes the message of the run
        said = f"{type(error).__name__}: {error}"
        raise WorkerError(ranks.rank(), said, traceback.format_exc(), not _may_be_anothers(error)) from None


def _may_be_anothers(error: Exception) -> bool:
    """Whether a worker raises this also where another one has died in the middle of a collective."""
    return isinstance(error, (RuntimeError, ConnectionError)) and not isinstance(error, torch.OutOfMemoryError)


def worker_error(error: Exception) -> WorkerError:
    """The one message of a run that failed: of a worker that died rather than of those that died of it."""
    if not isinstance(error, TrainingFailedError):
        return WorkerError(0, f"Ray Train itself failed, run it again: {type(error).__name__}: {error}")
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerError):
        return error.controller_failure
    if not isinstance(error, WorkerGroupError) or not error.worker_failures:
        return WorkerError(0, str(error))
    died = {rank: e for rank, e in error.worker_failures.items() if not isinstance(e, WorkerError)}
    for rank, _ in sorted(died.items()):
        return WorkerError(rank, f"the worker died {RESTARTS + 1} times, killed from outside or out of memory")
    rank, raised = min(error.worker_failures.items(), key=lambda item: item[0])
    return raised if isinstance(raised, WorkerError) else WorkerError(rank, str(raised))


def fit_on_workers(
    config: Config,
    on_evaluation: "OnEvaluation",
    *,
    paths: RunPaths,
    crew: Crew,
    on_step: "StepLog",
    on_progress: "Progress",
    half: str = "search",
) -> RunResult:
    """`fit` on the workers of a crew, told of in this process. Ray must be running. Raises WorkerError."""
    plain = {
        "root": str(project_root()),
        "config": config.dump(),
        "paths": {name: str(value) for name, value in asdict(paths).items()},
        "half": half,
        "launched": time.time(),
    }

    def listen(report: Report) -> None:
        for step, values in report.get("steps", ()):
            on_step(step, values)
        if "evaluation" in report:
            from phasegpt.evaluate import Evaluation

            on_evaluation(Evaluation(**report["evaluation"]), Path(report["checkpoint"]))
        if "progress" in report:
            on_progress(*report["progress"])

    run_on_workers(_fit, plain, crew, paths.log.with_suffix("") / "ray", listen)
    return RunResult.read(paths.results)


def _fit(plain: Mapping[str, Any], telling: Telling) -> None:
    """A worker's part of `fit_on_workers`: steps are told about once a second, evaluations as they come."""
    from phasegpt.train import fit

    os.environ["PHASEGPT_ROOT"] = plain["root"]
    steps: list[tuple[int, dict[str, float]]] = []

    def send(**more: Any) -> None:
        telling.tell({"steps": list(steps), **more})
        steps.clear()

    def on_step(step: int, values: Mapping[str, float]) -> None:
        steps.append((step, dict(values)))
        if telling.due():
            send()

    fit(
        Config.model_validate(plain["config"]),
        lambda evaluation, checkpoint: send(evaluation=asdict(evaluation), checkpoint=str(checkpoint)),
        paths=paths_from(plain["paths"]),
        half=plain["half"],
        on_step=on_step,
        on_progress=lambda *done: telling.aside({"progress": done}),
        launched=plain["launched"],
    )


def paths_from(plain: Mapping[str, str]) -> RunPaths:
    """The inverse of what `fit_on_workers` makes of paths."""
    return RunPaths(**{name: value if name == "name" else Path(value) for name, value in plain.items()})  # type: ignore[arg-type]
