"""Progress of a search on the terminal: a live table where there is a terminal, one line an event elsewhere.

Knows rows of plain values only. Everything that is shown also goes to the search's log.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table

SHORT = {"training.kto_lambda": "λ", "training.beta": "β", "training.learning_rate": "lr", "experiment.seed": "seed"}
SHOWN_STATES = {"running": "yellow", "complete": "green", "paused": "cyan", "pruned": "magenta", "failed": "red"}
ENDED = ("complete", "pruned", "failed", "interrupted")
ROWS, BEST_ROWS = 20, 5
"""How many jobs the table shows, the best trials among them where there are more."""


@dataclass
class Line:
    """What the table shows of one job."""

    name: str
    values: Mapping[str, Any]
    state: str = "running"
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""
    doing: str = ""
    begun: float = field(default_factory=time.monotonic)
    before: float = 0.0
    seconds: float = 0.0

    def stop_clock(self) -> None:
        """Note how long it ran, with the parts before a pause."""
        self.seconds = self.before + time.monotonic() - self.begun


def short_name(key: str) -> str:
    """A key path as a column title: λ, β, lr, or the path's last word; of a switch that of what it switches."""
    return SHORT.get(key, key.removesuffix(".enabled").rsplit(".", 1)[-1])


def number(value: Any) -> str:
    """Three significant digits, as people read them."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """As people say it: 42 s, 6 min 36 s, 2 h 05 min."""
    if seconds < 10:
        return f"{number(float(seconds))} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"


class Console:
    """The progress of one search. Use as a context; `start`, `update`, `end` name jobs by their name."""

    def __init__(self, title: str, objectives: Mapping[str, str], total: int, quiet: bool = False) -> None:
        self.title, self.objectives, self.total, self.quiet = title, objectives, total, quiet
        self.lines: dict[str, Line] = {}
        self.begun = time.monotonic()
        self._rich = RichConsole(file=sys.stderr)
        self._live: Live | None = None
        if self._rich.is_terminal and not quiet:
            self._live = Live(console=self._rich, get_renderable=self.table, refresh_per_second=2)

    def __enter__(self) -> "Console":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line above the table."""
        if not self.quiet:
            self._rich.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, name: str, values: Mapping[str, Any]) -> None:
        """A job begins, or goes on after a pause."""
        earlier = self.lines.pop(name, None)
        self.lines[name] = Line(name, values, before=earlier.seconds if earlier else 0.0)
        self._event(self.lines[name])

    def update(self, name: str, step: int, metrics: Mapping[str, float], doing: str = "") -> None:
        """A job reports where it is; `doing` is what it is busy with before its first step."""
        line = self.lines[name]
        line.step, line.doing = step, doing
        line.metrics.update(metrics)
        line.stop_clock()

    def end(self, name: str, state: str, note: str = "") -> None:
        """A job ended as complete, pruned, failed or interrupted, or paused; perhaps before it began."""
        line = self.lines.setdefault(name, Line(name, {}, state=state))
        if line.state == "running":
            line.stop_clock()
        line.state, line.note = state, note
        self._event(line)

    def best(self) -> list[Line]:
        """The finished trials, the best first objective first."""
        name, direction = next(iter(self.objectives.items()))
        done = [x for x in self.lines.values() if x.state == "complete" and name in x.metrics and "trial" in x.name]
        return sorted(done, key=lambda x: x.metrics[name], reverse=direction == "max")

    def shown(self) -> tuple[list[Line], list[Line]]:
        """The best trials, and below them what runs with what ended last; all in one where there is room for it."""
        lines = list(self.lines.values())
        if len(lines) <= ROWS:
            return [], lines
        best = self.best()[:BEST_ROWS]
        rest = [line for line in lines if line not in best]
        running = sum(line.state == "running" for line in rest)
        others = [line for line in rest if line.state != "running"]
        recent = others[len(others) - max(0, ROWS - len(best) - running) :]
        return best, [line for line in rest if line.state == "running" or line in recent]

    def time_left(self) -> str:
        """By the mean time of the jobs so far; nothing before the first has ended."""
        ended = sum(line.state in ENDED for line in self.lines.values())
        if not ended:
            return "estimating"
        seconds = (time.monotonic() - self.begun) / ended * max(0, self.total - ended)
        return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"

    def table(self) -> Table:
        """The live picture: the best trials, the last jobs, how many ended as what, time left."""
        keys = list(dict.fromkeys(key for line in self.lines.values() for key in line.values))
        table = Table(title=self.title, caption=self._caption(), title_justify="left", caption_justify="left")
        for title in ("job", "state", *map(short_name, keys), "step", *self.objectives, "time"):
            table.add_column(title, justify="left" if title in ("job", "state") else "right", no_wrap=True)
        for part in filter(None, self.shown()):
            for line in part:
                table.add_row(*self._cells(line, keys))
            table.add_section()
        return table

    def _caption(self) -> str:
        ended = Counter(line.state for line in self.lines.values() if line.state in ENDED)
        states = ", ".join(f"{count} {state}" for state, count in ended.items() if state != "complete")
        said = f"{ended.total()} of {self.total} done{f' ({states})' if states else ''}, {self.time_left()} left"
        for best in self.best()[:1]:
            scores = " ".join(f"{n} {number(best.metrics[n])}" for n in self.objectives if n in best.metrics)
            said += f"; best so far {best.name}: {scores}"
        return said

    def _cells(self, line: Line, keys: list[str]) -> list[str]:
        seconds = line.before + time.monotonic() - line.begun if line.state == "running" else line.seconds
        colour = SHOWN_STATES.get(line.state, "white")
        return [
            line.name,
            f"[{colour}]{line.doing if line.state == 'running' and line.doing else line.state}[/{colour}]",
            *(number(line.values[key]) if key in line.values else "" for key in keys),
            str(line.step),
            *(number(line.metrics[n]) if n in line.metrics else "" for n in self.objectives),
            f"{seconds:.0f} s",
        ]

    def _event(self, line: Line) -> None:
        if self._live is not None or self.quiet:
            return
        values = " ".join(f"{short_name(key)}={number(value)}" for key, value in line.values.items())
        metrics = " ".join(f"{name}={number(value)}" for name, value in line.metrics.items() if name in self.objectives)
        took = "" if line.state == "running" else f"{line.seconds:.0f} s"
        words = [line.name, line.state, values, metrics, took, line.note]
        self._rich.print(" ".join(word for word in words if word), highlight=False, markup=False, soft_wrap=True)
