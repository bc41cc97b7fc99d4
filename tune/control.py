"""python -m tune.search status | stop | extend | clone | clean NAME: look at a search and steer it, also afterwards.

What is asked is a line beside the search (`commands`), which its driver obeys at the next report of a job, or when it
goes on with --resume. Looking changes nothing: the study is read from a copy.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.config_io import TRACKS
from tune.commands import Command, give

if TYPE_CHECKING:
    from tune.request import Request
    from tune.status import Status

DONE, BAD_INPUT = 0, 2

EXAMPLES = """examples:
  python -m tune.search status b-20260101-120000
  python -m tune.search stop b-20260101-120000              ends it as Ctrl-C does; --resume goes on
  python -m tune.search stop b-20260101-120000 --finish     no more trials; on to the finals
  python -m tune.search stop b-20260101-120000 7            trial 7 alone
  python -m tune.search extend b-20260101-120000 --trials 8
  python -m tune.search clone b-20260101-120000 3 --set training.beta=0.2 --warm-start
  python -m tune.search clean b-20260101-120000 --dry-run   what search.keep: finalists would remove, and how much
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.search",
        description="Look at a search and steer it, while it runs or afterwards.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True)
    status = _verb(verbs, "status", "where a search stands")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    stop = _verb(verbs, "stop", "stop a trial, or the whole search")
    stop.add_argument("trial", nargs="?", help="the trial, as 7 or trial-007 (default: the whole search)")
    stop.add_argument("--finish", action="store_true", help="begin no more trials and go on to the finals")
    extend = _verb(verbs, "extend", "more trials")
    extend.add_argument("--trials", type=int, required=True, metavar="N", help="how many more")
    clone = _verb(verbs, "clone", "one more trial with the values of another")
    clone.add_argument("trial", help="the trial to copy, as 7 or trial-007")
    clone.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="change a value")
    clone.add_argument("--warm-start", action="store_true", help="begin with its weights, not the reference's")
    clone.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow that has weights which are here no more (default: the search's)"
    )
    clean = _verb(verbs, "clean", "remove checkpoints as search.keep: finalists does, whatever the search itself said")
    clean.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    return p


def _verb(verbs: Any, name: str, about: str) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=f"{about.capitalize()}.")
    p.add_argument("name", metavar="NAME", help="the search")
    p.add_argument("--track", choices=TRACKS, help="where several tracks have a search of this name")
    p.add_argument("--storage", metavar="PLACE", help="where the search writes (default: the project)")
    return p


def main(argv: Sequence[str]) -> int:
    """Do what was asked: 0, or 2 with one message."""
    options = parser().parse_args(argv)
    try:
        whole = options.verb in ("clone", "clean")
        request = find(options.name, options.track, options.storage, with_checkpoints=whole)
        if options.verb == "status":
            return _print_status(request, options.json)
        if options.verb == "clean":
            return _clean(request, options.dry_run)
        command = _command(options, request)
        _give(request, command)
    except (OSError, ValueError) as error:  # no such search, or a file of it that is damaged
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    sys.stdout.write(f"{request.name}: {command}\n{_when(request)}\n")
    return DONE


def find(name: str, track: str | None, storage: str | None, *, with_checkpoints: bool = False) -> "Request":
    """The search of a name to look at, wherever its track; what object storage has of it is fetched first.

    Raises RequestError where there is none or more than one.
    """
    from tune.request import NAME, RequestError, SearchPlaces, bring, resumed_request, storage_folder

    if not NAME.fullmatch(name):
        raise RequestError(f"{name!r:.100}: no search can have this name")
    folder = storage_folder(storage)
    places = [SearchPlaces(folder, t, name) for t in TRACKS if t in (track or t)]
    for place in places:
        bring(place, with_checkpoints=with_checkpoints)
    found = [place.track for place in places if place.request.is_file()]
    if len(found) > 1:
        raise RequestError(f"{name}: tracks {' and '.join(found)} have a search of this name; add --track")
    return resumed_request(found[0] if found else track or "b", name, storage, to_run=False)


def _give(request: "Request", command: Command) -> None:
    from tune.request import RequestError
    from tune.sealed import put_commands

    give(request.places.folder, command)
    try:
        put_commands(request.places)
    except OSError as error:
        raise RequestError(f"the command is here alone, the storage could not be written to: {error}") from error


