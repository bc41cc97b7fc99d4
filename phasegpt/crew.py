"""The workers of one run as the processes beside them know them: how many, what they tell, and how they end.

Knows neither torch nor the run. Ray starts a process for the mailbox and one for its controller, and both import only
this; whoever asks for workers does too. workers.py puts them to work.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.train import ScalingConfig, UserCallback

Report = dict[str, Any]
"""What a worker tells: plain values."""


@dataclass(frozen=True)
class Crew:
    """The workers of one run, and what each of them reserves.

    `least` workers are enough to begin or to go on with (None: all of them); the batch stays that of `count`.
    `placement` is Ray's strategy for the nodes they run on.
    """

    count: int
    cpus: float = 1.0
    gpus: float = 0.0
    least: int | None = None
    accelerator_type: str | None = None
    placement: str = "PACK"

    @property
    def backend(self) -> str:
        """Gradients go by nccl, or by gloo where there is no GPU or several workers share one, which nccl refuses."""
        return "cpu:gloo,cuda:nccl" if self.gpus >= 1 else "gloo"

    def scaling(self) -> ScalingConfig:
        """The same as Ray says it."""
        return ScalingConfig(
            num_workers=self.count if self.least is None else (self.least, self.count),
            use_gpu=self.gpus > 0,
            resources_per_worker={"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})},
            accelerator_type=self.accelerator_type,
            placement_strategy=self.placement,
        )


class WorkerError(RuntimeError):
    """A worker that raised or died: its rank, what it said, and its traceback where it has one.

    `final`: for a reason of its own, which another attempt would meet again.
    """

    def __init__(self, rank: int, said: str, trace: str = "", final: bool = False) -> None:
        super().__init__(f"rank {rank}: {said}")
        self.rank, self.said, self.trace, self.final = rank, said, trace, final

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rank, self.said, self.trace, self.final)


class Mailbox:
    """An actor between the first worker and the caller. Each thing told waits until the caller has answered it."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[tuple[Report, asyncio.Future[bool]] | None] = asyncio.Queue()
        self._open: list[asyncio.Future[bool]] = []
        self._stopped = False

    async def tell(self, report: Report) -> bool:
        """Whether to go on."""
        if self._stopped:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._open.append(answer)
        await self._told.put((report, answer))
        return await answer

    async def take(self) -> Report | None:
        """The next report; None at the end of the run."""
        told = await self._told.get()
        return None if told is None else told[0]

    async def go_on(self) -> None:
        """The answer to what was taken last."""
        self._open.pop(0).set_result(True)

    async def stop(self) -> None:
        """The answer to all that was told and will be."""
        self._stopped = True
        for answer in self._open:
            answer.set_result(False)
        self._open.clear()

    async def close(self) -> None:
        """The run has ended."""
        await self._told.put(None)


class EndAtOwnError(UserCallback):  # type: ignore[misc]
    """Ends a run at the first worker that raises for a reason of its own. Runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """What is raised here Ray does not try again."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, WorkerError) and error.final:
                raise error
