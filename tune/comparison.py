"""Several searches as the report that has them side by side sees them: what each left, cost and found on the way.

Changes nothing, and computes no importances and maps, which are for the report of one search.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tune.commands import Commands
from tune.compared import Compared, compare
from tune.control import find
from tune.insight_budget import BudgetCurve, budget_curve
from tune.insight_records import read_records
from tune.jobs import trial_name
from tune.report_cost import Cost, cost
from tune.report_data import Material, gather
from tune.report_jobs import Piece, span
from tune.request import Request, RequestError
from tune.status import copied_study

LONGEST = 150
"""So many characters the name of a folder may have that is made of the searches' names."""


@dataclass(frozen=True)
class Entry:
    """One of the searches: `label` is its name, with its track where others have it as well.

    `found` is its winner among the others', None before it has one. `course` is the best so far over its trials,
    `worked` when each of these ended, in seconds that the search had worked by then (pauses left out); None where the
    spool does not know.
    """

    label: str
    material: Material
    cost: Cost
    found: Compared | None
    course: BudgetCurve
    worked: tuple[float | None, ...]


def requests_of(names: Sequence[str], track: str | None, storage: str | None) -> list[Request]:
    """The searches of `names`, each NAME or TRACK/NAME. Raises RequestError where one cannot be compared."""
    if len(names) < 2:
        raise RequestError("--compare: expected two searches or more")
    found = []
    for name in names:
        given, _, plain = name.rpartition("/")
        found.append(find(plain, given or track, storage, with_checkpoints=True))
    arms = next((request.name for request in found if request.arms), None)
    if arms is not None:
        raise RequestError(f"{arms} is an ablation: it has no winner to compare; see: python -m tune.report {arms}")
    places = [request.places for request in found]
    twice = next((place.name for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise RequestError(f"--compare: {twice} is named twice")
    return found


def comparison_folder(requests: Sequence[Request]) -> Path:
    """Where their report goes: results/v14/NAME1-vs-NAME2, cut and told apart by a hash where that is too long."""
    labels = [label.replace("/", "-") for label in labels_of(requests)]
    name = "-vs-".join(labels)
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return requests[0].places.storage / "results" / "v14" / name


def labels_of(requests: Sequence[Request]) -> list[str]:
    """Their names; TRACK/NAME where two have one name."""
    names = [request.name for request in requests]
    return [f"{r.track}/{r.name}" if names.count(r.name) > 1 else r.name for r in requests]


def gather_entries(requests: Sequence[Request]) -> list[Entry]:
    """The searches in their order."""
    won = {(found.track, found.name): found for found in compare(requests)}
    labels = labels_of(requests)
    return [_entry(r, label, won.get((r.track, r.name))) for r, label in zip(requests, labels, strict=True)]


def _entry(request: Request, label: str, found: Compared | None) -> Entry:
    with tempfile.TemporaryDirectory() as scratch:
        study = copied_study(request, Path(scratch), Commands(request.places.folder).all())
        records = read_records(study, request.places.results)
    material = gather(request, (None, records))
    course = budget_curve(records, material.objective, material.better, by_steps=False)
    ends = {piece.job: piece.end for piece in material.pieces}
    worked = (worked_by(material.pieces, ends.get(trial_name(point.trial))) for point in course.points)
    return Entry(label, material, cost(material), found, course, tuple(worked))


def worked_by(pieces: Sequence[Piece], moment: float | None) -> float | None:
    """Seconds in which any job ran before `moment`; None of an unknown one."""
    if moment is None:
        return None
    return span([replace(piece, end=min(piece.end, moment)) for piece in pieces if piece.begin < moment])


def first_of(entries: Sequence[Entry]) -> Entry | None:
    """What the others are measured against: the first that has a winner."""
    return next((entry for entry in entries if entry.found is not None), None)
