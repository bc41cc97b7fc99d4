"""Whole searches without Ray: `python -m tests.faults.inline` takes the options of tune.search.

Driver, searcher, study, spool and record are the real ones. In the place of Ray's processes stands a loop that takes
two jobs of tests.noop at a time and runs them here, one after another; no report is drawn at the end.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

SLOTS = 2


def main(words: Sequence[str]) -> int:
    """What tune.search would do."""

    import tune.drive
    import tune.run
    from tests.noop import noop_job
    from tune.search import main as search

    tune.run.cluster = _no_cluster
    tune.run.run_jobs = _run_jobs
    tune.drive.leave = lambda *_: None
    return search(words, noop_job)


@contextmanager
def _no_cluster(address: str | None, dashboard: bool = False) -> Iterator[Sequence[Mapping[str, float]]]:
    yield [{"CPU": 2.0, "memory": 8e9}]


def _run_jobs(
    request: Any, searcher: Any, watch: Any, slot: Any, workers: Any, trainable: Callable[[Mapping[str, Any]], None]
) -> bool:
    numbers, waiting, more = count(), deque[tuple[Any, Mapping[str, Any]]](), True
    while more or waiting:
        while more and len(waiting) < SLOTS:
            trial = SimpleNamespace(trial_id=f"job-{next(numbers)}")
            found = searcher.suggest(trial.trial_id)
            more = found != searcher.FINISHED
            if not isinstance(found, dict):
                break
            watch.on_trial_start(0, [], trial)
            waiting.append((trial, found))
        if waiting:
            _run_job(searcher, watch, *waiting.popleft(), trainable)
    return not searcher.interrupted()


def _run_job(
    searcher: Any, watch: Any, trial: Any, found: Mapping[str, Any], job: Callable[[Mapping[str, Any]], None]
) -> None:
    from ray import tune

    last: dict[str, Any] = {}

    def heard(report: dict[str, Any]) -> None:
        last.clear()
        last.update(report)
        searcher.on_trial_result(trial.trial_id, report)
        watch.on_trial_result(0, [], trial, report)

    tune.report = heard
    job(found)
    searcher.on_trial_complete(trial.trial_id, dict(last))
    watch.on_trial_complete(0, [], trial)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
