"""How often a job may lose its worker: without end as long as it gets further, once more where it does not.

Ray alone counts how often, and would give up a long trial on machines that are taken away for the second time. Of a
worker that Ray itself killed, for want of memory, Tune would take the whole search down.
"""

from typing import Any

from ray.air.execution import _internal as execution
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback
from ray.tune.execution import tune_controller

from tune.reports import metrics_of

FREE = 1
"""Losses that cost nothing, however far the job was."""


class Losses(Callback):  # type: ignore[misc]
    """Ray's callback that forgives a loss where the job has come to an evaluation, and so to a checkpoint, since."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}
        self.lost_at: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks beside its state, which nothing here reads back

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A job reports a step or an evaluation."""
        if metrics_of(result):
            self.reached[trial.trial_id] = max(int(result["step"]), self.reached.get(trial.trial_id, 0))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job's worker is lost, and it will begin again from its newest checkpoint."""
        reached = self.reached.get(trial.trial_id, 0)
        if reached > self.lost_at.get(trial.trial_id, 0):
            trial.max_failures += 1
        self.lost_at[trial.trial_id] = reached


class _ActorManager(execution.RayActorManager):  # type: ignore[misc]
    """Ray's, to which any end of a worker is one; Ray's own knows no other than RayActorError and raises."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


def survive() -> None:
    """Let the searches of this process outlive workers that Ray killed."""
    tune_controller.RayActorManager = _ActorManager
