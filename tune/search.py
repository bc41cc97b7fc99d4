"""python -m tune.search: find the best settings for a track. Parses first; torch and ray come after.

Exit status: 0 a winner was found, 2 bad input, 3 the search ended without a usable trial or could not go on,
130 interrupted.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phasegpt.config_io import TRACKS
from phasegpt.interrupts import run, terminable
from tune.capacity import WAIT, Ask, add_options, shared_by

if TYPE_CHECKING:
    from tune.drive import Trainable
    from tune.request import Request

WON, BAD_INPUT, INTERRUPTED = 0, 2, 130
ALL = "all"
VERBS = ("status", "stop", "extend", "clone", "clean")
"""First words that speak to a search there is; `tune.control` has them."""

EXAMPLES = """examples:
  python -m tune.search --track b                       the whole search on this machine
  python -m tune.search --track b --plan                what it would do and how long; starts nothing
  python -m tune.search --track a --trials 24 --set training.beta=0.05
  python -m tune.search --track b --sampler grid --set 'search.parameters={training.kto_lambda: {grid: [0.01, 0.5]}}'
  python -m tune.search --track b --ablate training.kto_lambda=0,0.01,0.1,0.5 --seeds 3
  python -m tune.search --track all                     the three in turn, with one comparison
  python -m tune.search --track b --resume b-20260101-120000
  python -m tune.search status b-20260101-120000        also stop, extend, clone and clean; each has --help
  python -m tune.search --track b --address auto --storage /shared/phasegpt
  python -m tune.search --track b --storage s3://bucket/team            also --resume NAME, from another machine
  PGPASSWORD=… python -m tune.search --track b --study-url postgresql://me@db.example.org/studies
"""

FLAGS = {  # options that are short names of config keys
    "trials": "search.trials",
    "max_concurrent": "search.max_concurrent",
    "sampler": "search.sampler",
    "scheduler": "search.scheduler",
    "seed": "experiment.seed",
    "seeds": "search.finalists.seeds",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.search",
        description="Search a track's parameters, confirm the best on fresh seeds, and keep the champion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--track", choices=(*TRACKS, ALL), required=True, help="a: DPO, b: DPO + λ·KL, c: two stages, all: in turn"
    )
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
    p.add_argument("--scheduler", choices=("asha", "halving", "none"), help="stop losing trials early, or never")
    p.add_argument("--workers-per-trial", type=int, metavar="N", help="workers that share a trial (default: one)")
    add_options(p)
    p.add_argument(
        "--ablate",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="compare settings side by side instead of searching; may be repeated",
    )
    p.add_argument("--seeds", type=int, metavar="N", help="fresh seeds for each finalist, or each arm of an ablation")
    p.add_argument("--seed", type=int, metavar="N", help="seed of data split, adapters and sampler")
    p.add_argument("--name", help="name of the search (default: track and time)")
    p.add_argument("--resume", metavar="NAME", help="go on with a search that was stopped")
    p.add_argument(
        "--storage",
        metavar="PLACE",
        help="where checkpoints, results and logs go: a folder, s3://… or gs://… (default: the project)",
    )
    p.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    p.add_argument(
        "--study-url", metavar="URL", help="keep the study in PostgreSQL (default: a journal beside the search)"
    )
    p.add_argument("--address", metavar="ADDR", help="a running Ray cluster (default: one for this search alone)")
    p.add_argument(
        "--wait-minutes",
        type=_minutes,
        default=WAIT,
        metavar="M",
        help=f"how long to wait for the first node of a cluster that grows (default: {WAIT:g})",
    )
    p.add_argument("--plan", action="store_true", help="print what would run and start nothing")
    p.add_argument("--measure", action="store_true", help="with --plan: measure this machine first (up to a minute)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of progress")
    return p


def _minutes(text: str) -> float:
    """A number of minutes, as a type of argparse."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of minutes, 0 or more")
    return value


def overrides(options: argparse.Namespace) -> list[str | tuple[str, Any, str]]:
    """What the options lay on the config, in the order: --set, then the short names."""
    found: list[str | tuple[str, Any, str]] = list(options.sets)
    for name, key in FLAGS.items():
        value = getattr(options, name)
        if value is not None:
            found.append((key, value, f"--{name.replace('_', '-')}"))
    return [*found, *shared_by(options.workers_per_trial, "--workers-per-trial")]


