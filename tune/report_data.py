"""Everything that a report tells, read from the files of a search while it runs or afterwards. Changes nothing.

What a number means is decided elsewhere: gains, intervals and the winner are those of the summary, importances, map and
budget those of the insight. What is not there (no finals yet, a job that died) is empty here.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phasegpt.checkpoint_files import evaluation_files, history_left
from phasegpt.config_search import Search
from phasegpt.files import read_json
from phasegpt.pairs import HALVES
from phasegpt.runs import run_paths
from tune.control import running
from tune.insight_records import Record
from tune.insight_summary import Insight, seen
from tune.jobs import baseline_name, trial_name
from tune.past import shared_seconds
from tune.report_jobs import Piece, pieces
from tune.request import Request
from tune.spool import SPOOL, Event, read_spool


@dataclass(frozen=True)
class Run:
    """What a job left on disk. One that did not come to its end has no metrics, and its curve up to there.

    `curve` is {step: metrics}, `losses` are (step, training loss), `parts` the seconds of its evaluations by part,
    `sizes` how many pairs trained and judged it.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    answers: tuple[Mapping[str, Any], ...] = ()
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    losses: tuple[tuple[int, float], ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A trial of the study with what its job left."""

    record: Record
    run: Run

    @property
    def name(self) -> str:
        """As files and runs call it."""
        return trial_name(self.record.number)

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every evaluation that has `metric`, the one at its end included."""
        curve = {**self.record.curve, **self.run.curve}
        if self.record.metrics:
            curve.setdefault(self.record.steps, self.record.metrics)
        return [(step, curve[step][metric]) for step in sorted(curve) if metric in curve[step]]


@dataclass(frozen=True)
class Material:
    """A search as its report sees it, at the time `made` (seconds since 1970).

    `summary` is the object that the search ended with, None before; `insight` is None of an ablation. `finals` are by
    the name of their trial, or of their arm; `baselines` by the half of the prompts. `tags` are those of the search's
    MLflow run. `shared_seconds` is what making the shared work took during the search.
    """

    request: Request
    made: float
    running: bool
    summary: Mapping[str, Any] | None
    insight: Insight | None
    trials: tuple[Trial, ...]
    finals: Mapping[str, tuple[Run, ...]]
    baselines: Mapping[str, Run]
    pieces: tuple[Piece, ...]
    tags: Mapping[str, str]
    begun: float | None
    shared_seconds: float

    @property
    def search(self) -> Search:
        """What was searched for, where and how long."""
        return self.request.config.search

    @property
    def objective(self) -> str:
        """The first objective, which decides."""
        return next(iter(self.search.objectives))

    @property
    def better(self) -> str:
        """Which way the first objective is better: max or min."""
        return self.search.objectives[self.objective]

    @property
    def winner(self) -> str | None:
        """The name of the trial that won, where one did."""
        won = (self.summary or {}).get("winner")
        return won["trial"] if won else None

    def runs(self) -> list[Run]:
        """Every job that left anything: baselines, trials, finals."""
        finals = (run for runs in self.finals.values() for run in runs)
        return [*self.baselines.values(), *(trial.run for trial in self.trials), *finals]

    @property
    def finalists(self) -> Sequence[Mapping[str, Any]]:
        """As the summary has them, the winner first."""
        found: Sequence[Mapping[str, Any]] = (self.summary or {}).get("finalists", ())
        return found


Seen = tuple[Insight | None, Sequence[Record]]


def gather(request: Request, known: Seen | None = None, *, ended: bool = False) -> Material:
    """The material of a search's report.

    `known` are its insight and records where somebody has them already, or wants no insight; `ended` is said by its
    driver, which still holds the search.
    """
    places = request.places
    events = read_spool(places.folder / SPOOL) if (places.folder / SPOOL).is_file() else []
    insight, records = (None, ()) if request.arms else known or seen(request)
    ran = pieces(events, request.name)
    whole = (events[0]["at"] / 1000, events[-1]["at"] / 1000) if events else None
    return Material(
        request=request,
        made=time.time(),
        running=not ended and running(places.folder),
        summary=read_json(places.summary) if places.summary.is_file() else None,
        insight=insight,
        trials=tuple(Trial(record, read_run(request, trial_name(record.number))) for record in records),
        finals=_finals(request),
        baselines={half: read_run(request, baseline_name(half)) for half in HALVES if _result(request, half).is_file()},
        pieces=ran,
        tags=_tags(events, request.name),
        begun=whole[0] if whole else None,
        shared_seconds=shared_seconds(places.storage, whole) if whole else 0.0,
    )


def _result(request: Request, half: str) -> Path:
    return request.places.results / f"{baseline_name(half)}.json"


def _tags(events: Sequence[Event], search: str) -> Mapping[str, str]:
    """The tags that the search's run was begun with, the last time it was."""
    begun = [event["tags"] for event in events if event["kind"] == "run" and event["key"] == search]
    return begun[-1] if begun else {}


def _finals(request: Request) -> dict[str, tuple[Run, ...]]:
    """By trial or arm, in the order of their seeds."""
    found: dict[str, tuple[Run, ...]] = {}
    kind, owner = ("arm", "arm") if request.arms else ("final", "trial")
    for path in sorted(request.places.results.glob(f"{kind}-*-seed-*.json")):
        who = f"{owner}-{path.stem.split('-')[1]}"
        found[who] = (*found.get(who, ()), read_run(request, path.stem))
    return found


def read_run(request: Request, name: str) -> Run:
    """What the job `name` left: its result, and of its checkpoints what tells of a run that did not end."""
    paths = run_paths(request.places.storage, request.track, f"{request.name}/{name}")
    result = read_json(paths.results) if paths.results.is_file() else {}
    evaluations = [read_json(path) for path in evaluation_files(paths.checkpoints)]
    curve = result.get("curve") or [{"step": each["step"], **each["summary"]} for each in evaluations]
    log = result.get("training_log") or history_left(paths.checkpoints)
    seconds = [each["seconds"] for each in evaluations] or [
        result["seconds"] if name.startswith("baseline") and "seconds" in result else {}
    ]
    return Run(
        name=name,
        metrics=result.get("metrics", {}),
        steps=int(result.get("steps", 0)) or max((int(row["step"]) for row in log), default=0),
        answers=tuple(result.get("answers", ())),
        curve={int(row["step"]): {k: v for k, v in row.items() if k != "step"} for row in curve},
        losses=tuple((int(row["step"]), float(row["loss"])) for row in log if "loss" in row),
        parts=_summed(seconds),
        clock=result.get("clock", {}),
        seed=result.get("config", {}).get("experiment", {}).get("seed"),
        versions=result.get("versions", {}),
        hashes=result.get("hashes", {}),
        sizes=result.get("data", {}),
    )


def _summed(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in seconds for name in each)
    return {name: sum(each.get(name, 0.0) for each in seconds) for name in names}
