"""A search ordered from a cluster: from the options of the command to a job that may be sent.

First what needs no cluster, so that a mistake is told at once; then what the cluster says of itself.
"""

import argparse
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import checks
from cluster.checks import Failure, Told
from cluster.inputs import with_inputs
from cluster.package import Package, check_size, project_package
from cluster.sending import Surroundings, again_words, caches_below, environment, search_words
from cluster.target import Target
from phasegpt.object_store import is_address
from tune import search
from tune.capacity import Ask
from tune.request import Request, RequestError, choose_profile, is_own_file, storage_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Tell = Callable[[str], None]


@dataclass
class Order:
    """A job to send. `options` are the command's, with what was left open decided; `check` decides the profile.

    `paths` are files that every node must have by their full path, `config` is that of the search inside the job.
    """

    options: argparse.Namespace
    target: Target
    requests: Sequence[Request]
    around: Surroundings
    paths: Sequence[str]
    config: str | None
    program: Sequence[str]
    rest: Sequence[str]

    @property
    def name(self) -> str:
        """The search's."""
        return str(self.options.resume or self.options.name)

    @property
    def storage(self) -> str:
        """Where it writes, as the cluster sees it."""
        return str(self.options.storage)

    @property
    def tracking_uri(self) -> str:
        """Its MLflow, as the cluster sees it."""
        return str(self.options.tracking_uri)

    @property
    def command(self) -> list[str]:
        """What the job runs."""
        fresh = self.options.resume is None
        name, profile = (self.name, self.options.profile) if fresh else (None, None)
        return [*self.program, *search_words(self.rest, name, profile, self.config, self.storage)]

    @property
    def again(self) -> str:
        """The command that goes on with the search from here."""
        return shlex.join(again_words(self.options.track, self.name, self.target, self.storage, self.tracking_uri))

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster notes of the job."""
        return {"search": self.name, "track": self.options.track, "storage": self.storage, "again": self.again}

    def check(self, client: "JobSubmissionClient", tell: Tell) -> None:
        """Ask the cluster and decide the profile by what it has. Raises RequestError with every reason against it."""
        import ray

        from cluster.asking import ask

        _refuse(checks.same_ray(self.target.dashboard.ray_version(), ray.__version__))
        tell(f"looking at the cluster at {self.target.dashboard.address} ...")
        begun = time.monotonic()
        told = ask(client, self.around, self.storage, self.tracking_uri, self.paths, self._needs())
        tell(f"  {len(told.nodes)} nodes, looked at in {time.monotonic() - begun:.0f} s")
        if self.options.resume is None:
            self._decide_profile(told, tell)
        _refuse(self._failures(told))
        for wanted in checks.waits_for_nodes(told, self._needs()):
            tell(f"  the search will wait for nodes: {wanted}")

    def _decide_profile(self, told: Told, tell: Tell) -> None:
        """`auto` means the cluster's GPUs, not this machine's; what it leads to is checked as the search checks it."""
        own = is_own_file(self.options.config)
        gpu = told.has_gpu or bool(self.options.gpus_per_worker)  # a cluster that grows may have none yet
        profile, reason = choose_profile(self.options.profile, gpu, own=own)
        tell(f"  {reason}")
        self.options.profile = profile or "none"
        self.requests = search.requests_of(self.options)

    def _failures(self, told: Told) -> list[Failure]:
        found = [
            *checks.all_answered(told),
            *checks.same_python(told),
            *checks.has_packages(told),
            *checks.has_paths(told),
            *checks.storage_is_shared(told, self.storage),
            *checks.tracking_answers(told, self.tracking_uri),
        ]
        for request in self.requests:
            needs = Ask.of(request.config.training.distributed.workers, self.options)
            found += checks.one_trial_fits(told, needs, request.config.search.max_concurrent)
        return list(dict.fromkeys(found))

    def _needs(self) -> Ask:
        """What a trial asks of the cluster; of several searches, one of that which has most workers."""
        workers = [request.config.training.distributed.workers for request in self.requests]
        return Ask.of(max(workers, default=1), self.options)


def place_order(
    options: argparse.Namespace, target: Target, program: Sequence[str], rest: Sequence[str], tell: Tell
) -> Order:
    """What can be decided and checked without the cluster. Raises RequestError with every problem of its kind."""
    _settle_places(options, target)
    requests = _requests(options, tell)
    if options.resume is None:
        options.name = options.name or _family(options.track, requests)
    around, paths, config = _surroundings(options, target, requests)
    return Order(options, target, requests, around, paths, config, program, rest)


def _settle_places(options: argparse.Namespace, target: Target) -> None:
    """Storage and MLflow of the job: as given, else those of the local cluster, MLflow else as the environment says."""
    local = target.local
    options.storage = options.storage or (local.storage if local else None)
    options.tracking_uri = options.tracking_uri or (local.tracking_uri if local else None)
    options.tracking_uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    _refuse(
        [
            *checks.storage_can_be_shared(options.storage),
            *checks.tracking_is_http(options.tracking_uri),
            *checks.study_is_bare(options.study_url),
        ]
    )
    storage_folder(options.storage)


def _requests(options: argparse.Namespace, tell: Tell) -> list[Request]:
    """What the options ask for, checked as the search checks it; none where that lies on a disk that is not here."""
    if options.resume and not Path(options.storage).is_dir():
        why = "is the nodes' to read" if is_address(options.storage) else "is not mounted here"
        tell(f"{options.storage} {why}: the job itself looks for the search {options.resume}")
        return []
    requests = search.requests_of(options)
    for request in requests:
        Ask.of(request.config.training.distributed.workers, options)
    return requests


def _family(track: str, requests: Sequence[Request]) -> str:
    """What the search is called, decided here so that it is known before it runs."""
    return requests[0].name.rsplit("-", 1)[0] if track == search.ALL else requests[0].name


def _surroundings(
    options: argparse.Namespace, target: Target, requests: Sequence[Request]
) -> tuple[Surroundings, list[str], str | None]:
    """Where the job runs, the full paths that every node must have, and the path of its config there."""
    caches = None if target.local else caches_below(options.storage)
    found = environment(options.tracking_uri, options.env, caches)
    if options.image:
        return Surroundings(Package(), found, image=options.image), [], options.config
    package, paths = with_inputs(project_package(), [request.config for request in requests])
    config = None
    if options.config:
        package, config = package.with_file(Path(options.config))
    check_size(package)
    return Surroundings(package, found, pip=options.pip, uv=options.uv), paths, config


def _refuse(failures: Sequence[Failure]) -> None:
    """Raises RequestError with every failure, one a line."""
    if failures:
        raise RequestError("\n".join(map(str, failures)))
