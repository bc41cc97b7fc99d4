"""python -m tune.search clean NAME: what `search.keep: finalists` removes, from a search that no process runs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tune.commands import Commands
from tune.request import Request
from tune.standing import has_ended
from tune.status import copied_study
from tune.sweep import Sweep, bytes_text


def clean(request: Request, *, dry: bool) -> Iterator[str]:
    """Remove, or with `dry` find out, what nobody needs any more; lines that say it. The study is left as it is."""
    with tempfile.TemporaryDirectory() as folder:
        study = copied_study(request, Path(folder), Commands(request.places.folder).all())
        sweep = Sweep(request.places, "finalists", study)
        concluded = has_ended(request.places, study)
        if not concluded:
            yield f"{request.name} has not come to its end: of trials that ended, all but their adapters may go"
        every = list(sweep.going(concluded=concluded))
        for going in every:
            yield f"  {going.folder.name}: {', '.join(going.names)} ({bytes_text(going.size)})"
        freed = sum(going.size for going in every) if dry else sweep.all(concluded=concluded)
    yield f"{request.name}: {'would free up to' if dry else 'freed'} {bytes_text(freed)}"
