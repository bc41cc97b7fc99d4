"""What the votes of a blind judgement say: who was preferred and how surely, where, and whether the scores agree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phasegpt.blind import Votes
from phasegpt.compare import SideBySide
from phasegpt.statistics import Share, Wins, paired_wins

METRIC = "spiral_score"
Voted = Sequence[tuple[SideBySide, str]]
"""Prompts with what was said of them."""


@dataclass(frozen=True)
class Outcome:
    """The count of a judgement. `alike` prompts were not asked, since both answers are the same; they are ties.

    `preference` is B's share of the votes that were not ties, `ties_half` B's of all with ties counted half.
    `agreement` is how often the better answer is the one with more of METRIC, of prompts that differ in both; None
    where the answers have no such score. `first` is how often the answer that stood first was picked.
    """

    a: str
    b: str
    half: str
    seed: int
    judge: str
    counts: Mapping[str, int]
    alike: int
    open: int
    preference: Share
    ties_half: Wins | None
    domains: Mapping[str, Mapping[str, int]]
    agreement: Share | None
    first: Share

    @property
    def verdict(self) -> str:
        """What may be said: a side is preferred where the whole interval lies on its side of a half."""
        if self.preference.low > 0.5:
            return "B is preferred"
        return "A is preferred" if self.preference.high < 0.5 else "not distinguishable"

    @property
    def ties(self) -> int:
        """Votes for neither, and the prompts whose answers are alike."""
        return self.counts["tie"] + self.alike

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {name: share and share.as_dict() for name, share in self._shares().items()}
        counted = {"wins": self.counts["b"], "losses": self.counts["a"], "ties": self.ties}
        also = {"skipped": self.counts["skip"], "alike": self.alike, "open": self.open, "verdict": self.verdict}
        return {**vars(self), **counted, **also, **shares, "ties_half": self.ties_half and vars(self.ties_half)}

    def _shares(self) -> dict[str, Share | None]:
        return {"preference": self.preference, "agreement": self.agreement, "first": self.first}

    def lines(self) -> list[tuple[str, str]]:
        """(what, how much) of everything that is one figure, for a terminal and for a page."""
        counted = f"B better {self.counts['b']}, A better {self.counts['a']}, ties {self.ties}"
        counted += f" ({self.alike} of them the same answer twice)" * bool(self.alike)
        left = f"skipped {self.counts['skip']}, open {self.open}"
        half = "-" if self.ties_half is None else _span(self.ties_half)
        return [
            ("votes", f"{counted}; {left}"),
            ("preference for B, without ties", f"{self.preference}, exact; sign test p = {self.preference.p:.3g}"),
            ("preference for B, ties half", half),
            (f"{METRIC} picks the same answer", "-" if self.agreement is None else str(self.agreement)),
            ("the answer that stood first was picked", str(self.first)),
        ]

    def as_text(self) -> str:
        """For the terminal."""
        judge = f", judged by {self.judge}" if self.judge else ""
        head = [f"A: {self.a}", f"B: {self.b}", f"{self.asked} prompts of the {self.half} half{judge}: {self.verdict}"]
        width = max(len(what) for what, _ in self.lines())
        figures = [f"  {what:{width}}  {value}" for what, value in self.lines()]
        domains = [f"  {name:{width}}  {_counted(found)}" for name, found in self.domains.items()]
        return "".join(f"{line}\n" for line in [*head, *figures, *domains])

    @property
    def asked(self) -> int:
        """All prompts, also those that nobody was asked."""
        return sum(self.counts.values()) + self.alike + self.open


def _span(wins: Wins) -> str:
    return f"{wins.rate:.2f} [{wins.low:.2f}, {wins.high:.2f}] over {wins.n} prompts"


def _counted(found: Mapping[str, int]) -> str:
    return f"B better {found['b']}, A better {found['a']}, ties {found['tie']}"


def outcome(votes: Votes) -> Outcome:
    """Count the votes as they stand."""
    ballot = votes.ballot
    voted = [(ballot.pairs[place], vote) for place, vote in votes.choices.items()]
    told = [(pair, vote) for pair, vote in voted if vote != "skip"] + [(pair, "tie") for pair in ballot.alike]
    decided = [(pair, vote) for pair, vote in told if vote != "tie"]
    counts = Counter[str](vote for _, vote in voted)
    return Outcome(
        a=ballot.a,
        b=ballot.b,
        half=ballot.half,
        seed=ballot.seed,
        judge=ballot.judge,
        counts={vote: counts[vote] for vote in ("a", "b", "tie", "skip")},
        alike=len(ballot.alike),
        open=len(votes.open),
        preference=Share.of(counts["b"], len(decided)),
        ties_half=_ties_half(told),
        domains=_domains(told),
        agreement=_agreement(decided),
        first=Share.of(sum(vote == pair.first for pair, vote in decided), len(decided)),
    )


def _ties_half(told: Voted) -> Wins | None:
    if not told:
        return None
    b, a = ({pair.id: float(vote == side) for pair, vote in told} for side in ("b", "a"))
    return paired_wins([b], [a])


def _domains(told: Voted) -> dict[str, dict[str, int]]:
    counts = Counter((pair.domain, vote) for pair, vote in told)
    names = sorted({pair.domain for pair, _ in told})
    return {name: {vote: counts[name, vote] for vote in ("b", "a", "tie")} for name in names}


def _agreement(decided: Voted) -> Share | None:
    scored = [(pair.scores[METRIC], vote) for pair, vote in decided if METRIC in pair.scores]
    differ = [("b" if b > a else "a", vote) for (a, b), vote in scored if a != b]
    if decided and not scored:
        return None
    return Share.of(sum(higher == vote for higher, vote in differ), len(differ))
