"""python -m tune.search: find the best settings for a track. Parses first; torch and ray come after.

Exit status: 0 a winner was found, 2 bad input, 3 the search ended without a usable trial, 130 interrupted.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tune.capacity import Ask, add_options, chosen, shared_by, slots

if TYPE_CHECKING:
    from tune.conclude import Conclusion
    from tune.console import Console
    from tune.request import Request
    from tune.tracking import Tracker

WON, BAD_INPUT, NO_RESULT, INTERRUPTED = 0, 2, 3, 130
log = logging.getLogger("phasegpt")

EXAMPLES = """examples:
  python -m tune.search --track b                       the whole search on this machine
  python -m tune.search --track b --plan                what it would do and how long; starts nothing
  python -m tune.search --track a --trials 24 --set training.beta=0.05
  python -m tune.search --track b --sampler grid --set 'search.parameters={training.kto_lambda: {grid: [0.01, 0.5]}}'
  python -m tune.search --track b --resume b-20260101-120000
  python -m tune.search --track b --address auto --storage /shared/phasegpt
"""

FLAGS = {  # options that are short names of config keys
    "trials": "search.trials",
    "max_concurrent": "search.max_concurrent",
    "sampler": "search.sampler",
    "scheduler": "search.scheduler",
    "seed": "experiment.seed",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.search",
        description="Search a track's parameters, confirm the best on fresh seeds, and keep the champion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--track", choices=("a", "b", "c"), required=True, help="a: DPO, b: DPO + λ·KL, c: two stages")
    p.add_argument(
        "--config", metavar="FILE", help="a track file of your own (default: the track's under configs/v14/)"
    )
    p.add_argument(
        "--profile",
        default="auto",
        choices=("auto", "laptop", "gpu", "none"),
        help="fit the track to a machine (default: auto)",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="sets",
        help="override any key of the config; may be repeated",
    )
    p.add_argument("--trials", type=int, metavar="N", help="how many trials")
    p.add_argument("--max-concurrent", type=int, metavar="N", help="how many at once (default: what the cluster holds)")
    p.add_argument("--sampler", choices=("tpe", "random", "grid", "nsga2"), help="how values are chosen")
    p.add_argument("--scheduler", choices=("asha", "none"), help="stop losing trials early, or never")
    p.add_argument("--workers-per-trial", type=int, metavar="N", help="workers that share a trial (default: one)")
    add_options(p)
    p.add_argument("--seed", type=int, metavar="N", help="seed of data split, adapters and sampler")
    p.add_argument("--name", help="name of the search (default: track and time)")
    p.add_argument("--resume", metavar="NAME", help="go on with a search that was stopped")
    p.add_argument("--storage", metavar="FOLDER", help="where checkpoints, results and logs go (default: the project)")
    p.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    p.add_argument("--address", metavar="ADDR", help="a running Ray cluster (default: one for this search alone)")
    p.add_argument("--plan", action="store_true", help="print what would run and start nothing")
    p.add_argument("--measure", action="store_true", help="with --plan: measure this machine first (up to a minute)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of progress")
    return p


def overrides(options: argparse.Namespace) -> list[str | tuple[str, Any, str]]:
    """What the options lay on the config, in the order: --set, then the short names."""
    found: list[str | tuple[str, Any, str]] = list(options.sets)
    for name, key in FLAGS.items():
        value = getattr(options, name)
        if value is not None:
            found.append((key, value, f"--{name.replace('_', '-')}"))
    return [*found, *shared_by(options.workers_per_trial, "--workers-per-trial")]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, and do what was asked; every message is for people."""
    words = parser()
    options = words.parse_args(argv)
    if options.measure and not options.plan:
        words.error("--measure needs --plan, whose estimate of time it serves")
    try:
        return _search(options)
    except _bad_input() as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted before the search began; nothing is lost", file=sys.stderr)
        return INTERRUPTED