def main(argv: Sequence[str] | None = None, trainable: "Trainable | None" = None) -> int:
    """Parse, check, and do what was asked; every message is for people. `trainable` stands in for jobs that train."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in VERBS:
        from tune.control import main as control

        return control(words)
    options = parser().parse_args(words)
    if options.measure and not options.plan:
        parser().error("--measure needs --plan, whose estimate of time it serves")
    try:
        with terminable():
            return _search(options, trainable)
    except _bad_input() as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; nothing that was finished is lost", file=sys.stderr)
        return INTERRUPTED


def _bad_input() -> tuple[type[Exception], ...]:
    from phasegpt.base_model import ModelError
    from phasegpt.files import DamagedError
    from phasegpt.object_store import StorageError
    from tune.request import RequestError
    from tune.spool import TrackingError

    return RequestError, ModelError, StorageError, TrackingError, DamagedError


def _search(options: argparse.Namespace, trainable: "Trainable | None") -> int:
    from phasegpt.base_model import resolve_base
    from phasegpt.config_io import project_root
    from phasegpt.mlflow_client import tracking_uri
    from tune.databases import require_driver
    from tune.drive import drive
    from tune.request import require_storage
    from tune.wandb_sink import require_wandb

    requests = requests_of(options)
    for request in requests:
        Ask.of(request.config.training.distributed.workers, options)
        if request.config.logging.use_wandb:
            require_wandb()
    if options.plan:
        return _print_plans(requests, options)
    require_driver(tracking_uri(project_root(), options.tracking_uri))
    for request in requests:
        _check_study(request)
        require_storage(request)
        resolve_base(request.config.model.base_model, project_root())
    fetched = [_with_fetched(request, options.tracking_uri) for request in requests]
    if options.track != ALL:
        return drive(fetched[0], options, trainable)
    from tune.tracks import search_all

    return search_all(fetched, fetched[0].name.rsplit("-", 1)[0], options, trainable)


def _check_study(request: "Request") -> None:
    """Raises RequestError where the study's database knows a new search already, DatabaseError where it is away."""
    if request.study_url is None:
        return
    from tune.request import RequestError
    from tune.study_store import has_study

    name = request.study[0]
    if has_study(name, request.study_url) and not request.resumed:
        raise RequestError(f"--study-url: there is a study {name} in the database; take another --name")


def _with_fetched(request: "Request", uri: str | None) -> "Request":
    """The request with models from the registry fetched and named by version, and a line that says so of each."""
    from phasegpt.config import value_at
    from phasegpt.config_sections import BASELINE, REFERENCE, is_registered

    named = [key for key in (REFERENCE, BASELINE) if is_registered(value_at(request.config, key) or "")]
    if not named:
        return request
    from phasegpt.checkpoints import with_fetched_models  # brings torch, which the driver does without
    from phasegpt.config_io import project_root
    from phasegpt.mirror import push_below
    from phasegpt.mlflow_client import tracking_uri
    from phasegpt.runs import references_of, shared_work_of
    from tune.request import RequestError

    work = references_of(shared_work_of(request.places.storage))
    config = with_fetched_models(request.config, work, tracking_uri(project_root(), uri))
    if trouble := push_below(work):
        raise RequestError(trouble)
    said = (f"{key} is {value_at(config, key)}" for key in named)
    return replace(request, config=config, warnings=(*request.warnings, *said))


def requests_of(options: argparse.Namespace) -> "list[Request]":
    """The search that a command's options ask for, or one a track, named after their family. Raises RequestError."""
    from tune.request import RequestError

    if options.track != ALL:
        return [_request(options, options.track, options.name, options.resume)]
    if options.config or options.ablate:
        raise RequestError("--track all takes each track's own file: leave out --config and --ablate")
    family = options.resume or options.name or f"{ALL}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [(track, f"{family}-{track}") for track in TRACKS]
    return [
        _request(options, track, None if options.resume else name, name if options.resume else None)
        for track, name in names
    ]


def _request(options: argparse.Namespace, track: str, name: str | None, resume: str | None) -> "Request":
    from tune.request import RequestError, new_request, resumed_request

    laid = overrides(options)
    if resume:
        if laid or options.config or options.name or options.ablate or options.profile != "auto":
            raise RequestError(
                "--resume goes on with the search as it was: leave out --set, --config, --profile, --name and the like"
            )
        return resumed_request(track, resume, options.storage, options.study_url)
    return new_request(
        track,
        config=options.config,
        profile=options.profile,
        overrides=laid,
        name=name,
        storage=options.storage,
        ablate=options.ablate,
        study_url=options.study_url,
    )


def _print_plans(requests: "Sequence[Request]", options: argparse.Namespace) -> int:
    """The plan of a search; of several tracks one after another, as JSON a list of them."""
    from tune.plan import as_json, make_plan
    from tune.plan_text import as_text

    if options.measure:
        from tune.measure_rate import measure_for

        print(measure_for(requests[0].config), file=sys.stderr)
    plans = [make_plan(r, Ask.of(r.config.training.distributed.workers, options)) for r in requests]
    if options.json:
        objects = [as_json(plan) for plan in plans]
        print(json.dumps(objects if options.track == ALL else objects[0], indent=1))
    else:
        print("\n\n".join(map(as_text, plans)))
    return WON


if __name__ == "__main__":
    run(main)
