"""A search on Ray: start or join a cluster, put the jobs through warm actors, end cleanly.

Resume is replay (DESIGN decision 11): a new Tuner from the study, the results and the trials' own checkpoints.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from phasegpt.config_io import project_root
from tune.request import Request, RequestError
from tune.searcher import JobSearcher, StopNotingScheduler
from tune.study import Study
from tune.trial import run_job
from tune.watch import Watch

log = logging.getLogger("phasegpt")


@dataclass(frozen=True)
class Slots:
    """How many jobs run at once, and what each may use."""

    count: int
    cpus: float
    gpus: float


class ClusterError(RequestError):
    """The cluster cannot run what was asked; the message names its real resources."""


@contextmanager
def cluster(address: str | None) -> Iterator[Mapping[str, float]]:
    """Join the Ray cluster at `address`, or start one for this process alone; yields its resources.

    What we start has no dashboard and ends with the block. `environment.prepare` comes before this module's import.
    """
    if address is None:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def slots(resources: Mapping[str, float], max_concurrent: int | None, gpus_per_trial: float | None) -> Slots:
    """One slot a GPU, or on CPUs one for every two cores; `max_concurrent` caps it. The cores are shared out evenly."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    wanted_gpus = gpus_per_trial if gpus_per_trial is not None else (1.0 if gpus else 0.0)
    if wanted_gpus > gpus or cpus < 1:
        raise ClusterError(
            f"a trial needs {wanted_gpus:g} GPU and 1 CPU, the cluster has {gpus:g} GPU and {cpus:g} CPU; "
            f"add nodes or ask for less (--gpus-per-worker)"
        )
    fits = int(gpus // wanted_gpus) if wanted_gpus else max(1, int(cpus // 2))
    count = min(fits, max_concurrent or fits, int(cpus))
    return Slots(count, float(max(1, int(cpus // count))), wanted_gpus)


def make_searcher(request: Request, threads: float) -> JobSearcher:
    """The searcher of a request: its study opened or replayed, its jobs in order."""
    places, config = request.places, request.config
    study = Study(
        places.name, places.folder / "study.journal", config.search, request.own_values(), config.experiment.seed
    )
    spec: dict[str, Any] = {
        "root": str(project_root()),
        "storage": str(places.storage),
        "track": request.track,
        "name": request.name,
        "config": config.dump(),
        "objective": next(iter(config.search.objectives)),
        "threads": threads,
    }
    return JobSearcher(study, config.search, spec, places.results, config.experiment.seed)


def make_scheduler(request: Request, searcher: JobSearcher) -> TrialScheduler:
    """ASHA over steps, or first come first served; either way its stops are noted."""
    config = request.config
    if config.search.scheduler != "asha":
        return StopNotingScheduler(FIFOScheduler(), searcher)
    longest = config.training.max_steps or 10_000
    asha = ASHAScheduler(
        time_attr="step",
        metric=searcher.metric,
        mode=searcher.mode,
        grace_period=min(config.evaluation.eval_interval, longest),
        max_t=longest,
        reduction_factor=3,
    )
    return StopNotingScheduler(asha, searcher)


def run_jobs(request: Request, searcher: JobSearcher, watch: Watch, slot: Slots) -> bool:
    """Put every job of the search through the cluster; False where the user interrupted it."""
    resources = {"CPU": slot.cpus, **({"GPU": slot.gpus} if slot.gpus else {})}
    tuner = tune.Tuner(
        tune.with_resources(run_job, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(request, searcher),
            num_samples=-1,
            max_concurrent_trials=slot.count,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"job-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"ray-{os.getpid()}",
            storage_path=str(request.places.folder / "ray"),
            callbacks=[watch],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    tuner.fit()
    return not searcher.interrupted()