def _bad_input() -> tuple[type[Exception], ...]:
    from phasegpt.base_model import ModelError
    from tune.request import RequestError
    from tune.spool import TrackingError

    return RequestError, ModelError, TrackingError


def _search(options: argparse.Namespace) -> int:
    from phasegpt.base_model import resolve_base
    from phasegpt.config_io import project_root
    from tune.wandb_sink import require_wandb

    request = _request(options)
    Ask.of(request.config.training.distributed.workers, options)
    if request.config.logging.use_wandb:
        require_wandb()
    if options.plan:
        return _print_plan(request, options)
    resolve_base(request.config.model.base_model, project_root())
    return _run(_with_reference(request, options.tracking_uri), options)


def _with_reference(request: "Request", uri: str | None) -> "Request":
    """The request with a reference from the registry fetched and named by its version, and a line that says so."""
    from phasegpt.config_sections import is_registered

    if not is_registered(request.config.training.reference_model or ""):
        return request
    from phasegpt.checkpoints import with_fetched_reference
    from phasegpt.config_io import project_root
    from phasegpt.runs import references_of, shared_work_of
    from tune.delivery import tracking_uri

    work = references_of(shared_work_of(request.places.storage))
    config = with_fetched_reference(request.config, work, tracking_uri(project_root(), uri))
    said = f"training.reference_model is {config.training.reference_model}"
    return replace(request, config=config, warnings=(*request.warnings, said))


def _request(options: argparse.Namespace) -> "Request":
    from tune.request import RequestError, new_request, resumed_request

    laid = overrides(options)
    if options.resume:
        if laid or options.config or options.name or options.profile != "auto":
            raise RequestError(
                "--resume goes on with the search as it was: leave out --set, --config, --profile, --name and the like"
            )
        return resumed_request(options.track, options.resume, options.storage)
    return new_request(
        options.track,
        config=options.config,
        profile=options.profile,
        overrides=laid,
        name=options.name,
        storage=options.storage,
    )


def _print_plan(request: "Request", options: argparse.Namespace) -> int:
    from tune.plan import as_json, make_plan
    from tune.plan_text import as_text

    if options.measure:
        from tune.measure_rate import measure_for

        print(measure_for(request.config), file=sys.stderr)
    plan = make_plan(request, Ask.of(request.config.training.distributed.workers, options))
    print(json.dumps(as_json(plan), indent=1) if options.json else as_text(plan))
    return WON


def _run(request: "Request", options: argparse.Namespace) -> int:
    from filelock import FileLock, Timeout

    from phasegpt.logs import log_to
    from tune.request import RequestError

    request.places.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(request.places.folder / "driver.lock", timeout=0), log_to(request.places.log):
            return _run_alone(request, options)
    except Timeout:
        raise RequestError(
            f"{request.name} is being run by another process; wait for it or take another --name"
        ) from None


def _run_alone(request: "Request", options: argparse.Namespace) -> int:
    from phasegpt.config_io import project_root
    from tune import environment
    from tune.console import Console
    from tune.delivery import tracking_uri
    from tune.finalists import most_finals
    from tune.space import budget
    from tune.spool import SPOOL
    from tune.tracking import Tracker

    environment.prepare(own_cluster=options.address is None)
    if not request.resumed:
        request.save()
    log.propagate = False  # the terminal belongs to the console
    _keep_data_checks(request)
    search = request.config.search
    trials = budget(search, request.own_values())
    jobs = 2 + trials + most_finals(search, trials)
    console = Console(f"{request.name}: track {request.track}", search.objectives, jobs, options.json)
    console.say(f"{request.name}: {request.profile_reason}")
    for warning in request.warnings:
        console.say(warning)
    uri = tracking_uri(project_root(), options.tracking_uri)
    tracker = Tracker(uri, request.config.logging.wandb_project, request.places.folder / SPOOL)
    try:
        return _with_tracker(request, options, console, tracker, uri)
    finally:
        waiting = tracker.close(timeout=60)
        if waiting:
            console.say(
                f"{waiting} rows wait for MLflow; send them with: python -m tune.tracking sync {request.places.folder}"
            )


