"""A search from its request to its last word: the cluster, the jobs, the winner, the seat, the record.

Nothing here decides: it puts the parts together in their order. Ray and what needs it are imported once the environment
is set, which Ray reads when it is imported.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from phasegpt.config_io import project_root
from phasegpt.files import is_full, make_folder, read_json, write_json
from phasegpt.logs import log_to
from phasegpt.mlflow_client import tracking_uri
from tune import environment
from tune.backup import BusyError, kept
from tune.capacity import Ask, Node, Slots, slots
from tune.captions import NOTE, as_block, search_note
from tune.console import Console
from tune.databases import held
from tune.ending import ending
from tune.finalists import most_finals
from tune.going_on import mend, say_how_to_go_on
from tune.keepsakes import leave
from tune.lineage import search_tags
from tune.machine_load import MachineLoad
from tune.record import state_tags
from tune.request import Request, RequestError
from tune.search_record import begin_search, end_search
from tune.space import budget
from tune.spool import SPOOL
from tune.sync import left_behind, unsent
from tune.tracking import Tracker

if TYPE_CHECKING:
    from tune.searcher import JobSearcher
    from tune.sweep import Sweep
    from tune.watch import Watch

WON, NO_RESULT, INTERRUPTED = 0, 3, 130
LAST_WORDS, LAST_WORDS_IN_HASTE = 60.0, 5.0
"""How many seconds MLflow is left to take what waits, at the end and after a second Ctrl-C."""

log = logging.getLogger("phasegpt")
Trainable = Callable[[Mapping[str, Any]], None]


def drive(
    request: Request, options: argparse.Namespace, trainable: Trainable | None = None, family: str | None = None
) -> int:
    """Run or resume a search as the command's `options` say; the exit status.

    `trainable` stands in for the jobs that train models. `family` is the parent of several searches, which speaks for
    them. Raises RequestError where another process runs this search.
    """
    make_folder(request.places.folder)
    try:
        with (
            FileLock(request.places.folder / "driver.lock", timeout=0),
            held(request.study_url, request.study[0]) as alone,
            kept(request.places, resumed=request.resumed),
            log_to(request.places.log),
        ):
            if not alone:
                raise _busy(request)
            if family is None and not request.resumed and request.places.request.exists():
                raise RequestError(f"{request.name} was begun by another process meanwhile; take another --name")
            return _run_alone(request, options, trainable, family)
    except (Timeout, BusyError):
        raise _busy(request) from None
    except KeyboardInterrupt:
        say_how_to_go_on(request, options, family)
        return INTERRUPTED
    except OSError as error:
        if not is_full(error):
            raise
        print(f"{request.name}: the storage takes no more: {error}", file=sys.stderr)
        say_how_to_go_on(request, options, family)
        return NO_RESULT


def _busy(request: Request) -> RequestError:
    return RequestError(f"{request.name} is being run by another process; wait for it or take another --name")


def _run_alone(request: Request, options: argparse.Namespace, trainable: Trainable | None, family: str | None) -> int:
    began = time.time()
    environment.prepare(own_cluster=options.address is None)
    if request.resumed:
        mend(request)
    else:
        request.save()
    log.propagate = False  # the terminal belongs to the console
    _keep_data_checks(request)
    title = f"{request.name}: track {request.track}"
    console = Console(title, request.config.search.objectives, jobs_of(request), options.json)
    console.say(f"{request.name}: {request.profile_reason}")
    for warning in request.warnings:
        console.say(warning)
    if (left := left_behind(request.places.storage, request.places.folder)) is not None:
        console.say(left)
    uri = tracking_uri(project_root(), options.tracking_uri)
    tracker = Tracker(uri, request.config.logging.wandb_project, request.places.folder / SPOOL)
    patience = LAST_WORDS
    try:
        return _Drive(request, options, family, console, tracker, uri, began).run(trainable)
    except KeyboardInterrupt:
        patience = LAST_WORDS_IN_HASTE
        tracker.finish(request.name, "KILLED")
        raise
    finally:
        waiting = tracker.close(patience)
        if waiting:
            console.say(unsent(waiting, tracker.trouble, request.places.folder))


def jobs_of(request: Request) -> int:
    """How many jobs a request leads to where all of them come to a result."""
    search = request.config.search
    if request.arms:
        return 1 + len(request.arms) * search.finalists.seeds
    trials = budget(search, request.own_values())
    return 2 + trials + most_finals(search, trials)


def _keep_data_checks(request: Request) -> None:
    write_json(request.places.data_checks, request.data.as_dict())
    for warning in request.data.warnings:
        log.warning("data: %s: %s", warning.code, warning.at(request.data.source))


@dataclass(frozen=True)
class _Drive:
    """One search under way, with where it speaks and where it is recorded; `began` in seconds since 1970."""

    request: Request
    options: argparse.Namespace
    family: str | None
    console: Console
    tracker: Tracker
    uri: str
    began: float

    def run(self, trainable: Trainable | None) -> int:
        """Every job, then what they came to."""
        from tune.run import cluster, crew, make_searcher, run_jobs
        from tune.watch import Watch

        request = self.request
        workers = request.config.training.distributed.workers
        ask = Ask.of(workers, self.options)
        # stdout is for the one object of --json; Ray writes there of workers that died
        with redirect_stdout(sys.stderr), cluster(self.options.address, dashboard=workers > 1) as nodes:
            slot = self._room(nodes, ask)
            hands, tags = crew(slot, ask), search_tags(request)
            searcher = make_searcher(request, hands, self.began)
            sweep = self._sweep(searcher)
            watch = Watch(searcher, self.console, self.tracker, request.name, tags, sweep.job)
            self._begin(tags, watch)
            sweep.all(concluded=False)  # what an earlier process had no time to
            with self.console, MachineLoad(self.tracker, request.name, request.places.folder / SPOOL):
                whole = run_jobs(request, searcher, watch, slot, hands, trainable)
        if not whole:
            self._describe("Interrupted.")
            self._record(request.places.log)
            self.tracker.finish(request.name, "KILLED")
            return self._stopped(searcher)
        return self._end_ablation(searcher) if request.arms else self._end(searcher)

    def _room(self, nodes: Sequence[Node], ask: Ask) -> Slots:
        """What there is room for: on this machine what it has, on a cluster what it has or may grow to."""
        from tune.run import living_nodes
        from tune.waiting import find_room

        most = self.request.config.search.max_concurrent
        if self.options.address is None:
            return slots(nodes, ask, most)
        return find_room(living_nodes, ask, most, self.options.wait_minutes, self.console.say)

    def _begin(self, tags: Mapping[str, str], watch: "Watch") -> None:
        begin_search(self.request, self.tracker, tags, self.family)
        watch.settle()
        for left in self.tracker.reconcile(self.request.name):  # what goes on is opened again
            self.tracker.tags(left, state_tags("interrupted", ""))

    def _sweep(self, searcher: "JobSearcher") -> "Sweep":
        from tune.sweep import Sweep

        return Sweep(self.request.places, self.request.config.search.keep, searcher.study)

    def _stopped(self, searcher: "JobSearcher") -> int:
        """Says how to go on, and why that is needed where nobody asked for a stop."""
        if searcher.trouble:
            print(f"{self.request.name}: {searcher.trouble}", file=sys.stderr)
        say_how_to_go_on(self.request, self.options, self.family)
        return NO_RESULT if searcher.trouble else INTERRUPTED

    def _end(self, searcher: "JobSearcher") -> int:
        from tune.conclude import conclude, final_results, summary
        from tune.crown import crown

        request, found = self.request, conclude(self.request, searcher)
        champion = None
        if found is not None:
            finals = final_results(request, searcher, found.winner)
            champion = crown(request, found, self.tracker, self.uri, finals)
        sweep = self._sweep(searcher)
        if sweep.all(concluded=found is not None):
            self.console.say("Removed adapters of trials that lost (search.keep: finalists); see docs/operations.md")
        report = {**summary(request, searcher, found, champion), "disk": sweep.as_dict()}
        before = read_json(request.places.summary) if request.places.summary.is_file() else None
        end_search(request, self.tracker, report, before)
        write_json(request.places.summary, report)
        self._record(request.places.summary, request.places.log)
        finished = sum(trial["state"] == "COMPLETE" for trial in report["trials"])
        leave(request, self.tracker, finished, len(report["trials"]))
        return self._say(report, ending(request, report, self.uri), ended=found is not None)

    def _end_ablation(self, searcher: "JobSearcher") -> int:
        from tune.ablated import ablated, table
        from tune.report_pictures_finals import ablation_picture
        from tune.report_svg import report_style, save_png

        request, found = self.request, ablated(self.request, searcher)
        if found is None:
            self._describe("No two arms came to a result on every seed.")
            self._record(request.places.log)
            return self._say({}, f"No two arms came to a result on every seed; see {request.places.log}", ended=False)
        disk = {"disk": self._sweep(searcher).as_dict()}
        report = {"name": request.name, "track": request.track, **found.as_dict(), **disk}
        write_json(request.places.summary, report)
        with report_style():
            [picture] = save_png([ablation_picture(report, request.name, found.better)], request.places.summary.parent)
        self.tracker.table(request.name, table(found), "ablation.json")
        self._describe(as_block(found.as_text()))
        self._record(request.places.summary, picture, request.places.log)
        leave(request, self.tracker)
        return self._say(report, f"\n{found.as_text()}\n  {picture}", ended=True)

    def _describe(self, state: str) -> None:
        self.tracker.tags(self.request.name, {NOTE: search_note(self.request, state)})

    def _record(self, *files: Path) -> None:
        for file in files:
            self.tracker.file(self.request.name, file, "log" if file.suffix == ".log" else "result")

    def _say(self, report: dict[str, Any], text: str, *, ended: bool) -> int:
        """The last words, as an object where that was asked for and the search speaks for itself; the exit status."""
        self.tracker.finish(self.request.name, "FINISHED" if ended else "FAILED")
        if self.options.json and self.family is None:
            print(json.dumps(report, indent=1))
        self.console.say(text)
        return WON if ended else NO_RESULT
