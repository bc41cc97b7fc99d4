"""Faults of files: a search is recorded once, call by call, and then ends in the middle, again and again.

What a fault leaves is laid out where the search ran, perhaps damaged, and the search goes on from there in a fork of
this process, with tests.faults.inline. MLflow's own files are as they were at that moment: they stand for a server.
"""

import importlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phasegpt.files import read_json, write_json
from tests.faults.disk import Content, Disk, Op, lay
from tests.faults.invariants import broken
from tests.faults.recording import record
from tests.noop import SETS
from tune.spool import SPOOL
from tune.sync import sync

NAME, TRIALS = "hit", 12
GREETING = f"{NAME}: going on with {NAME}"
SEARCH = f"experiments/v14/track_b/{NAME}"
RESULTS = f"results/v14/track_b/{NAME}"


BAD_INPUT = 2


class HarmlessError(Exception):
    """The moment has nothing that the fault could hit."""


@dataclass(frozen=True)
class Fault:
    """`leaves` makes what lies on the disk from the operations up to a moment; `refused`: a file that must be named."""

    leaves: Callable[[Disk, random.Random], Content]
    refused: str = ""


def options(folder: Path, uri: str | None = None) -> list[str]:
    """The options of the search, without its name."""
    return ["--track", "b", "--storage", str(folder), "--tracking-uri", uri or f"sqlite:///{folder}/mlflow.db"]


def beginning() -> list[str]:
    """The options with which it begins."""
    words = ["--name", NAME, "--profile", "laptop", "--trials", str(TRIALS), "--sampler", "random"]
    return [*words, *(word for value in SETS for word in ("--set", value))]


def of_mlflow(path: str) -> bool:
    """Whether a path belongs to MLflow's side."""
    return path.startswith(("mlflow.db", "mlartifacts"))


def _as_it_is(disk: Disk, dice: random.Random) -> Content:
    return disk.as_it_is()


def _power_lost(disk: Disk, dice: random.Random) -> Content:
    return disk.without_power(of_mlflow)


def _power_lost_in_parts(disk: Disk, dice: random.Random) -> Content:
    return disk.without_power(of_mlflow, dice.randrange(2**32))


def _torn(path: str) -> Callable[[Disk, random.Random], Content]:
    """The last line of a file is cut somewhere; of several files of a pattern any."""

    def leaves(disk: Disk, dice: random.Random) -> Content:
        content = disk.as_it_is()
        name, data = _one_of(content, path, dice)
        last = data.rstrip(b"\n").rfind(b"\n") + 1
        content[name] = data[: dice.randint(last + 1, len(data) - 1)]
        return content

    return leaves


def _flipped(path: str) -> Callable[[Disk, random.Random], Content]:
    """A bit in the middle of a line that is not the last."""

    def leaves(disk: Disk, dice: random.Random) -> Content:
        content = disk.as_it_is()
        name, data = _one_of(content, path, dice)
        ends = [n for n, byte in enumerate(data) if byte == ord("\n")]
        if len(ends) < 2:
            raise HarmlessError
        at = dice.choice([n for n in range(ends[-2]) if n not in ends])
        flipped = bytearray(data)
        flipped[at] ^= 1 << dice.randrange(7)
        if flipped[at] == ord("\n"):
            raise HarmlessError
        content[name] = flipped
        return content

    return leaves


def _one_of(content: Content, pattern: str, dice: random.Random) -> tuple[str, bytes]:
    found = [(n, bytes(d)) for n, d in content.items() if Path(n).match(pattern) and d is not None and len(d) > 2]
    if not found:
        raise HarmlessError
    return dice.choice(sorted(found))


FILE_FAULTS = {
    "killed_between_two_calls": Fault(_as_it_is),
    "power_lost": Fault(_power_lost),
    "power_lost_in_parts": Fault(_power_lost_in_parts),
    "torn_study": Fault(_torn(f"{SEARCH}/study.journal")),
    "torn_spool": Fault(_torn(f"{SEARCH}/tracking.jsonl")),
    "torn_result": Fault(_torn(f"{RESULTS}/*.json"), "MLflow"),
    "flipped_study": Fault(_flipped(f"{SEARCH}/study.journal"), "study.journal:"),
    "flipped_spool": Fault(_flipped(f"{SEARCH}/tracking.jsonl"), "tracking.jsonl:"),
}


