"""What a search makes of workers that Ray took away: a loss of theirs, not the end of the search."""

from typing import Any

import pytest
from ray.air.execution import _internal as execution
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from tune import losses


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("the node ran low on memory"), "OutOfMemoryError: the node ran low on memory"),
        (NodeDiedError("it is gone"), "NodeDiedError: it is gone"),
        (RayActorError(error_msg="the actor died"), "the actor died"),
    ],
)
def test_any_end_of_a_worker_is_told_as_one(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(
        execution.RayActorManager, "_actor_task_failed", lambda self, task, exception: passed.append(exception)
    )
    losses._ActorManager._actor_task_failed(object.__new__(losses._ActorManager), None, error)
    assert isinstance(passed[0], RayActorError)
    assert str(passed[0]) == said
