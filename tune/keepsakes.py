"""What a search leaves for people at its end: the pictures of its insight and its report, on disk and in MLflow.

Several tracks leave one more, which has them side by side. None of it may cost a search its end: whatever goes wrong is
logged, and `python -m tune.report` makes it again.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from tune.request import Request
from tune.tracking import Tracker

LOOKED_AT = 5
"""So many finished trials a search has whose insight is drawn by itself: fewer say nothing."""
MOST = 200
"""For more trials neither is made unasked: a search should end when it has ended."""

log = logging.getLogger("phasegpt")


def leave(request: Request, tracker: Tracker, finished: int = 0, begun: int = 0) -> None:
    """Draw and write, and send both as artifacts of the search's run; `finished` of `begun` trials have a result."""
    if begun > MOST:
        log.info("no report is made of more than %d trials; make it with: python -m tune.report %s", MOST, request.name)
        return
    try:
        _leave(request, tracker, insight=finished >= LOOKED_AT)
    except Exception:  # the search has ended well; the commands for both tell what is wrong with them
        log.exception("no report could be made")


def _leave(request: Request, tracker: Tracker, *, insight: bool) -> None:
    from tune.insight_summary import picture_folder, save_pictures, seen
    from tune.report_data import gather
    from tune.report_sections import report_folder, write_report

    known = None if request.arms else seen(request)
    if known is not None and insight:
        save_pictures(request, known[0], picture_folder(request.places))
        tracker.folder(request.name, picture_folder(request.places), "insight")
    write_report(gather(request, known, ended=True), report_folder(request.places))
    tracker.folder(request.name, report_folder(request.places), "report")


def leave_comparison(requests: Sequence[Request], tracker: Tracker, name: str, folder: Path) -> None:
    """Write the report that has the searches side by side to `folder` and send it as an artifact of the run `name`."""
    try:
        from tune.comparison import gather_entries
        from tune.comparison_sections import write_comparison

        write_comparison(gather_entries(requests), folder)
        tracker.folder(name, folder, "report")
    except Exception:  # as above
        log.exception("no report of the tracks side by side could be made")
