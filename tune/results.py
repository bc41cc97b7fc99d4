"""python -m tune.results: run the searches of docs/results.md that are missing, or check that one of them holds.

Resumable over days: what is published is left alone, what was begun goes on, and each search that ends is published at
once. Knows the command line and the order; `published` has the list, `rerun` the check.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from phasegpt import interrupts
from phasegpt.files import read_json, write_json
from tune.published import SEARCHES, Published, named

WON, DIFFERS, BAD_INPUT, NO_RESULT = 0, 1, 2, 3
Run = Callable[[Sequence[str]], int]

EXAMPLES = """examples:
  python -m tune.results                               all that are missing, the most telling first
  python -m tune.results --plan                        which these are and how long they take here
  python -m tune.results --only smollm2-b --more="--max-concurrent 7 --gpus-per-worker 0.14"
  python -m tune.results --check smollm2-a             one finalist again: does its value lie in its interval?
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.results",
        description="Run the searches of docs/results.md that are missing, or check one that is there.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--plan", action="store_true", help="print the budget and start nothing")
    p.add_argument("--only", metavar="NAME", help="this search alone")
    p.add_argument(
        "--more", default="", metavar="OPTIONS", help="options of tune.search for each, such as how many at once"
    )
    p.add_argument("--check", metavar="NAME", help="rerun a finalist of this search instead")
    return p


def main(argv: Sequence[str] | None = None, run: Run | None = None) -> int:
    """The exit status: that of the search that stopped the row, else 0; of --check 1 where the value does not hold."""
    options = parser().parse_args(argv)
    try:
        if options.check:
            return _check(named(options.check))
        searches = [named(options.only)] if options.only else SEARCHES
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    _say(budget(searches))
    return WON if options.plan else run_all(searches, options.more.split(), run or _command)


def run_all(searches: Sequence[Published], more: Sequence[str], run: Run) -> int:
    """Bring each search to its end and publish it; one without a usable trial is passed over, other trouble stops."""
    for search in searches:
        status = bring_on(search, more, run)
        if status not in (WON, NO_RESULT):
            _say(f"{search.name} stopped; go on with the same command")
            return status
    return WON


def bring_on(search: Published, more: Sequence[str], run: Run) -> int:
    """Run, resume or leave alone, by how far the search is; the exit status of what ran."""
    status = WON
    if search.state in ("new", "begun"):
        status = run(["-m", "tune.search", *_words(search), *more])
    if search.state == "ended":
        write_json(search.summary, read_json(search.places.summary))
        _say(f"{search.name} is in {search.summary}")
    return status


def _words(search: Published) -> Sequence[str]:
    if search.state == "begun":
        return ["--track", search.track, "--resume", search.name]
    return [*search.words, "--name", search.name]


def _command(words: Sequence[str]) -> int:
    """Run Python with `words`. Ctrl-C reaches it as well; it ends in order, and this process waits for that."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run([sys.executable, *words], check=False, cwd=Path(__file__).parents[1]).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def budget(searches: Sequence[Published]) -> str:
    """Fits times minutes at this machine's speed of the moment, a line for each search; ? and why where unknown."""
    head = f"{'search':24} {'state':10} {'fits':>5} {'minutes a fit':>14} {'hours':>7}  asks"
    rows = [_row(search) for search in searches]
    reasons = dict.fromkeys(reason for _, reason in rows if reason)
    return "\n".join([head, *(line for line, _ in rows), *(f"?: {reason}" for reason in reasons)])


def _row(search: Published) -> tuple[str, str]:
    """Its line, and why that has no time where there is none."""
    begin = f"{search.name:24} {search.state:10}"
    if search.state in ("published", "ended"):
        return f"{begin} {'':28}  {search.asks}", ""
    from tune.plan import make_plan

    plan = make_plan(search.request(name=f"{search.name}-plan"))
    minutes, hours = (f"{plan.timing.fit / 60:.1f}", f"{plan.timing.most / 3600:.1f}") if plan.timing else ("?", "?")
    line = f"{begin} {plan.trials + plan.finals:5} {minutes:>14} {hours:>7}  {search.asks}"
    return line, "" if plan.timing else plan.no_time


def _check(search: Published) -> int:
    from tune.rerun import rerun

    again = rerun(search)
    _say(str(again))
    return WON if again.holds else DIFFERS


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    interrupts.run(main)
