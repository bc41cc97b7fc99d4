"""`compare --blind` and `compare --votes`: their options, and a judgement from its address to its result.

Exit status: 0 the result is told, 2 bad input, 130 stopped while pairs are still open.
"""

import argparse
import os
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phasegpt.blind import Ballot, Votes
    from phasegpt.compare import Comparison

TOLD, STOPPED = 0, 130


def add_blind_options(p: argparse.ArgumentParser) -> None:
    """Add what a blind judgement takes to the options of `compare`."""
    p.add_argument("--blind", action="store_true", help="judge without names, in a browser; with --out on that page")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="draws the order and who stands first (default: 0)")
    p.add_argument("--judge", default="", metavar="NAME", help="who judges; each judge has votes of their own")
    p.add_argument(
        "--votes",
        type=Path,
        metavar="FILE.jsonl",
        help="where votes go (default: a name of its own below results/v14/blind); without A and B: what they say",
    )
    p.add_argument("--port", type=int, default=0, metavar="N", help="of the page on 127.0.0.1 (default: a free one)")
    p.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=has_display(),
        help="open a browser (default: where there is a display)",
    )


def has_display() -> bool:
    """Whether a browser would have a window: without one, a browser of the terminal might be started."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def misused(options: argparse.Namespace) -> str:
    """What is wrong with the options of `compare` together, in one line; empty where nothing is."""
    if options.a is None and (options.votes is None or options.out):
        return "compare: name two models, A and B, or votes that were given: --votes FILE.jsonl"
    if options.a is not None and options.b is None:
        return f"compare {options.a}: with what? name a second model, B"
    if options.a and options.votes and (options.out or not options.blind):
        return "--votes: beside A and B it needs --blind, and no --out; without A and B it tells what the votes say"
    if options.seed < 0:
        return f"--seed {options.seed}: expected 0 or more"
    if not 0 <= options.port < 65536:
        return f"--port {options.port}: expected a number from 0 to 65535"
    return ""


def take_votes(comparison: "Comparison", options: argparse.Namespace) -> int:
    """Serve the prompts of a comparison until they are judged, and tell what came out."""
    from phasegpt.blind import Ballot
    from phasegpt.config_io import project_root

    ballot = Ballot.of(comparison, options.seed, options.judge)
    path = options.votes or project_root() / "results" / "v14" / "blind" / f"{ballot.digest}.jsonl"
    return _judge(path, ballot, options)


def tell_votes(options: argparse.Namespace) -> int:
    """`compare --votes FILE`: what the votes say; with `--blind` they are gone on with first."""
    from phasegpt.blind import read_votes

    if options.blind:
        return _judge(options.votes, None, options)
    return _tell(read_votes(options.votes), options)


def _judge(path: Path, ballot: "Ballot | None", options: argparse.Namespace) -> int:
    from phasegpt.blind import voting
    from phasegpt.blind_server import serve

    def say(address: str) -> None:
        sys.stderr.write(f"Judge at {address}\nCtrl-C stops; every vote is kept.\n")
        sys.stderr.flush()
        if options.open:
            webbrowser.open(address)

    with voting(path, ballot) as votes:
        count = len(votes.ballot.pairs)
        sys.stderr.write(f"{path}: {count - len(votes.open)} of {count} pairs judged\n")
        if not votes.over:
            serve(votes, options.port, say)
        if votes.over or not votes.open:
            return _tell(votes, options)
        return _stopped(votes)


def _stopped(votes: "Votes") -> int:
    """Says how to go on, and not the result: who has seen it is not blind any more, and may stop when it pleases."""
    sys.stderr.write(
        f"\nStopped with {len(votes.open)} pairs open. The same command goes on; to end here and see the result:\n"
        f"  python -m phasegpt compare --votes {shlex.quote(str(votes.path))}\n"
    )
    return STOPPED


def _tell(votes: "Votes", options: argparse.Namespace) -> int:
    from phasegpt.blind_result import outcome
    from phasegpt.evaluation_report import as_json

    found = outcome(votes)
    told = {**found.as_dict(), "votes_file": str(votes.path)}
    sys.stdout.write(as_json(told) if options.json else f"{found.as_text()}Votes: {votes.path}\n")
    return TOLD
