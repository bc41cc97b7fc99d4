"""A search on Ray: start or join a cluster, put the jobs through warm actors, end cleanly.

Resume is replay: a new Tuner from the study, the results and the trials' own checkpoints.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import TrialScheduler

from phasegpt.config import Config
from phasegpt.config_io import project_root
from phasegpt.crew import Crew
from phasegpt.files import is_full
from phasegpt.interrupts import heed_termination
from phasegpt.mirror import address_of, mirror_of
from tune.amounts import amounts_of
from tune.capacity import Ask, Node, Slots, type_resource
from tune.commands import Commands
from tune.keys import with_keys
from tune.losses import FREE, Losses, survive
from tune.luggage import ADDRESS
from tune.request import Request
from tune.scheduler import NotingScheduler
from tune.searcher import ArmSearcher, JobSearcher
from tune.stopping import rungs
from tune.study import Study
from tune.trial import run_job
from tune.watch import Watch

log = logging.getLogger("phasegpt")


STATE_OF_TUNE = "ray.tune.execution.experiment_state"
"""Tells with a traceback that a full disk does not take Tune's own record of the search, which nothing reads."""

TRIAL_MEMORY = 64e6
"""What a trial of several workers reserves itself, in bytes: no CPU, of which the smallest part would keep a group of
as many workers as a node has CPUs waiting for ever, nor nothing at all, which Tune refuses."""


@contextmanager
def cluster(address: str | None, dashboard: bool = False) -> Iterator[Sequence[Node]]:
    """Join the Ray cluster at `address`, or start one for this process alone; yields what each of its nodes has.

    What we start ends with the block. It has a dashboard, on the loopback address, only where that is asked for: Ray
    Train asks it whose placement groups can go after a crash. Where this process has one already that is taken, and
    left. `environment.prepare` comes before this module's import.
    """
    if ray.is_initialized():
        yield living_nodes()
        return
    if address is None:
        ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    heed_termination()
    try:
        yield living_nodes()
    finally:
        leave_ray()


def leave_ray() -> None:
    """End what this process has of Ray. Raises KeyboardInterrupt afterwards where that was asked for meanwhile.

    A shutdown takes a second or more, and Ray's core begins it by making SIGTERM kill this process at once. So it runs
    in a thread of its own, and this one says again and again what SIGTERM means.
    """
    interrupt = None
    with ThreadPoolExecutor(1) as aside:
        ended = aside.submit(ray.shutdown)
        while not ended.done():
            try:
                heed_termination()
                wait([ended], timeout=0.01)
            except KeyboardInterrupt as told:
                interrupt = told
    heed_termination()
    ended.result()
    if interrupt is not None:
        raise interrupt


def living_nodes() -> Sequence[Node]:
    """What each living node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def crew(slot: Slots, ask: Ask) -> Crew:
    """The workers of one job."""
    return Crew(ask.workers, slot.cpus, slot.gpus, ask.least, ask.accelerator_type, ask.placement)


def make_searcher(request: Request, workers: Crew, since: float = math.inf) -> JobSearcher:
    """The searcher of a request: its study opened or replayed, its jobs in order, each for such a crew.

    `since` is when its process began to drive the search: it obeys what it was told from then on.
    """
    places, config = request.places, request.config
    study = Study(*request.study, config.search, request.own_values(), config.experiment.seed)
    spec: dict[str, Any] = {
        "root": str(project_root()),
        "storage": str(places.storage),
        "track": request.track,
        "name": request.name,
        "config": config.dump(),
        "objective": next(iter(config.search.objectives)),
        "crew": asdict(workers),
    }
    spec |= {ADDRESS: address_of(places.storage)} if mirror_of(places.storage) else {}
    kind = partial(ArmSearcher, request.arms) if request.arms else JobSearcher
    return kind(
        study,
        config.search,
        spec,
        places.results,
        config.experiment.seed,
        trial_rungs(config),
        config.evaluation.baseline_checkpoint,
        Commands(places.folder, since),
    )


def make_scheduler(request: Request, searcher: JobSearcher) -> TrialScheduler:
    """Asynchronous halving, or first come first served: synchronous halving is the searcher's."""
    stopping = request.config.search.scheduler == "asha"
    return NotingScheduler(searcher, trial_rungs(request.config) if stopping else ())


def trial_rungs(config: Config) -> tuple[int, ...]:
    """The steps at which the trials of a search are compared, by the config's own length and rhythm."""
    return rungs(amounts_of(config).steps[-1], config.evaluation.eval_interval)


def trial_resources(workers: Crew) -> dict[str, float]:
    """What a trial reserves: what it uses, or next to nothing where it has workers that reserve for themselves."""
    if workers.count > 1:
        return {"memory": TRIAL_MEMORY}
    kind = type_resource(workers.accelerator_type)
    return {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {}), **kind}


def run_jobs(
    request: Request,
    searcher: JobSearcher,
    watch: Watch,
    slot: Slots,
    workers: Crew,
    trainable: Callable[[Mapping[str, Any]], None] | None = None,
) -> bool:
    """Put every job of the search through the cluster; False where the user interrupted it."""
    resources = trial_resources(workers)
    survive()
    logging.getLogger(STATE_OF_TUNE).setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(with_keys(trainable or run_job), resources),
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
            callbacks=[watch, Losses()],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=FREE),
        ),
    )
    try:
        tuner.fit()
    except TuneError as error:  # Tune keeps a record of its own beside the search, which nothing here reads
        if not is_full(error):
            raise
        searcher.trouble = searcher.trouble or "the storage takes no more"
        return False
    return not searcher.interrupted()
