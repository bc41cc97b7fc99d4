"""What people ask of a search while it runs or afterwards: lines in COMMANDS beside it, which the searcher obeys.

The file is the record: nothing in it is ever changed, and a resumed search reads it again from its beginning. Knows
nothing of Ray or Optuna.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from phasegpt.lines import append, read_lines

COMMANDS = "commands.jsonl"
Kind = Literal["stop", "finish", "interrupt", "extend", "clone"]


@dataclass(frozen=True)
class Command:
    """One thing asked. stop: end trial `trial` as PRUNED. finish: begin no more trials and go to the finals.

    interrupt: end as Ctrl-C does. extend: `trials` more. clone: another trial with the values of trial `trial` and
    `values` on them, from its weights where `warm`.
    """

    kind: Kind
    trial: int | None = None
    trials: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False
    at: float = 0.0

    def __str__(self) -> str:
        laid = " ".join(f"{key}={value}" for key, value in self.values.items())
        words = {
            "stop": f"stop trial {self.trial}",
            "finish": "no more trials, on to the finals",
            "interrupt": "stop the search",
            "extend": f"{self.trials} more trials",
            "clone": f"trial {self.trial} again with {laid or 'the same values'}{', from its weights' * self.warm}",
        }
        return words[self.kind]


def give(folder: Path, command: Command) -> None:
    """Add a command to those of the search in `folder`; it is on the disk when this returns."""
    append(folder / COMMANDS, {**asdict(command), "at": time.time()})


class Commands:
    """The commands of a search in their order; `unread` gives those that came since the last look.

    `since` is when the process that obeys them began, in seconds since 1970: an earlier interrupt was not meant for it.
    """

    def __init__(self, folder: Path, since: float = math.inf) -> None:
        self.path, self.since = folder / COMMANDS, since
        self._size, self._read = -1, 0

    def all(self) -> list[Command]:
        """Every command so far. Raises DamagedLineError."""
        return [Command(**entry) for entry in read_lines(self.path)[0]]

    def unread(self) -> list[tuple[int, Command]]:
        """Commands that were not seen yet, each with its place in the file from 0; cheap where there are none."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._size:
            return []
        found = list(enumerate(self.all()))[self._read :]
        self._size, self._read = size, self._read + len(found)
        return found
