"""python -m tune.insight NAME: what a search says of its parameters, while it runs or afterwards.

Which of them mattered and how surely, how two work together, what would be tried next and why, and what the budget
bought; for people, as JSON and as PNGs. Knows the command line alone: `insight_summary` has the rest.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from phasegpt.config_io import TRACKS
from phasegpt.interrupts import run
from tune.control import BAD_INPUT, DONE, find

EXAMPLES = """examples:
  python -m tune.insight b-20260101-120000
  python -m tune.insight b-20260101-120000 --map training.learning_rate training.kto_lambda
  python -m tune.insight b-20260101-120000 --json --out pictures
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.insight",
        description="What a search says of its parameters: which mattered, what comes next, what the budget bought.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("name", metavar="NAME", help="the search; it may be running")
    p.add_argument("--track", choices=TRACKS, help="where several tracks have a search of this name")
    p.add_argument("--storage", metavar="PLACE", help="where the search writes (default: the project)")
    p.add_argument(
        "--map",
        nargs=2,
        metavar="KEY",
        help="two parameters that are searched in ranges (default: learning rate and β, else the most important two)",
    )
    p.add_argument("--out", metavar="FOLDER", help="where the PNGs go (default: NAME-insight beside the summary)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Look, draw and tell: 0, or 2 with one message."""
    options = parser().parse_args(argv)
    from tune.insight_summary import look, picture_folder

    try:
        request = find(options.name, options.track, options.storage)
        insight, pictures = look(request, Path(options.out or picture_folder(request.places)), options.map)
    except (OSError, ValueError) as error:  # no such search, a file of it that is damaged, or nowhere to write
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    if options.json:
        found = {**insight.as_dict(), "pictures": [str(path) for path in pictures]}
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write("\n".join([insight.as_text(), "Pictures", *(f"  {path}" for path in pictures)]) + "\n")
    return DONE


if __name__ == "__main__":
    run(main)
