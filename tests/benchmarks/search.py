"""A whole search beside what users do today: the same trials by us, by plain TRL, and by Ray Tune + Train with TRL.

Each trial is DPO on the shipped pairs with SmolLM2-135M and the laptop profile's numbers (2 pairs a step, 256 tokens,
LoRA r = 16 on q, k, v, o without dropout), adapters on all layers or on the upper third; trials differ in their
learning rate, which is the same on all sides. No trial is stopped early.

ours            `python -m tune.search` as typed, into an empty folder: shared work, baselines on both halves of the
                prompts, trials, MLflow, report and registry, from start to exit. Its finals alone are not counted.
trl_processes   one Python process a trial, one after another: imports, model, DPOTrainer with its reference live,
                evaluation. Nothing is recorded.
ray_pattern     Tuner over a function that builds a TorchTrainer of one worker, and in it the same trial.

Every trial is evaluated once, at its end: loss, margin and accuracy on the held-out pairs, greedy answers to the
prompts of the search half with their Spiral Score, perplexity on 1,000 tokens of prose. `with evaluations` is the whole
time, in ours with the baselines; `training only` is the same less what lies in evaluations, in ours in the baselines
too. Service is what a trial after the first takes outside steps and evaluations.

Sides take turns, whole sides at a time. A ratio has the 95 % range that a bootstrap over trials gives; with several
rounds it is the median of theirs. With --stopping our search runs again under ASHA, evaluated at half its steps as
well; opponents, who stop nobody, have their first evaluation of a trial at its end.

    python tests/benchmarks/search.py --keep search.jsonl    # an hour or more on two cores; goes on where it was cut
    python tests/benchmarks/search.py --keep search.jsonl --stopping --json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_runs import (
    OURS,
    PATTERN,
    PROCESSES,
    STOPPED,
    Run,
    Trial,
    all_evaluated,
    evaluated,
    leads_for_good,
    ratio,
    seconds,
    training_only,
    warm_service,
)
from search_sides import PLACEMENTS, SIDES, WHOLE, Asked, trl_process

TAKEN = {"": training_only, "_evaluated": evaluated}
Found = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """What is measured in one piece: a side's search, or one trial of the processes."""

    placement: str
    turn: int
    side: str
    trial: int | None = None

    def __str__(self) -> str:
        return "/".join(str(part) for part in (self.placement, self.turn, self.side, self.trial) if part is not None)

    def measure(self, asked: Asked) -> Found:
        """Run it; a plain object."""
        if self.trial is not None:
            return asdict(trl_process(asked, self.placement, self.trial))
        return asdict(WHOLE[self.side](asked, self.placement))


def units(placements: Sequence[str], sides: Sequence[str], rounds: int, trials: int) -> Iterator[Unit]:
    """All of them in the order in which they run: in every round another side begins."""
    for turn in range(rounds):
        for place, placement in enumerate(placements):
            first = (turn + place) % len(sides)
            for side in (*sides[first:], *sides[:first]):
                pieces = range(trials) if side == PROCESSES else (None,)
                yield from (Unit(placement, turn, side, piece) for piece in pieces)


class Keep:
    """What is measured already, a JSON line a unit; without a file it lasts as long as this process.

    Raises ValueError where the file is of a search with other options.
    """

    def __init__(self, file: Path | None, asked: Asked) -> None:
        self.file, self.asked, self.found = file, json.loads(json.dumps(asdict(asked))), {}
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.is_file() else []
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if row["asked"] != self.asked:
                raise ValueError(f"{file}:{number}: measured with other options; name another file with --keep")
            self.found[row["unit"]] = row["found"]

    def add(self, unit: Unit, found: Found) -> None:
        """Note it, at once on disk."""
        self.found[str(unit)] = found
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"unit": str(unit), "asked": self.asked, "found": found}) + "\n")

    def run(self, placement: str, turn: int, side: str) -> Run:
        """A side's search, of the processes put together from their trials."""
        if side != PROCESSES:
            return Run.read(self.found[str(Unit(placement, turn, side))])
        pieces = [self.found[str(Unit(placement, turn, side, trial))] for trial in range(self.asked["trials"])]
        return Run(tuple(map(Trial.read, pieces)))


def measure(asked: Asked, keep: Keep, todo: Sequence[Unit]) -> None:
    """Measure what is not kept yet."""
    for number, unit in enumerate(todo, 1):
        if str(unit) not in keep.found:
            print(f"{unit} ({number} of {len(todo)})", file=sys.stderr, flush=True)
            keep.add(unit, unit.measure(asked))