def _keep_data_checks(request: "Request") -> None:
    from phasegpt.files import write_json

    write_json(request.places.data_checks, request.data.as_dict())
    for warning in request.data.warnings:
        log.warning("data: %s: %s", warning.code, warning.at(request.data.source))


def _with_tracker(
    request: "Request", options: argparse.Namespace, console: "Console", tracker: "Tracker", uri: str
) -> int:
    from tune.conclude import conclude, final_results, summary, write_summary
    from tune.crown import crown
    from tune.lineage import search_tags
    from tune.run import cluster, crew, make_searcher, run_jobs
    from tune.watch import Watch

    workers = request.config.training.distributed.workers
    ask = Ask.of(workers, options)
    with cluster(options.address, dashboard=workers > 1) as nodes:
        slot = slots(nodes, ask, request.config.search.max_concurrent)
        hands = crew(slot, ask)
        tags = search_tags(request)
        _track_begin(request, tracker, {**tags, "kind": "search"})
        searcher = make_searcher(request, hands)
        watch = Watch(searcher, console, tracker, request.name, tags)
        with console:
            whole = run_jobs(request, searcher, watch, slot, hands)
    if not whole:
        tracker.finish(request.name, "KILLED")
        return _interrupted(request, options)
    found = conclude(request, searcher)
    champion = crown(request, found, tracker, uri, final_results(request, searcher, found.winner)) if found else None
    report = summary(request, searcher, found, champion)
    write_summary(request, report)
    _track_end(request, report, tracker, found)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _say_end(request, report, console)
    return WON if found else NO_RESULT


def _track_begin(request: "Request", tracker: "Tracker", tags: dict[str, str]) -> None:
    from tune.lineage import search_params

    tracker.run(request.name, request.name, parent=None, tags=tags, params=search_params(request))
    tracker.reconcile()  # jobs that an earlier process left; those that go on are opened again
    tracker.file(request.name, request.places.request, "config")
    tracker.file(request.name, request.places.data_checks, "data")
    tracker.tags(request.name, {"data_warnings": str(len(request.data.warnings))})


def _interrupted(request: "Request", options: argparse.Namespace) -> int:
    """Says how to go on, on stderr: whoever asked for --json wants to know as well."""
    command = shlex.join(["python", "-m", "tune.search", *resume_arguments(request, options)])
    print("Stopped. Finished trials are kept, running ones go on from their checkpoints:", file=sys.stderr)
    print(f"  {command}", file=sys.stderr)
    return INTERRUPTED


def resume_arguments(request: "Request", options: argparse.Namespace) -> list[str]:
    """The options that go on with a search: its name, and where it was told to run and to write."""
    words = ["--track", request.track, "--resume", request.name]
    for name in ("storage", "tracking_uri", "address"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return words + chosen(options) + (["--json"] if options.json else [])


def _track_end(request: "Request", report: dict[str, Any], tracker: "Tracker", found: "Conclusion | None") -> None:
    if found is not None:
        metrics = {f"winner/{name}": value for name, value in found.winner.metrics.items()}
        tracker.metrics(request.name, {**metrics, **dict(found.winner.metrics)}, 0)
        tracker.tags(request.name, {"winner": f"trial-{found.winner.number:03d}", "verdict": found.verdict})
    tracker.file(request.name, request.places.summary, "result")
    tracker.file(request.name, request.places.log, "log")
    tracker.finish(request.name, "FINISHED" if found else "FAILED")


def _say_end(request: "Request", report: dict[str, Any], console: "Console") -> None:
    from tune.ending import ending

    console.say(ending(request, report))


if __name__ == "__main__":
    sys.exit(main())
