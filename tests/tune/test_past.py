"""The last search like the one to come: found among others, and read into numbers that can be added up by hand."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from phasegpt.answers import answers_of
from phasegpt.files import write_json
from phasegpt.runs import shared_work_of
from tests.tune.conftest import ToyRequest
from tune.past import last_search, shared_work_is_here
from tune.plan import as_json, make_plan
from tune.plan_text import as_text
from tune.request import Request
from tune.spool import SPOOL, append

BEGAN = 1_700_000_000.0
ANSWERS = {"answers": 3.0, "pairs": 1.0, "perplexity": 0.0}
FITS = ("trial-000", "trial-001", "trial-002", "final-000-seed-1042")


def result() -> dict[str, Any]:
    """A fit of 4 steps of 2 examples at 1 a second, and 2 evaluations of 3 s."""
    clock = {"examples_per_second": 1.0, "step_seconds": 8.0}
    return {"steps": 4, "clock": clock, "seconds": {"total": 15.0, "evaluation": 6.0}, "curve": [{}, {}]}


def leave(request: Request, *, cut: bool = False, fits: tuple[str, ...] = FITS) -> Request:
    """What a search leaves that began at BEGAN: 20 s to the baselines, 5 s each, 16 s a fit, 4 s to the end."""
    places = request.places
    request.save()
    spool, at = places.folder / SPOOL, BEGAN

    def event(kind: str, after: float, **about: Any) -> None:
        nonlocal at
        at += after
        append(spool, {"kind": kind, "at": round(at * 1000), **about})

    event("open", 0)
    event("run", 0, key=places.name)
    for number, name in enumerate(("baseline-search", "baseline-final", *fits)):
        event("run", 20 if number == 0 else 0, key=f"{places.name}/{name}")
        if cut and name == fits[0]:
            event("open", 1000)
            event("run", 0, key=f"{places.name}/{name}")
        event("finish", 5 if number < 2 else 16, key=f"{places.name}/{name}", status="FINISHED")
        write_json(places.results / f"{name}.json", {"seconds": ANSWERS} if number < 2 else result())
    event("finish", 4, key=places.name, status="FINISHED")
    write_json(places.summary, {"name": places.name})
    return request


def aged(request: Request, seconds: float) -> None:
    then = request.places.summary.stat().st_mtime - seconds
    os.utime(request.places.summary, (then, then))


def test_a_search_is_read_part_by_part(toy_request: ToyRequest) -> None:
    """A fit of 16 s is 4 steps of 2 s, 2 evaluations of 3 s, and 2 s of rest."""
    leave(toy_request(name="first"))
    past = last_search(toy_request())
    assert past is not None
    assert (past.name, past.fits, past.step, past.rest, past.ended) == ("first", 4, 2.0, 2.0, BEGAN + 98)
    assert past.evaluation == {"answers": 2.25, "pairs": 0.75, "perplexity": 0.0}
    assert (past.before, past.baselines, past.shared, past.after) == (30.0, 8.0, 0.0, 4.0)


def test_a_search_that_was_cut_tells_of_its_whole_fits_alone(toy_request: ToyRequest) -> None:
    leave(toy_request(name="first"), cut=True)
    past = last_search(toy_request())
    assert past is not None
    assert (past.fits, past.step, past.rest) == (3, 2.0, 2.0)
    assert (past.before, past.after) == (past.baselines, 0.0)


def test_the_newest_search_of_the_same_kind_is_taken(toy_request: ToyRequest) -> None:
    aged(leave(toy_request(name="old")), 20)
    aged(leave(toy_request(name="new")), 10)
    leave(toy_request("training.distributed={enabled: true, num_gpus: 2}", name="on-workers"))
    leave(toy_request("model.use_gradient_checkpointing=true", name="checkpointed"))
    leave(dataclasses.replace(toy_request(name="other-profile"), profile="gpu"))
    toy_request(name="not-finished").save()
    past = last_search(toy_request())
    assert past is not None
    assert past.name == "new"


@pytest.mark.parametrize("damage", ["request", "result", "spool", "no fits"])
def test_a_search_that_cannot_be_read_is_passed_over(toy_request: ToyRequest, damage: str) -> None:
    aged(leave(toy_request(name="old")), 10)
    places = leave(toy_request(name="new"), fits=() if damage == "no fits" else FITS).places
    files = {"request": places.request, "result": places.results / "trial-001.json", "spool": places.folder / SPOOL}
    if damage in files:
        files[damage].write_text('{"config": {}}\n{}\n')
    past = last_search(toy_request())
    assert past is not None
    assert past.name == "old"


def seal(storage: Path, name: str, about: dict[str, Any], at: float) -> None:
    path = shared_work_of(storage) / "0123" / f"{name}.json"
    write_json(path, {"sha256": "", "seconds": 12.0, **about})
    os.utime(path, (at, at))


def test_shared_work_that_a_search_made_is_told_from_its_start(toy_request: ToyRequest) -> None:
    request = leave(toy_request(name="first"))
    seal(request.places.storage, "hidden", {}, BEGAN + 22)
    past = last_search(toy_request())
    assert past is not None
    assert (past.shared, past.before) == (12.0, 18.0)


def test_shared_work_is_here_for_the_same_answers_model_and_parts(toy_request: ToyRequest) -> None:
    request = toy_request()
    split = make_plan(request).split
    ids = [[answer.id] for answer in answers_of((*split.train, *split.val))]
    about = {"base_model": request.config.model.base_model, "ids": ids}
    seal(request.places.storage, "answers", about, BEGAN)
    seal(request.places.storage, "trunk-2", {}, BEGAN)
    assert shared_work_is_here(request, split, (), 0)
    assert shared_work_is_here(request, split, ("trunk",), 2)
    assert not shared_work_is_here(request, split, ("trunk",), 1)
    assert not shared_work_is_here(request, split, ("hidden",), 0)
    assert not shared_work_is_here(toy_request("evaluation.held_out_domains=[social]"), split_of(toy_request), (), 0)


def split_of(toy_request: ToyRequest) -> Any:
    return make_plan(toy_request("evaluation.held_out_domains=[social]")).split


def test_the_plan_of_the_same_search_adds_up_to_what_it_took_and_says_whose_time_it_is(
    toy_request: ToyRequest,
) -> None:
    """98 s on record; two evaluations more or less of the baselines, and 4 s of the command around it."""
    one = "search.max_concurrent=1", "search.finalists={count: 1, seeds: 1}", "search.trials=3"
    leave(toy_request(*one, name="first"), fits=(*FITS, "final-001-seed-1042"))
    plan = make_plan(toy_request(*one))
    assert plan.timing is not None
    assert (plan.timing.fit, plan.timing.step, plan.timing.evaluation) == pytest.approx((16, 2, 3))
    shared = plan.timing.most - (30 - 8 + 2 * 3) - 5 * 16 - 4 - 4
    assert 0 <= shared < 60
    assert "in all, from the search first of" in " ".join(as_text(plan).split())
    assert as_json(plan)["time"]["basis"] == "last search"
    json.dumps(as_json(plan))
