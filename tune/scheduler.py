"""Asynchronous halving as a Ray scheduler: first come first served, and a trial that is behind at a rung is stopped.

What was reached before is read from the study, so a resumed search stops by all that was ever measured. Each stop is
noted with the searcher before Ray acts on it: Ray itself tells a searcher the same for a stop as for an end.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from tune.reports import FINISHED_KEY
from tune.searcher import JobSearcher
from tune.stopping import loses


class StoppingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trials by the first objective at `rungs`, the last of which is a trial's own end and stops none."""

    def __init__(self, searcher: JobSearcher, rungs: Sequence[int]) -> None:
        super().__init__()
        self.searcher, self.rungs = searcher, frozenset(rungs[:-1])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles schedulers beside its state, which nothing here reads back

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Jobs other than trials, and reports without the objective, go on."""
        job, step = self.searcher.jobs[trial.trial_id], int(result.get("step", 0))
        told = job.kind == "trial" and self.searcher.metric in result and not result.get(FINISHED_KEY)
        if not told or step not in self.rungs:
            return str(self.CONTINUE)
        others = self.searcher.study.values_at(step, but=job.number)
        if not loses(float(result[self.searcher.metric]), others, self.searcher.mode):
            return str(self.CONTINUE)
        self.searcher.note_stop(trial.trial_id, step)
        return str(self.STOP)
