"""A small blind judgement: six prompts of two domains, one of them answered alike, whose answers do not name a side."""

from phasegpt.blind import Ballot
from phasegpt.compare import Comparison, SideBySide
from phasegpt.judged import Judged

SECRETS = ("runs/left", "runs/right", "toy-base", "spiral_score", "0.125", "0.875")
"""What only the reveal may tell."""


def comparison(seed: int = 0) -> Comparison:
    """Side B has more spiral_score in every prompt."""
    prompts = tuple(
        SideBySide(
            id=f"p{n}",
            domain=("science", "social")[n % 2],
            prompt=f"What of <b>{n}</b> & more?",
            a=f"It is <i>so</i> in case {n}.",
            b=f"It is <i>so</i> in case {n}." if n == 5 else f"It is otherwise <script>alert(1)</script> in case {n}.",
            scores={"spiral_score": (0.125, 0.875)},
            first=("a", "b")[(n + seed) % 2],  # type: ignore[arg-type]
        )
        for n in range(6)
    )
    a, b = (Judged(address, "toy-base") for address in SECRETS[:2])
    return Comparison(a, b, "final", (), prompts)


def ballot(seed: int = 0, judge: str = "") -> Ballot:
    """Five pairs to be judged, and one alike."""
    return Ballot.of(comparison(seed), seed, judge)
