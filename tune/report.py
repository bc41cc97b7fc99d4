"""python -m tune.report NAME: all that a search came to as one HTML page, while it runs or afterwards.

Knows the command line alone: `report_data` reads, `report_sections` puts together.
"""

import argparse
import json
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from phasegpt.config_io import TRACKS
from tune.control import BAD_INPUT, DONE, find

EXAMPLES = """examples:
  python -m tune.report b-20260101-120000
  python -m tune.report b-20260101-120000 --open
  python -m tune.report b-20260101-120000 --out report --json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.report",
        description="All that a search came to as one HTML page, with its pictures as PNGs beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("name", metavar="NAME", help="the search; it may be running")
    p.add_argument("--track", choices=TRACKS, help="where several tracks have a search of this name")
    p.add_argument("--storage", metavar="PLACE", help="where the search writes (default: the project)")
    p.add_argument("--out", metavar="FOLDER", help="where the report goes (default: NAME-report beside the summary)")
    p.add_argument("--open", action="store_true", help="show the page in a browser")
    p.add_argument("--json", action="store_true", help="print one JSON object: the page, its pictures, the verdict")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw and write: 0, or 2 with one message."""
    options = parser().parse_args(argv)
    try:
        request = find(options.name, options.track, options.storage, with_checkpoints=True)
        from tune.report_data import gather
        from tune.report_sections import report_folder, write_report

        material = gather(request)
    except ValueError as error:  # no such search, or a file of it that is damaged
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    page = write_report(material, Path(options.out or report_folder(request.places)))
    if options.json:
        verdict = (material.summary or {}).get("verdict")
        found = {"page": str(page), "pictures": sorted(map(str, page.parent.glob("*.png"))), "verdict": verdict}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.write(f"{page}\n")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return DONE


if __name__ == "__main__":
    sys.exit(main())
