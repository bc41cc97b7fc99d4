"""Where a search stands, read from its files while it runs or afterwards. Changes nothing."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from phasegpt.files import read_json
from tune.commands import Command, Commands
from tune.console import number, short_name
from tune.databases import DatabaseError
from tune.jobs import trial_name
from tune.request import Request, RequestError
from tune.study import METRICS, ORIGIN, SAMPLED, WHY, Study
from tune.study_store import copied

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `step` and `metrics` are those of its last evaluation; `kept` whether it broke no constraint."""

    number: int
    state: str
    origin: str
    values: Mapping[str, Any]
    step: int | None
    metrics: Mapping[str, float]
    why: str
    kept: bool


@dataclass(frozen=True)
class Status:
    """A search: `running` says whether a driver holds it, `budget` how many trials it will have."""

    name: str
    track: str
    running: bool
    budget: int
    objectives: Mapping[str, str]
    trials: tuple[TrialStatus, ...]
    finals: int
    commands: tuple[str, ...]
    verdict: str | None

    def best(self) -> TrialStatus | None:
        """The finished trial with the best first objective, of those that keep the constraints if there are any."""
        name, way = next(iter(self.objectives.items()))
        done = [trial for trial in self.trials if trial.state == "complete" and name in trial.metrics]
        done = [trial for trial in done if trial.kept] or done
        return min(done, key=lambda t: t.metrics[name] * (-1 if way == "max" else 1), default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = self.best()
        return {**asdict(self), "best": best and trial_name(best.number)}

    def as_text(self) -> str:
        """For people."""
        counts = Counter(trial.state for trial in self.trials)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        lines = [
            f"{self.name}: track {self.track}, {'running' if self.running else 'not running'}",
            f"  trials    {len(self.trials)} of {self.budget} begun{f' ({states})' if states else ''}, "
            f"{self.finals} finals done",
        ]
        best = self.best()
        lines += [] if best is None else [f"  best      {_line(best)}"]
        lines += [f"  {trial.state:9} {_line(trial)}" for trial in self.trials if trial.state == "running"]
        lines += [f"  command   {text}" for text in self.commands]
        lines += [] if self.verdict is None else [f"  verdict   {self.verdict}"]
        return "\n".join(lines)


def _line(trial: TrialStatus) -> str:
    values = " ".join(f"{short_name(key)}={number(value)}" for key, value in trial.values.items())
    metrics = " ".join(f"{name}={number(value)}" for name, value in trial.metrics.items())
    step = "" if trial.step is None else f" at step {trial.step}"
    return f"{trial_name(trial.number)} {values}{step} {metrics}".rstrip()


def read_status(request: Request) -> Status:
    """The status of a search as its files have it now."""
    from tune.control import running

    places, search = request.places, request.config.search
    commands = Commands(places.folder).all()
    held = running(places.folder)
    with tempfile.TemporaryDirectory() as folder:
        study = copied_study(request, Path(folder), commands)
        trials = tuple(_trial(study, trial, list(search.objectives)) for trial in study.trials())
    verdict = read_json(places.summary)["verdict"] if places.summary.is_file() else None
    return Status(
        name=request.name,
        track=request.track,
        running=held,
        budget=study.budget,
        objectives=dict(search.objectives),
        trials=trials,
        finals=len(list(places.results.glob("final-*.json"))),
        commands=tuple(map(str, commands)),
        verdict=verdict,
    )


def copied_study(request: Request, folder: Path, commands: Sequence[Command]) -> Study:
    """The study with what `commands` make of it, opened from a copy in `folder`: the search's own is left as it is.

    Raises RequestError where its database does not answer.
    """
    name, where = request.study
    try:
        journal = copied(name, where, folder)
    except DatabaseError as error:
        raise RequestError(str(error)) from error
    study = Study(name, journal, request.config.search, request.own_values(), request.config.experiment.seed)
    for place, command in enumerate(commands):
        study.obey(place, command)
    return study


def _trial(study: Study, trial: FrozenTrial, objectives: list[str]) -> TrialStatus:
    attributes = trial.user_attrs
    curve = study.curve(trial.number)
    last = max(curve, default=None)
    metrics = attributes.get(METRICS) or (curve[last] if last is not None else {})
    return TrialStatus(
        number=trial.number,
        state=STATES.get(trial.state, "running"),
        origin=attributes.get(ORIGIN, SAMPLED),
        values=study.values(trial),
        step=None if METRICS in attributes else last,
        metrics={name: metrics[name] for name in objectives if name in metrics},
        why=attributes.get(WHY, ""),
        kept=all(violation <= 0 for violation in trial.constraints.values()),
    )