class Recording:
    """A search that ran once in `folder`, undisturbed, and its operations, which `kept` holds for the next time."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder = folder
        _imported()
        if kept.is_file():
            self.ops = [Op(kind, path, data.encode("latin-1"), *rest) for kind, path, data, *rest in read_json(kept)]
        else:
            self.ops = self._record()
            write_json(kept, [[op.kind, op.path, op.data.decode("latin-1"), op.number, op.to] for op in self.ops])
        self.moments = [n for n, op in enumerate(self.ops, 1) if not of_mlflow(op.path) and "/" in op.path]

    def _record(self) -> list[Op]:
        self._clear()
        _migrated(self.folder / "mlflow.db")
        command = [sys.executable, "-m", "tests.faults.inline", *options(self.folder), *beginning()]
        ops = record(command, self.folder, os.environ)
        if wrong := _forked(self._wrong):
            raise RuntimeError(f"the undisturbed search is wrong already: {wrong}")
        return ops

    def _wrong(self) -> list[str]:
        """What is wrong once MLflow has everything: on a busy machine a search ends before that."""
        sync(self.folder / SEARCH / SPOOL, f"sqlite:///{self.folder}/mlflow.db")
        return broken(self.folder, NAME, TRIALS)

    def inject(self, name: str, seed: int) -> str:
        """What came of a fault at the moment of a seed: "whole", "refused, then whole", or what is wrong."""
        refused, (content, undamaged) = FILE_FAULTS[name].refused, self._hit(name, seed)
        self._lay(content)
        status, said = self._go_on()
        if status != BAD_INPUT or not refused:
            return self._judged(status, said)  # a bit may have changed that means nothing
        lines = [line for line in said.splitlines() if line != GREETING]
        if len(lines) != 1 or refused not in lines[0]:
            return f"not refused in one line: {said[-400:]}"
        self._lay(undamaged)  # the cure: back from a copy
        whole = self._judged(*self._go_on())
        return "refused, then whole" if whole == "whole" else whole

    def _hit(self, name: str, seed: int) -> tuple[Content, Content]:
        """What a fault leaves, and what was there, at a moment that has something for it to hit."""
        dice = random.Random(f"{name}/{seed}")  # noqa: S311 - moments, not secrets
        while True:
            disk = Disk().apply(self.ops[: dice.choice(self.moments)])
            try:
                return FILE_FAULTS[name].leaves(disk, dice), disk.as_it_is()
            except HarmlessError:
                continue

    def _judged(self, status: int, said: str) -> str:
        if status:
            return f"went on with status {status}: {said[-400:]}"
        return "; ".join(_forked(self._wrong)) or "whole"

    def _lay(self, content: Content) -> None:
        self._clear()
        lay(content, self.folder)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def _go_on(self) -> tuple[int, str]:
        began = (self.folder / SEARCH / "request.json").is_file()
        words = [*options(self.folder), *(["--resume", NAME] if began else beginning())]
        return _run(words)


def _imported() -> None:
    """What every search needs, once for all forks."""
    from tune import environment

    environment.prepare(own_cluster=True)
    for name in ("ray.tune", "mlflow.tracking", "sqlalchemy", "tune.drive", "tune.run", "tune.crown", "tune.conclude"):
        importlib.import_module(name)


def _run(words: Sequence[str]) -> tuple[int, str]:
    """The exit status of a search in a fork, and what it said on stderr."""
    from tests.faults.inline import main

    with tempfile.TemporaryFile("w+") as out:

        def child() -> list[str]:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(out.fileno(), 2)
            os._exit(main(words))

        _, status = _fork(child)
        out.seek(0)
        return status, out.read()


def _forked(work: Callable[[], list[str]]) -> list[str]:
    lines, status = _fork(work)
    return lines if status == 0 else [*lines, "the check itself failed"]


def _fork(work: Callable[[], list[str]]) -> tuple[list[str], int]:
    """Lines that `work` returns in a process of its own, whose libraries remember nothing of others, and its status."""
    with tempfile.TemporaryFile("w+") as out:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                out.write("\n".join(work()))
                out.flush()
                status = 0
            finally:
                if status:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(status)
        _, code = os.waitpid(child, 0)
        out.seek(0)
        return out.read().splitlines(), os.waitstatus_to_exitcode(code)


def _migrated(database: Path) -> None:
    """An MLflow database without runs: its migration is no part of what is recorded."""
    from phasegpt.mlflow_client import open_client

    _forked(lambda: [str(len(open_client(f"sqlite:///{database}").search_experiments()))])
