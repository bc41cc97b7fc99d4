"""What a search cost, and what it did not: time by kind of work, steps, tokens, memory; stops and shared work.

Each job tells of its own training and evaluations, the spool of how long it ran in all. What neither names is the rest.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tune.console import duration
from tune.report_data import Material, Run
from tune.report_jobs import Piece, job_seconds, span
from tune.report_page import Column, Row, folded, joined, paragraph, table, tiles

PARTS = {"answers": "answers and their scores", "perplexity": "perplexity", "pairs": "held-out pairs"}


@dataclass(frozen=True)
class Cost:
    """Seconds and amounts of a search.

    `wall` is how long any job ran, `busy` the sum over jobs, `work` {kind of work: seconds} adds up to it. `unused` are
    the steps that stopped trials did not take out of `whole`, what all trials would have taken. `memory` in GB is the
    most of one worker. `fits` are the runs that shared what took `shared` seconds to make.
    """

    wall: float
    busy: float
    work: Mapping[str, float]
    jobs: Mapping[str, tuple[int, float]]
    steps: int
    tokens: float
    memory: float | None
    stopped: int
    unused: int
    whole: int
    fits: int
    shared: float


def cost(material: Material) -> Cost:
    """The cost as far as it is known by now."""
    runs, seconds = material.runs(), job_seconds(material.pieces)
    busy = sum(seconds.values())
    work = {
        "training steps": sum(run.clock.get("step_seconds", 0.0) for run in runs),
        **{told: sum(run.parts.get(part, 0.0) for run in runs) for part, told in PARTS.items()},
        "from the call to the first step": sum(run.clock.get("start_seconds", 0.0) for run in runs),
        "shared work": material.shared_seconds,
    }
    work["saving, loading and what is not noted"] = max(0.0, busy - sum(work.values()))
    kinds = {piece.job: piece.kind for piece in material.pieces}
    full = max((trial.record.steps for trial in material.trials if trial.record.state == "complete"), default=0)
    stopped = [trial.record for trial in material.trials if trial.record.state == "pruned"]
    return Cost(
        wall=span(material.pieces),
        busy=busy,
        work={name: value for name, value in work.items() if value > 0},
        jobs={kind: _of_kind(kind, kinds, seconds) for kind in dict.fromkeys(kinds.values())},
        steps=_steps(material),
        tokens=sum(run.clock.get("tokens_per_second", 0.0) * run.clock.get("step_seconds", 0.0) for run in runs),
        memory=max((gb for run in runs for gb in memory_of(run)), default=None),
        stopped=len(stopped),
        unused=sum(max(0, full - record.steps) for record in stopped),
        whole=full * sum(trial.record.state in ("complete", "pruned") for trial in material.trials),
        fits=sum(bool(run.metrics) and not run.name.startswith("baseline") for run in runs),
        shared=material.shared_seconds,
    )


def _of_kind(kind: str, kinds: Mapping[str, str], seconds: Mapping[str, float]) -> tuple[int, float]:
    mine = [seconds[job] for job, other in kinds.items() if other == kind]
    return len(mine), sum(mine)


def _steps(material: Material) -> int:
    finals = sum(run.steps for runs in material.finals.values() for run in runs)
    return finals + sum(max(trial.record.steps, trial.run.steps) for trial in material.trials)


def memory_of(run: Run) -> Sequence[float]:
    """GB that its workers used at most, as far as it is known."""
    found = run.clock.get("memory_gb", [])
    return found if isinstance(found, list) else [found]


def cost_section(material: Material) -> Markup:
    """Tiles, time by kind of work, and what was saved."""
    if not material.pieces:
        return paragraph("No job has begun.", "soft")
    found = cost(material)
    shown = [
        (
            "from the first job to the last",
            duration(found.wall),
            f"{duration(found.busy)} of work in all jobs together",
        ),
        ("optimiser steps", f"{found.steps:,}", f"{found.tokens:,.0f} tokens trained on" if found.tokens else ""),
    ]
    shown += [("most memory of a worker", f"{found.memory:.2f} GB", "since its first step")] if found.memory else []
    shown += [("steps that stopping saved", f"{found.unused:,}", f"of {found.whole:,}")] if found.stopped else []
    work = [Row([name, duration(value), f"{value / found.busy:.0%}"]) for name, value in found.work.items()]
    kinds = [Row([kind, str(count), duration(value)]) for kind, (count, value) in found.jobs.items()]
    return joined(
        tiles(shown),
        table([Column("kind of work", left=True), Column("time"), Column("share")], work),
        table([Column("jobs", left=True), Column("number"), Column("time")], kinds),
        *(paragraph(line) for line in saved(found)),
    )


def saved(found: Cost) -> list[str]:
    """What early stops and shared work spared, where it is known."""
    lines = []
    if found.stopped:
        share = found.unused / max(1, found.whole)
        trials = "1 trial was" if found.stopped == 1 else f"{found.stopped} trials were"
        steps = f"{found.unused:,} of {found.whole:,} steps ({share:.0%})"
        lines.append(f"{trials} stopped early, which left out {steps}.")
    if found.shared:
        lines.append(
            f"Shared work (token ids, the reference's outputs, activations below the adapters) was made once in "
            f"{duration(found.shared)} and served {found.fits} fits that would each have needed about as long for it."
        )
    return lines


def jobs_table(material: Material) -> Markup:
    """Every stretch of work with what it waited for, for who asks."""
    columns = [Column("job", left=True), Column("kind", left=True), Column("began"), Column("seconds"),
               Column("ended", left=True), Column("place"), Column("waited for", left=True, text=True)]  # fmt: skip
    start = min((piece.begin for piece in material.pieces), default=0.0)
    rows = [_job(piece, start) for piece in material.pieces]
    return folded("Every job: when it ran and what it waited for", table(columns, rows, sorts=True))


def _job(piece: Piece, start: float) -> Row:
    began = f"{piece.begin - start:.1f}"
    return Row(
        [piece.job, piece.kind, began, f"{piece.seconds:.1f}", piece.how, str(piece.place + 1), piece.waited_for]
    )


def day(at: float) -> str:
    """A moment as people write it."""
    return time.strftime("%-d %B %Y, %H:%M", time.localtime(at))
