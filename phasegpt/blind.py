"""A blind judgement: which pairs of answers are asked about and in what order, and the votes on them.

Everything is in one file of votes, one checked line each, on the disk before the next pair is shown: a judgement goes
on, and is read, from that file alone. Knows nothing of pages, nor of what votes say.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import numpy as np
from filelock import FileLock, Timeout

from phasegpt.compare import Comparison, SideBySide
from phasegpt.files import make_folder, sync_folder, text_sha256
from phasegpt.lines import DamagedLineError, append, cut_torn_line, read_lines

Choice = Literal["first", "second", "tie", "skip"]
"""What a judge says of the two answers on the page."""

Vote = Literal["a", "b", "tie", "skip"]
"""What that means: the better side, neither, or no opinion."""

CHOICES: tuple[Choice, ...] = get_args(Choice)


class BlindError(ValueError):
    """Votes that cannot be read or taken; the message is for the user."""


@dataclass(frozen=True)
class Ballot:
    """What a judge is asked: `pairs` in their order, each with the side that stands first.

    `a` and `b` name the models. `alike` are the prompts to which both gave the same answer, which nobody is asked.
    """

    a: str
    b: str
    half: str
    seed: int
    judge: str
    pairs: tuple[SideBySide, ...]
    alike: tuple[SideBySide, ...]

    @classmethod
    def of(cls, comparison: Comparison, seed: int, judge: str = "") -> Self:
        """The prompts of a comparison in an order drawn from `seed`; sides stand as the comparison drew them."""
        order = np.random.default_rng([seed, 1]).permutation(len(comparison.prompts))
        drawn = [comparison.prompts[place] for place in order]
        names = [f"{side.address} on {side.base_model}" for side in (comparison.a, comparison.b)]
        pairs, alike = (tuple(p for p in drawn if (p.a == p.b) is same) for same in (False, True))
        return cls(names[0], names[1], comparison.half, seed, judge, pairs, alike)

    @property
    def digest(self) -> str:
        """A name for this very question: models, answers, order and judge."""
        return text_sha256(json.dumps(self.as_dict(), sort_keys=True))[:12]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), **{name: [vars(p) for p in getattr(self, name)] for name in ("pairs", "alike")}}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{**stored, **{name: _prompts(stored[name]) for name in ("pairs", "alike")}})


def _prompts(stored: Sequence[Mapping[str, Any]]) -> tuple[SideBySide, ...]:
    prompts = (SideBySide(**one) for one in stored)
    return tuple(replace(p, scores={name: (pair[0], pair[1]) for name, pair in p.scores.items()}) for p in prompts)


class Votes:
    """The votes on a ballot so far, and the file that they are kept in. A pair may be voted on again: the last counts.

    `casts` are those that were not undone, {place of the pair: vote} one after another. After `close` the judge knows
    the names, and no vote is taken. Not for several threads at once.
    """

    def __init__(self, path: Path, ballot: Ballot, entries: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path, self.ballot = path, ballot
        self.casts: list[tuple[int, Vote]] = []
        self.closed = False
        for entry in entries:
            self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        if entry["kind"] == "vote":
            self.casts.append((int(entry["place"]), cast(Vote, entry["vote"])))
        elif entry["kind"] == "undo":
            self.casts.pop()
        else:
            self.closed = True

    @property
    def choices(self) -> dict[int, Vote]:
        """{place of the pair: what counts}."""
        return dict(self.casts)

    @property
    def open(self) -> list[int]:
        """The places of the pairs without a vote."""
        return [place for place in range(len(self.ballot.pairs)) if place not in self.choices]

    @property
    def over(self) -> bool:
        """Whether nobody is to be asked any more."""
        return self.closed or not self.ballot.pairs

    def after(self, place: int) -> int | None:
        """The next pair without a vote, those before `place` last; None where there is none."""
        waiting = self.open
        return next((other for other in waiting if other > place), waiting[0] if waiting else None)

    def cast(self, place: int, choice: Choice) -> None:
        """Take a vote on the pair at `place`. Raises BlindError after `close`; OSError where it cannot be kept."""
        pair = self.ballot.pairs[place]
        sides: tuple[Vote, Vote] = ("a", "b") if pair.first == "a" else ("b", "a")
        votes: dict[Choice, Vote] = {"first": sides[0], "second": sides[1], "tie": "tie", "skip": "skip"}
        self._keep({"kind": "vote", "place": place, "prompt": pair.id, "vote": votes[choice]})

    def undo(self) -> int | None:
        """Take back the last vote, whatever stood before it counts again; the place of its pair, None without votes."""
        if not self.casts:
            return None
        place = self.casts[-1][0]
        self._keep({"kind": "undo"})
        return place

    def close(self) -> None:
        """The judge is to learn the names."""
        self._keep({"kind": "close"})

    def _keep(self, entry: Mapping[str, Any]) -> None:
        if self.closed:
            raise BlindError("the names were revealed; no more votes are taken")
        append(self.path, {**entry, "at": time.time()})
        self._take(entry)

    def choice(self, place: int) -> Choice | None:
        """What was said of the pair at `place`, in the words of the page."""
        vote = self.choices.get(place)
        if vote is None or vote in ("tie", "skip"):
            return cast("Choice | None", vote)
        return "first" if vote == self.ballot.pairs[place].first else "second"


def read_votes(path: Path) -> Votes:
    """The votes in a file. Raises BlindError where there are none, OSError where there is no such file."""
    if not os.path.isfile(path):
        raise BlindError(f"{path}: there is no such file of votes")
    try:
        entries = read_lines(path)[0]
    except DamagedLineError as error:
        raise BlindError(f"{error}; expected votes of compare --blind") from error
    if not entries or entries[0].get("kind") != "ballot":
        raise BlindError(f"{path}: expected votes of compare --blind, found something else")
    try:
        return Votes(path, Ballot.from_dict(entries[0]["ballot"]), entries[1:])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BlindError(f"{path}: expected votes of compare --blind, found others ({error!r:.100})") from error


@contextmanager
def voting(path: Path, ballot: Ballot | None = None) -> Iterator[Votes]:
    """The votes in `path` to go on with, or a new file for `ballot`; nobody else votes into it meanwhile.

    Raises BlindError where the file holds votes on another ballot, or another process votes into it.
    """
    make_folder(path.parent)
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield _opened(path, ballot)
    except Timeout:
        raise BlindError(f"{path}: another process takes votes into this file; end it first") from None


def _opened(path: Path, ballot: Ballot | None) -> Votes:
    if ballot is None or (path.exists() and path.stat().st_size):
        votes = read_votes(path)
        if ballot not in (None, votes.ballot):
            raise BlindError(f"{path}: holds votes on other answers, another order or another judge; name another file")
        cut_torn_line(path)
        return votes
    append(path, {"kind": "ballot", "ballot": ballot.as_dict(), "at": time.time()})
    sync_folder(path.parent)
    return Votes(path, ballot)
