"""A search from its request to its last word: the cluster, the jobs, the winner, the seat, the record.

Nothing here decides: it puts the parts together in their order. Ray and what needs it are imported once the environment
is set, which Ray reads when it is imported.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from phasegpt.config_io import project_root
from phasegpt.files import write_json
from phasegpt.logs import log_to
from tune import environment
from tune.capacity import Ask, chosen, slots
from tune.console import Console
from tune.delivery import tracking_uri
from tune.ending import ending
from tune.finalists import most_finals
from tune.jobs import trial_name
from tune.lineage import search_params, search_tags
from tune.request import Request, RequestError
from tune.space import budget
from tune.spool import SPOOL
from tune.tracking import Tracker

if TYPE_CHECKING:
    from tune.conclude import Conclusion
    from tune.searcher import JobSearcher
    from tune.watch import Watch

WON, NO_RESULT, INTERRUPTED = 0, 3, 130
log = logging.getLogger("phasegpt")
Trainable = Callable[[Mapping[str, Any]], None]


def drive(
    request: Request, options: argparse.Namespace, trainable: Trainable | None = None, family: str | None = None
) -> int:
    """Run or resume a search as the command's `options` say; the exit status.

    `trainable` stands in for the jobs that train models. `family` is the parent of several searches, which speaks for
    them. Raises RequestError where another process runs this search.
    """
    request.places.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(request.places.folder / "driver.lock", timeout=0), log_to(request.places.log):
            return _run_alone(request, options, trainable, family)
    except Timeout:
        raise RequestError(
            f"{request.name} is being run by another process; wait for it or take another --name"
        ) from None


def _run_alone(request: Request, options: argparse.Namespace, trainable: Trainable | None, family: str | None) -> int:
    environment.prepare(own_cluster=options.address is None)
    if not request.resumed:
        request.save()
    log.propagate = False  # the terminal belongs to the console
    _keep_data_checks(request)
    search = request.config.search
    trials = budget(search, request.own_values())
    jobs = 2 + trials + most_finals(search, trials)
    if request.arms:
        jobs = 1 + len(request.arms) * search.finalists.seeds
    console = Console(f"{request.name}: track {request.track}", search.objectives, jobs, options.json)
    console.say(f"{request.name}: {request.profile_reason}")
    for warning in request.warnings:
        console.say(warning)
    uri = tracking_uri(project_root(), options.tracking_uri)
    tracker = Tracker(uri, request.config.logging.wandb_project, request.places.folder / SPOOL)
    try:
        return _with_tracker(request, options, console, tracker, uri, trainable, family)
    finally:
        waiting = tracker.close(timeout=60)
        if waiting:
            console.say(
                f"{waiting} rows wait for MLflow; send them with: python -m tune.tracking sync {request.places.folder}"
            )


def _keep_data_checks(request: Request) -> None:
    write_json(request.places.data_checks, request.data.as_dict())
    for warning in request.data.warnings:
        log.warning("data: %s: %s", warning.code, warning.at(request.data.source))


def _with_tracker(
    request: Request,
    options: argparse.Namespace,
    console: Console,
    tracker: Tracker,
    uri: str,
    trainable: Trainable | None,
    family: str | None,
) -> int:
    from tune.conclude import conclude, final_results, summary, write_summary
    from tune.crown import crown
    from tune.run import cluster, crew, make_searcher, run_jobs
    from tune.watch import Watch

    workers = request.config.training.distributed.workers
    ask = Ask.of(workers, options)
    with cluster(options.address, dashboard=workers > 1) as nodes:
        slot = slots(nodes, ask, request.config.search.max_concurrent)
        hands = crew(slot, ask)
        tags = search_tags(request)
        searcher = make_searcher(request, hands)
        watch = Watch(searcher, console, tracker, request.name, tags)
        _track_begin(request, tracker, {**tags, "kind": "search"}, watch, family)
        with console:
            whole = run_jobs(request, searcher, watch, slot, hands, trainable)
    if not whole:
        tracker.finish(request.name, "KILLED")
        return _interrupted(request, options, family)
    if request.arms:
        return _end_ablation(request, searcher, tracker, console, as_object=options.json)
    found = conclude(request, searcher)
    champion = crown(request, found, tracker, uri, final_results(request, searcher, found.winner)) if found else None
    report = summary(request, searcher, found, champion)
    write_summary(request, report)
    _track_end(request, report, tracker, found)
    if options.json and family is None:
        print(json.dumps(report, indent=1))
    console.say(ending(request, report))
    return WON if found else NO_RESULT


def _end_ablation(
    request: Request, searcher: "JobSearcher", tracker: Tracker, console: Console, *, as_object: bool
) -> int:
    from tune.ablated import ablated, table
    from tune.ablation import draw

    found = ablated(request, searcher)
    if found is not None:
        report = {"name": request.name, "track": request.track, **found.as_dict()}
        picture = request.places.summary.with_suffix(".png")
        write_json(request.places.summary, report)
        draw(found, picture)
        tracker.table(request.name, table(found), "ablation.json")
        for file in (request.places.summary, picture):
            tracker.file(request.name, file, "result")
        console.say(f"\n{found.as_text()}\n  {picture}")
        if as_object:
            print(json.dumps(report, indent=1))
    else:
        console.say(f"No arm came to a result on every seed; the log tells why: {request.places.log}")
    tracker.file(request.name, request.places.log, "log")
    tracker.finish(request.name, "FAILED" if found is None else "FINISHED")
    return NO_RESULT if found is None else WON


def _track_begin(request: Request, tracker: Tracker, tags: dict[str, str], watch: "Watch", family: str | None) -> None:
    if family is not None:
        tracker.run(family, family, tags={"kind": "tracks", "search": family})
    tracker.run(request.name, request.name, parent=family, tags=tags, params=search_params(request))
    watch.settle()
    tracker.reconcile()  # jobs that an earlier process left; those that go on are opened again
    tracker.file(request.name, request.places.request, "config")
    tracker.file(request.name, request.places.data_checks, "data")
    tracker.tags(request.name, {"data_warnings": str(len(request.data.warnings))})


def _interrupted(request: Request, options: argparse.Namespace, family: str | None) -> int:
    """Says how to go on, on stderr: whoever asked for --json wants to know as well."""
    track, name = (request.track, request.name) if family is None else ("all", family)
    command = shlex.join(["python", "-m", "tune.search", *resume_arguments(track, name, options)])
    print("Stopped. Finished trials are kept, running ones go on from their checkpoints:", file=sys.stderr)
    print(f"  {command}", file=sys.stderr)
    return INTERRUPTED


def resume_arguments(track: str, name: str, options: argparse.Namespace) -> list[str]:
    """The options that go on with a search: its name, and where it was told to run and to write."""
    words = ["--track", track, "--resume", name]
    for place in ("storage", "tracking_uri", "address"):
        value = getattr(options, place)
        words += [] if value is None else [f"--{place.replace('_', '-')}", str(value)]
    return words + chosen(options) + (["--json"] if options.json else [])


def _track_end(request: Request, report: dict[str, Any], tracker: Tracker, found: "Conclusion | None") -> None:
    if found is not None:
        metrics = {f"winner/{name}": value for name, value in found.winner.metrics.items()}
        tracker.metrics(request.name, {**metrics, **dict(found.winner.metrics)}, 0)
        tracker.tags(request.name, {"winner": trial_name(found.winner.number), "verdict": found.verdict})
    tracker.file(request.name, request.places.summary, "result")
    tracker.file(request.name, request.places.log, "log")
    tracker.finish(request.name, "FINISHED" if found else "FAILED")
