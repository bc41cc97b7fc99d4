"""The pages of a blind judgement: a pair, the overview and the result. Templates, style and script are in pages/.

The first two are made from texts and votes by place alone; nothing that tells the sides apart is handed to them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phasegpt.blind import Choice, Vote, Votes
from phasegpt.blind_result import outcome
from phasegpt.compare import SideBySide

PAGES = Path(__file__).parent / "pages"
FILES = {"blind.css": "text/css; charset=utf-8", "blind.js": "text/javascript; charset=utf-8"}
"""What the pages load, with its type."""

SAID: Mapping[Choice | None, str] = {
    "first": "answer 1 is better",
    "second": "answer 2 is better",
    "tie": "neither is better",
    "skip": "skipped",
    None: "",
}
VOTED: Mapping[Vote | None, str] = {
    "a": "You preferred A",
    "b": "You preferred B",
    "tie": "You preferred neither",
    "skip": "Skipped",
    None: "Not judged",
}
BUTTONS = (
    ("first", "Answer 1 is better", "1 ArrowLeft", ("1", "←")),
    ("second", "Answer 2 is better", "2 ArrowRight", ("2", "→")),
    ("tie", "Neither", "Space =", ("space",)),
    ("skip", "Skip", "s", ("s",)),
)
"""(choice, text, names of its keys, the keys as shown)."""

_environment = Environment(
    autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(PAGES), trim_blocks=True, lstrip_blocks=True
)


def pair_page(votes: Votes, place: int, root: str) -> str:
    """One pair, to be voted on. `root` is the path below which the pages are served."""
    pair = votes.ballot.pairs[place]
    answers = (pair.a, pair.b) if pair.first == "a" else (pair.b, pair.a)
    return _page(
        "blind_pair.html",
        votes,
        root,
        title=f"Pair {place + 1} of {len(votes.ballot.pairs)}",
        place=place,
        prompt=pair.prompt,
        answers=answers,
        buttons=BUTTONS,
        chosen=votes.choice(place),
    )


def overview_page(votes: Votes, root: str) -> str:
    """All prompts with what was said of them, and the way to the reveal."""
    waiting = votes.open
    pairs = [
        {"href": f"{root}pair/{place + 1}", "prompt": pair.prompt, "said": SAID[votes.choice(place)] or "open"}
        for place, pair in enumerate(votes.ballot.pairs)
    ]
    title = "Overview" if waiting else "All pairs are judged"
    following = f"{root}pair/{waiting[0] + 1}" if waiting else ""
    return _page("blind_overview.html", votes, root, title=title, pairs=pairs, next=following)


def result_page(votes: Votes, root: str) -> str:
    """What the votes came to, with names and scores; for after the reveal."""
    found = outcome(votes)
    pairs = [_revealed(pair, VOTED[votes.choices.get(place)]) for place, pair in enumerate(votes.ballot.pairs)]
    pairs += [_revealed(pair, "The same answer twice: a tie") for pair in votes.ballot.alike]
    title = {"B is preferred": "You preferred B", "A is preferred": "You preferred A"}
    return _page(
        "blind_result.html",
        votes,
        root,
        title=title.get(found.verdict, "Your votes do not tell A and B apart"),
        found=found,
        pairs=pairs,
        file=votes.path.name,
        at=_at,
    )


def _page(template: str, votes: Votes, root: str, **values: Any) -> str:
    count, judged = len(votes.ballot.pairs), len(votes.choices)
    last = _last(votes)
    said = f"{values['title']}. {last}"
    return _environment.get_template(template).render(
        root=root, count=count, judged=judged, last=last, said=said, over=votes.closed, **values
    )


def _last(votes: Votes) -> str:
    """What the last vote said, in words; empty where there is none."""
    if not votes.casts:
        return ""
    place = votes.casts[-1][0]
    return f"Last: pair {place + 1}, {SAID[votes.choice(place)]}"


def _revealed(pair: SideBySide, said: str) -> dict[str, Any]:
    sides = [("A", pair.a, 0), ("B", pair.b, 1)]
    answers = [
        (side, answer, ", ".join(f"{name} {values[which]:.3f}" for name, values in pair.scores.items()))
        for side, answer, which in (sides if pair.first == "a" else sides[::-1])
    ]
    return {"prompt": pair.prompt, "said": said, "answers": answers}


def _at(share: float) -> float:
    """Where a share from 0 to 1 lies in the picture."""
    return round(10 + 280 * share, 1)
