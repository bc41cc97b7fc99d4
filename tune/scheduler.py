"""What Ray does not tell a searcher: early stops and causes of death, noted before Ray acts on them.

Ray tells a searcher the same for a stop as for an end, and of a dead worker nothing. Asynchronous halving stops a trial
that is behind at a rung; what others reached there is read from the study, so a resumed search stops by all that was
ever measured.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from tune.reports import FINISHED_KEY
from tune.searcher import STOPPED, JobSearcher
from tune.smaller import OOM
from tune.stopping import loses

KILLED_FOR_MEMORY = "OutOfMemoryError"


class NotingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trials by the first objective at `rungs`, the last of which is a trial's own end and stops none.

    Without rungs nothing is stopped.
    """

    def __init__(self, searcher: JobSearcher, rungs: Sequence[int] = ()) -> None:
        super().__init__()
        self.searcher, self.rungs = searcher, frozenset(rungs[:-1])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles schedulers beside its state, which nothing here reads back

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Jobs other than trials, and reports without the objective, go on; a trial that people stop does not."""
        job, step = self.searcher.jobs[trial.trial_id], int(result.get("step", 0))
        self.searcher.obey()
        if job.kind == "trial" and job.number in self.searcher.to_stop and not result.get(FINISHED_KEY):
            self.searcher.note_stop(trial.trial_id, step, STOPPED)
            return str(self.STOP)
        told = job.kind == "trial" and self.searcher.metric in result and not result.get(FINISHED_KEY)
        if not told or step not in self.rungs or step in self.searcher.study.curve(job.number):
            return str(self.CONTINUE)  # what is in the study was decided on when it was told first
        others = self.searcher.study.values_at(step, but=job.number)
        if not loses(float(result[self.searcher.metric]), others, self.searcher.mode):
            return str(self.CONTINUE)
        self.searcher.note_stop(trial.trial_id, step)
        return str(self.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker died for good."""
        said = str(trial.get_error() or "")
        why = (
            f"{OOM}: the machine ran out of memory and Ray killed the worker; fewer trials at once "
            f"(--max-concurrent) or a smaller training.batch_size"
            if KILLED_FOR_MEMORY in said
            else "the worker died; its log is beside the search"
        )
        self.searcher.note_death(trial.trial_id, why)
