"""When the jobs of a search ran, and what each waited for: read from the spool, which knows when every job began.

Where jobs ran nobody noted, so they are put on as few places as they fit on: as many as ran at once. Pure functions of
a spool's events.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tune.spool import Event

STATE = "trial_state"
RUNNING, PAUSED, CUT = "running", "paused", "cut"


@dataclass(frozen=True)
class Piece:
    """A stretch of a job's work, in seconds since 1970; a job that paused or was cut has several.

    `kind` is baseline, trial or final; `how` it ended: complete, pruned, failed, interrupted, paused, cut (its process
    died) or running. `place` counts from 0. `waited_for` is in words.
    """

    job: str
    kind: str
    begin: float
    end: float
    how: str
    place: int = 0
    waited_for: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


def pieces(events: Sequence[Event], search: str) -> tuple[Piece, ...]:
    """Every stretch of work in the order in which they began, each on a place, with what it waited for."""
    found = sorted(_stretches(events, search), key=lambda piece: (piece.begin, piece.job))
    placed: list[Piece] = []
    for piece in found:
        busy = {other.place for other in placed if other.end > piece.begin}
        placed.append(replace(piece, place=next(n for n in range(len(found)) if n not in busy)))
    return tuple(replace(piece, waited_for=_waited_for(piece, placed[:i])) for i, piece in enumerate(placed))


def _stretches(events: Sequence[Event], search: str) -> Iterator[Piece]:
    begun: dict[str, tuple[str, float]] = {}
    last = 0.0
    for event in events:
        now, key = event["at"] / 1000, str(event.get("key", ""))
        job = key.removeprefix(f"{search}/")
        if event["kind"] == "open":
            yield from (Piece(job, kind, begin, last, CUT) for job, (kind, begin) in begun.items())
            begun.clear()
        elif event["kind"] == "run" and key != job:
            begun[job] = (event["tags"].get("kind", ""), now)
        elif event["kind"] == "tags" and job in begun and event["tags"].get(STATE, RUNNING) != RUNNING:
            kind, begin = begun.pop(job)
            yield Piece(job, kind, begin, now, event["tags"][STATE])
        last = now
    yield from (Piece(job, kind, begin, last, RUNNING) for job, (kind, begin) in begun.items())


def _waited_for(piece: Piece, earlier: Sequence[Piece]) -> str:
    """What had to be there before it could begin, as far as can be told."""
    before = [other for other in earlier if other.end <= piece.begin]
    if not before or piece.kind == "baseline":
        return "the start of the search" if not before else f"a place: {before[-1].job} had it"
    own = [other for other in before if other.job == piece.job]
    if own:
        return "the rest of its cohort" if own[-1].how == PAUSED else "the search to be resumed"
    last = max(before, key=lambda other: other.end)
    if piece.kind == "final" and last.kind == "trial":
        return f"the last trial: {last.job}"
    return "the baseline" if last.kind == "baseline" else f"a place: {last.job} had it"


def span(found: Sequence[Piece]) -> float:
    """Seconds in which any job ran: pauses between two processes of a search do not count."""
    total, until = 0.0, 0.0
    for piece in sorted(found, key=lambda piece: piece.begin):
        total += max(0.0, piece.end - max(piece.begin, until))
        until = max(until, piece.end)
    return total


def job_seconds(found: Sequence[Piece]) -> Mapping[str, float]:
    """{job: seconds it worked}, over all of its pieces."""
    total: dict[str, float] = {}
    for piece in found:
        total[piece.job] = total.get(piece.job, 0.0) + piece.seconds
    return total
