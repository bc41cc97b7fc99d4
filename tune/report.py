"""python -m tune.report NAME: all that a search came to as one HTML page, or several side by side (--compare).

Knows the command line alone: `report_data` and `comparison` read, `report_sections` and `comparison_sections` put
together.
"""

import argparse
import json
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.config_io import TRACKS
from phasegpt.interrupts import run
from tune.control import BAD_INPUT, DONE, find

if TYPE_CHECKING:
    from tune.report_data import Material

EXAMPLES = """examples:
  python -m tune.report b-20260101-120000
  python -m tune.report b-20260101-120000 --open
  python -m tune.report b-20260101-120000 --out report --json
  python -m tune.report b-20260101-120000 --answers 10 --seed 1
  python -m tune.report --compare a-20260101-120000 b-20260101-120000 --open
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.report",
        description="All that a search came to as one HTML page, or several side by side; pictures as PNGs beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("names", metavar="NAME", nargs="+", help="the search, or TRACK/NAME; it may be running")
    p.add_argument("--compare", action="store_true", help="several searches side by side, against the first")
    p.add_argument("--scaling", action="store_true", help="with --compare: the view over sizes also of one size")
    p.add_argument("--track", choices=TRACKS, help="where several tracks have a search of this name")
    p.add_argument("--storage", metavar="PLACE", help="where the search writes (default: the project)")
    p.add_argument("--out", metavar="FOLDER", help="where the report goes (default: beside the results)")
    p.add_argument("--answers", type=int, metavar="N", help="print N prompts with their answers as Markdown instead")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="that draws the prompts of --answers (default: 1)")
    p.add_argument("--open", action="store_true", help="show the page in a browser")
    p.add_argument("--json", action="store_true", help="print one JSON object: the page, its pictures, what it says")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw and write: 0, or 2 with one message."""
    p = parser()
    options = p.parse_args(argv)
    if len(options.names) > 1 and not options.compare:
        p.error("several searches: add --compare to have them side by side")
    if options.compare and options.answers is not None:
        p.error("--answers is of one search: leave out --compare")
    if options.scaling and not options.compare:
        p.error("--scaling needs --compare")
    try:
        if options.answers is not None:
            sys.stdout.write(_answers(options) + "\n")
            return DONE
        page, said = _compare(options) if options.compare else _report(options)
    except (OSError, ValueError) as error:  # no such search, a file of it that is damaged, or nowhere to write
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    if options.json:
        found = {"page": str(page), "pictures": sorted(map(str, page.parent.glob("*.png"))), **said}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.write(f"{page}\n")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return DONE


def _gathered(options: argparse.Namespace) -> "Material":
    """What one search left."""
    track, _, name = options.names[0].rpartition("/")
    request = find(name, track or options.track, options.storage, with_checkpoints=True)
    from tune.report_data import gather

    return gather(request)


def _report(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The report of one search: its page, and its verdict for scripts."""
    material = _gathered(options)
    from tune.report_sections import report_folder, write_report

    page = write_report(material, Path(options.out or report_folder(material.request.places)))
    return page, {"verdict": (material.summary or {}).get("verdict")}


def _answers(options: argparse.Namespace) -> str:
    """Answers of one search side by side, as Markdown."""
    material = _gathered(options)
    from tune.report_answers import sides
    from tune.sample_answers import as_markdown

    return as_markdown(sides(material)[1], material.objective, options.answers, options.seed)


def _compare(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The report of several searches: its page, and the winners for scripts."""
    from tune.comparison import comparison_folder, gather_entries, requests_of
    from tune.comparison_sections import write_comparison

    requests = requests_of(options.names, options.track, options.storage)
    entries = gather_entries(requests)
    page = write_comparison(entries, Path(options.out or comparison_folder(requests)), scaling=options.scaling)
    return page, {"comparison": [asdict(entry.found) for entry in entries if entry.found]}


if __name__ == "__main__":
    run(main)