def summary(runs: Mapping[str, Sequence[Run]], steps: int) -> Found:
    """What the runs of each side came to at one placement of the adapters."""
    found: Found = {}
    for suffix, taken in TAKEN.items():
        for other in (side for side in (PROCESSES, PATTERN) if OURS in runs and side in runs):
            median, low, high = ratio(runs[other], runs[OURS], taken)
            found |= {f"vs_{other}{suffix}": median, f"vs_{other}{suffix}_spread": [low, high]}
    found["seconds"] = {
        side: {taken.__name__: statistics.median(seconds(run, taken) for run in of_side) for taken in TAKEN.values()}
        for side, of_side in runs.items()
        if side != STOPPED
    }
    found["parts"] = {side: parts(of_side) for side, of_side in runs.items() if side != STOPPED}
    if STOPPED in runs:
        found["stopping"] = {side: stopping(of_side, steps) for side, of_side in runs.items() if side != OURS}
    return found


def parts(runs: Sequence[Run]) -> dict[str, float]:
    """Where a side's seconds are, each the median of its rounds."""
    each = [
        {
            "before": run.before,
            "training": sum(trial.training for trial in run.trials),
            "evaluation": sum(trial.evaluation for trial in run.trials),
            "service": sum(trial.service for trial in run.trials),
            "after": run.after,
            **run.parts,
        }
        for run in runs
    ]
    return {name: statistics.median(row[name] for row in each) for name in each[0]}


def stopping(runs: Sequence[Run], steps: int) -> dict[str, float]:
    """When every trial of a side had an evaluation, and when the trial led that leads at the end."""
    return {
        "every_trial_evaluated_s": statistics.median(all_evaluated(run) for run in runs),
        "winner_leads_s": statistics.median(leads_for_good(run, steps)[0] for run in runs),
        "winner": leads_for_good(runs[0], steps)[1],
    }


def table(found: Found, placements: Sequence[str]) -> str:
    """The figures for people."""
    lines = [f"{'adapters on':<12} {'side':<14} {'training only':>24} {'with evaluations':>24}"]
    for placement in placements:
        row = found[placement]
        for side, taken in row["seconds"].items():
            cells = [_cell(taken[t.__name__], row, f"vs_{side}{suffix}") for suffix, t in TAKEN.items()]
            lines.append(f"{placement.replace('_', ' '):<12} {side:<14} {cells[0]:>24} {cells[1]:>24}")
            where = ", ".join(f"{name} {value:.1f}" for name, value in row["parts"][side].items())
            lines.append(f"  seconds: {where}")
        for side, when in row.get("stopping", {}).items():
            lines.append(
                f"  {side}: every trial evaluated after {when['every_trial_evaluated_s']:.0f} s, "
                f"trial {when['winner']} leads for good after {when['winner_leads_s']:.0f} s"
            )
    lines += [f"service a trial: {side} {value:.2f} s" for side, value in found["service_seconds"].items()]
    return "\n".join(lines)


def _cell(taken: float, row: Found, name: str) -> str:
    if name not in row:
        return f"{taken:.0f} s"
    low, high = row[f"{name}_spread"]
    return f"{taken:.0f} s = {row[name]:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="default: 8")
    parser.add_argument("--steps", type=int, default=12, help="of each trial (default: 12)")
    parser.add_argument("--rounds", type=int, default=1, help="how often every side runs (default: once)")
    parser.add_argument("--placements", nargs="+", choices=PLACEMENTS, default=list(PLACEMENTS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--stopping", action="store_true", help="our search under ASHA too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="lay a value on the config")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what is measured there, and go on from it")
    parser.add_argument("--json", action="store_true", help="for scripts")
    given = parser.parse_args()
    asked = Asked(given.trials, given.steps, tuple(given.set))
    sides = [*given.sides, *([STOPPED] if given.stopping else [])]
    try:
        keep = Keep(given.keep, asked)
    except ValueError as error:
        parser.error(str(error))
    measure(asked, keep, list(units(given.placements, sides, given.rounds, given.trials)))
    runs = {
        placement: {side: [keep.run(placement, turn, side) for turn in range(given.rounds)] for side in sides}
        for placement in given.placements
    }
    found: Found = {placement: summary(of_side, given.steps) for placement, of_side in runs.items()}
    found["service_seconds"] = {
        side: statistics.median(warm)
        for side in given.sides
        if (warm := [service for of_side in runs.values() for service in warm_service(of_side[side])])
    }
    print(json.dumps(found) if given.json else table(found, given.placements))


if __name__ == "__main__":
    main()