def _print_status(request: "Request", as_object: bool) -> int:
    from tune.status import read_status

    status: Status = read_status(request)
    text = json.dumps(status.as_dict(), indent=1) if as_object else status.as_text()
    sys.stdout.write(text + "\n")
    return DONE


def _clean(request: "Request", dry: bool) -> int:
    from filelock import FileLock, Timeout

    from tune.clean import clean
    from tune.request import RequestError

    try:
        with FileLock(request.places.folder / "driver.lock", timeout=0):
            for line in clean(request, dry=dry):
                sys.stdout.write(f"{line}\n")
    except Timeout:
        raise RequestError(f"{request.name} is running: it removes by search.keep itself; stop it first") from None
    return DONE


def _command(options: argparse.Namespace, request: "Request") -> Command:
    from tune.request import RequestError

    if request.arms and (options.verb in ("extend", "clone") or options.finish or options.trial is not None):
        raise RequestError(f"{request.name} is an ablation: its arms are set, there are no trials to stop or to add")
    if options.verb == "extend":
        if options.trials < 1:
            raise RequestError(f"--trials {options.trials}: expected a number of trials to add")
        return Command("extend", trials=options.trials)
    if options.verb == "clone":
        return _clone(options, request)
    if options.trial is None:
        return Command("finish" if options.finish else "interrupt")
    if options.finish:
        raise RequestError("--finish ends the trials of the whole search; leave out the trial, or leave out --finish")
    number = trial_number(options.trial, request)
    if _states(request)[number] != "running":
        raise RequestError(f"trial {number} has ended already: {_states(request)[number]}")
    return Command("stop", trial=number)


def trial_number(text: str, request: "Request") -> int:
    """7 or trial-007 as a number of a trial that was begun. Raises RequestError for another."""
    from tune.request import RequestError

    digits, known = text.removeprefix("trial-"), sorted(_states(request))
    if not digits.isdigit() or int(digits) not in known:
        last = f"0 to {known[-1]}" if known else "none yet"
        raise RequestError(f"{text}: no such trial of {request.name}; trials so far: {last}")
    return int(digits)


def _states(request: "Request") -> dict[int, str]:
    from tune.status import read_status

    return {trial.number: trial.state for trial in read_status(request).trials}


def _clone(options: argparse.Namespace, request: "Request") -> Command:
    from phasegpt.config_errors import ConfigError
    from phasegpt.config_io import Tree
    from phasegpt.key_paths import get, split
    from tune.request import RequestError
    from tune.space import allows
    from tune.warm import provide_weights

    number = trial_number(options.trial, request)
    if options.warm_start and _states(request)[number] == "running":
        raise RequestError(f"--warm-start: trial {number} has not ended; stop it first, or clone without its weights")
    tree = Tree(str(request.places.request), request.config.dump(), {})
    for text in options.sets:
        tree = tree.with_override(text)
    try:
        tree.typed()
    except ConfigError as error:
        raise RequestError(str(error)) from error
    values = {key: get(tree.values, split(key)) for key in tree.overridden}
    for key, value in values.items():
        if key in request.config.search.parameters and not allows(request.config.search.parameters[key], value):
            choices = request.config.search.parameters[key].plain()
            raise RequestError(f"--set {key}: the search chooses out of {choices}; found {value!r}")
    if options.warm_start and provide_weights(request, number, options.tracking_uri):
        sys.stderr.write(f"the weights of trial {number} are back from MLflow\n")
    return Command("clone", trial=number, values=values, warm=options.warm_start)


def _when(request: "Request") -> str:
    if running(request.places.folder):
        return "Its driver does so at the next report of a job; see: python -m tune.search status " + request.name
    return f"It is not running: python -m tune.search --track {request.track} --resume {request.name}"


def running(folder: Path) -> bool:
    """Whether some process drives the search in `folder`, on this machine or on another that shares its storage."""
    from filelock import FileLock, Timeout

    from tune.backup import driven_elsewhere

    if not (folder / "driver.lock").is_file():
        return False
    try:
        with FileLock(folder / "driver.lock", timeout=0):
            return driven_elsewhere(folder)
    except Timeout:
        return True
