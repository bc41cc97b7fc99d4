"""Injects faults into searches and says what became of them: `python -m tests.faults.inject --seeds 0-9`.

A fault and a seed are one injection, always the same one. With --json each outcome is a line of a file, and what stands
there is not done again; the table at the end is of all that the file holds.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from phasegpt.lines import append, cut_torn_line, read_lines
from tests.faults.checkpoint_faults import CHECKPOINT_FAULTS
from tests.faults.disk_faults import DISK_FAULTS
from tests.faults.double_faults import DOUBLE_FAULTS
from tests.faults.file_faults import FILE_FAULTS, Recording
from tests.faults.process_faults import PROCESS_FAULTS
from tests.faults.struck import Cluster

Outcome = dict[str, Any]
ON_RAY = {**PROCESS_FAULTS, **DISK_FAULTS, **DOUBLE_FAULTS}
EVERY = (*CHECKPOINT_FAULTS, *FILE_FAULTS, *ON_RAY)
GOOD = ("whole", "refused, then whole")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tests.faults.inject", description=__doc__)
    p.add_argument("--seeds", default="0", metavar="A-B", help="which seeds of each fault, as 3 or 0-9 (default: 0)")
    p.add_argument("--faults", default=",".join(EVERY), metavar="NAMES", help=f"which of {', '.join(EVERY)}")
    p.add_argument("--json", type=Path, metavar="FILE", help="keep outcomes as lines here, and go on from them")
    p.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="work here and keep the recording (default: a new one)"
    )
    p.add_argument("--table", action="store_true", help="only print the table of --json")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """0 where nothing was lost, 1 where something was, 2 for bad input."""
    options = parser().parse_args(argv)
    names = options.faults.split(",")
    if unknown := set(names) - {*EVERY}:
        parser().error(f"no such faults: {', '.join(sorted(unknown))}")
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = (options.folder or Path(folder)).resolve()
        kept = options.json or place / "outcomes.jsonl"
        if not options.table:
            cut_torn_line(kept)
            for outcome in injected(names, seeds, read_lines(kept)[0], place):
                append(kept, outcome)
                sys.stderr.write(f"{outcome['fault']} {outcome['seed']}: {outcome['outcome']}\n")
        outcomes = read_lines(kept)[0]
    sys.stdout.write(table(outcomes))
    return int(any(wrong(outcome) for outcome in outcomes))


def injected(names: Sequence[str], seeds: Sequence[int], done: Sequence[Outcome], folder: Path) -> Iterator[Outcome]:
    """The outcomes of what is not done yet, seed by seed."""
    there = {(outcome["fault"], outcome["seed"]) for outcome in done}
    left = [(name, seed) for seed in seeds for name in names if (name, seed) not in there]
    for name, seed in left:
        if name in CHECKPOINT_FAULTS:
            said = CHECKPOINT_FAULTS[name](folder / "checkpoints", seed)
            yield {"fault": name, "seed": seed, "outcome": said}
    if any(name in FILE_FAULTS for name, _ in left):
        recording = Recording(folder / "store", folder / "recording.json")
    for name, seed in left:  # before Ray is started: these fork
        if name in FILE_FAULTS:
            yield {"fault": name, "seed": seed, "outcome": recording.inject(name, seed)}
    with ExitStack() as open_until_the_end:
        cluster = Cluster(folder)
        open_until_the_end.callback(cluster.close)
        for name, seed in left:
            if name in ON_RAY:
                yield {"fault": name, "seed": seed, "outcome": ON_RAY[name](cluster, seed)}


def wrong(outcome: Mapping[str, Any]) -> bool:
    """Whether something was lost or doubled."""
    return outcome["outcome"] not in GOOD and not outcome["outcome"].startswith("skipped")


def table(outcomes: Sequence[Outcome]) -> str:
    """Fault, how often each outcome, and with which seeds, in Markdown."""
    rows: dict[tuple[str, str], list[int]] = {}
    for outcome in outcomes:
        said = outcome["outcome"] if not wrong(outcome) else f"**{outcome['outcome']}**"
        rows.setdefault((outcome["fault"], " ".join(said.split())), []).append(outcome["seed"])
    lines = ["| fault | outcome | injections | seeds |", "|---|---|---|---|"]
    lines += [
        f"| {fault} | {said.replace('|', '/')} | {len(seeds)} | {_ranges(sorted(seeds))} |"
        for (fault, said), seeds in sorted(rows.items())
    ]
    hit = sum(not outcome["outcome"].startswith("skipped") for outcome in outcomes)
    lost = sum(map(wrong, outcomes))
    return "\n".join([*lines, "", f"{hit} injections; something was lost or double in {lost} of them.", ""])


def _ranges(numbers: Sequence[int]) -> str:
    """3, 5-7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
