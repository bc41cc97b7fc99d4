"""When jobs ran: stretches of work from a spool whose answer is known, on places, with what each waited for."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tune.report_jobs import RUNNING, Piece, job_seconds, pieces, span
from tune.report_pictures_jobs import schedule


def spool(*said: tuple[float, str, str]) -> Sequence[dict[str, Any]]:
    """Events of a search s: (second, job, how); `begin` begins, an empty job opens the spool."""
    return [event for at, job, how in said for event in _events(at, job, how)]


def _events(at: float, job: str, how: str) -> list[dict[str, Any]]:
    when = {"at": round(at * 1000), "key": f"s/{job}"}
    if not job:
        parent = {"kind": "run", "at": when["at"], "key": "s", "tags": {"kind": "search"}}
        return [{"kind": "open", "at": when["at"]}, parent]
    if how == "begin":
        return [{**when, "kind": "run", "tags": {"kind": job.split("-", maxsplit=1)[0], "trial_state": "running"}}]
    end = [{**when, "kind": "finish", "status": "FINISHED"}] if how != "paused" else []
    return [{**when, "kind": "tags", "tags": {"trial_state": how}}, *end]


def test_jobs_take_the_first_place_that_is_free_and_wait_for_it() -> None:
    found = pieces(
        spool(
            (0, "", ""), (1, "baseline-search", "begin"), (3, "baseline-search", "complete"),
            (3, "trial-000", "begin"), (3, "trial-001", "begin"), (6, "trial-001", "pruned"), (6, "trial-002", "begin"),
            (8, "trial-000", "complete"), (9, "trial-002", "failed"), (9, "final-000-seed-1", "begin"),
            (12, "final-000-seed-1", "complete"),
        ),
        "s",
    )  # fmt: skip
    assert [(p.job, p.place, p.how, p.seconds) for p in found] == [
        ("baseline-search", 0, "complete", 2.0),
        ("trial-000", 0, "complete", 5.0),
        ("trial-001", 1, "pruned", 3.0),
        ("trial-002", 1, "failed", 3.0),
        ("final-000-seed-1", 0, "complete", 3.0),
    ]
    assert [p.waited_for for p in found] == [
        "the start of the search",
        "the baseline",
        "the baseline",
        "a place: trial-001 had it",
        "the last trial: trial-002",
    ]
    assert span(found) == 11.0
    assert job_seconds(found)["trial-000"] == 5.0


def test_a_job_that_paused_has_two_stretches_and_waited_for_its_cohort() -> None:
    found = pieces(
        spool(
            (0, "trial-000", "begin"),
            (2, "trial-000", "paused"),
            (5, "trial-000", "begin"),
            (9, "trial-000", "complete"),
        ),
        "s",
    )
    assert [(p.seconds, p.how, p.waited_for) for p in found] == [
        (2.0, "paused", "the start of the search"),
        (4.0, "complete", "the rest of its cohort"),
    ]
    assert job_seconds(found) == {"trial-000": 6.0}
    assert span(found) == 6.0


def test_a_job_whose_process_died_ends_at_the_last_that_was_heard_of_it() -> None:
    found = pieces(
        spool(
            (0, "", ""), (1, "trial-000", "begin"), (2, "trial-001", "begin"), (4, "trial-001", "complete"),
            (100, "", ""), (101, "trial-000", "begin"), (103, "trial-000", "complete"),
        ),
        "s",
    )  # fmt: skip
    assert [(p.job, p.begin, p.end, p.how) for p in found] == [
        ("trial-000", 1.0, 4.0, "cut"),
        ("trial-001", 2.0, 4.0, "complete"),
        ("trial-000", 101.0, 103.0, "complete"),
    ]
    assert found[-1].waited_for == "the search to be resumed"
    assert span(found) == pytest.approx(5.0)


def test_a_job_that_runs_ends_for_now_at_the_last_event() -> None:
    events = [*spool((0, "trial-000", "begin")), {"kind": "metrics", "at": 4000, "key": "s/trial-000"}]
    [running] = pieces(events, "s")
    assert (running.how, running.end) == ("running", 4.0)


def test_a_search_whose_first_job_has_just_begun_has_a_picture_of_it() -> None:
    just = Piece("baseline-search", "baseline", 10.0, 10.0, RUNNING)
    request = SimpleNamespace(arms=())
    picture = schedule(SimpleNamespace(pieces=[just], request=request))  # type: ignore[arg-type]
    assert picture is not None
    assert picture.says.endswith("busy for 0% of the time")


def test_a_search_without_events_has_no_stretches() -> None:
    assert pieces([], "s") == ()
    assert span(()) == 0.0
