"""One finalist of a published search again: does its value lie in the interval that was published?

The same values, seed and prompts in a run of its own; another machine rounds otherwise, so the run may differ while the
finding holds. It goes on where it was cut. Knows nothing of how searches are run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phasegpt.config_io import Tree, project_root
from phasegpt.runs import run_paths
from tune.jobs import Job, final_job, trial_number
from tune.published import Published


@dataclass(frozen=True)
class Rerun:
    """What a finalist came to again, beside the 95 % interval of its mean that was published."""

    trial: str
    seed: int
    metric: str
    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the value lies in the interval."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        where = "lies in" if self.holds else "lies outside"
        return (
            f"{self.trial} on seed {self.seed}: {self.metric} {self.value:.3f} {where} the published interval "
            f"[{self.low:.3f}, {self.high:.3f}]"
        )


def rerun(search: Published) -> Rerun:
    """Run the winner of `search` on the first of its fresh seeds. Raises ValueError where there is no such finalist."""
    from phasegpt.train import fit

    finalist = winner(search)
    config = search.request(name=f"{search.name}-check").config
    job = job_of(finalist, config.experiment.seed)
    laid = Tree(search.config, config.dump(), {}).with_values(job.values, origin=job.name).typed()
    paths = run_paths(project_root(), search.track, f"{search.name}-check/{job.name}")
    metric = next(iter(config.search.objectives))
    found = fit(laid, paths=paths, half=job.half)
    low, high = finalist["interval"]
    return Rerun(finalist["trial"], job.values["experiment.seed"], metric, found.metrics[metric], low, high)


def winner(search: Published) -> Mapping[str, Any]:
    """The finalist that won, as the summary has it. Raises ValueError where the search has none with an interval."""
    if not search.summary.is_file():
        raise ValueError(f"{search.name}: not published yet; run it with: python -m tune.results --only {search.name}")
    summary = search.found()
    won = (summary.get("winner") or {}).get("trial")
    for finalist in summary.get("finalists", ()):
        if finalist["trial"] == won and finalist["interval"]:
            return dict(finalist)
    raise ValueError(f"{search.name}: has no winner with an interval; check a search that went to finals")


def job_of(finalist: Mapping[str, Any], seed: int) -> Job:
    """The first of its finals, as the search ran it."""
    return final_job(trial_number(finalist["trial"]), dict(finalist["params"]), 0, seed)
