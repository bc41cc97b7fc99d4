"""The time of a search put together from parts that can be added up by hand."""

import dataclasses

import pytest

from phasegpt.config import Config
from tune.duration import Costs
from tune.past import Past
from tune.room import Room
from tune.timing import (
    AFTER_SECONDS,
    COMMAND_SECONDS,
    FIT_SECONDS,
    START_SECONDS,
    Load,
    makespan,
    timing_after,
    timing_of,
)

COSTS = Costs(steps=(2.0,), evaluation={"pairs": 1.0, "answers": 3.0, "perplexity": 0.0}, shared=30.0)
LOAD = Load(stages=(4,), interval=2, trials=(4, 4, 4), fewest=(4, 2, 2), finals=2, earlier_runs=None)
ALONE = Room(1, "cores", 2.0, 0.0, 1.0, None)


def past(config: Config) -> Past:
    """A search whose steps took twice what COSTS count, and its evaluations half of it."""
    evaluation = {"pairs": 0.5, "answers": 1.5, "perplexity": 0.0}
    return Past("b-1", 0.0, config, 5, 4.0, evaluation, rest=1.0, before=50.0, baselines=4.0, shared=0.0, after=7.0)


@pytest.fixture
def config() -> Config:
    return Config.model_validate(
        {"model": {"base_model": "x"}, "training": {"method": "dpo", "preference_dataset": "x.jsonl"}}
    )


def test_jobs_are_taken_up_in_order_by_whoever_is_free() -> None:
    assert makespan([4, 1, 1, 1], 2) == 4
    assert makespan([2, 2, 2], 2) == 4
    assert makespan([2, 2, 2], 1) == 6
    assert makespan([], 3) == 0


def test_a_fit_is_its_steps_its_evaluations_and_its_rest() -> None:
    """4 steps of 2 s and 2 evaluations of 4 s; three trials, two finals."""
    timing = timing_of(LOAD, COSTS, ALONE, "instant rate", "now")
    assert timing.fit == 4 * 2 + 2 * 4 + FIT_SECONDS
    assert timing.once == START_SECONDS + 30 + 2 * 4 + AFTER_SECONDS + COMMAND_SECONDS
    assert timing.most == timing.once + 5 * timing.fit


def test_trials_that_are_stopped_take_less() -> None:
    """Two of three trials end after 2 steps and 1 evaluation: 8 s less each."""
    timing = timing_of(LOAD, COSTS, ALONE, "instant rate", "now")
    assert timing.most - timing.fewest == 2 * (2 * 2 + 4)


def test_two_at_once_take_turns() -> None:
    """Three trials by two are two turns, two finals one."""
    timing = timing_of(LOAD, COSTS, dataclasses.replace(ALONE, count=2), "instant rate", "now")
    assert timing.most == timing.once + 3 * timing.fit


def test_an_earlier_stage_runs_once_a_seed_or_with_every_fit() -> None:
    """6 steps of 1 s and 3 evaluations of 4 s are 18 s."""
    costs = dataclasses.replace(COSTS, steps=(1.0, 2.0))
    shared = dataclasses.replace(LOAD, stages=(6, 4), earlier_runs=3)
    each = dataclasses.replace(shared, earlier_runs=None)
    plain = timing_of(LOAD, COSTS, ALONE, "instant rate", "now")
    assert timing_of(shared, costs, ALONE, "instant rate", "now").most == plain.most + 3 * 18
    assert timing_of(each, costs, ALONE, "instant rate", "now").most == plain.most + 5 * 18


def test_the_same_search_again_takes_what_it_took(config: Config) -> None:
    """A fit of 4 steps of 4 s, 2 evaluations of 2 s and 1 s of rest."""
    timing = timing_after(past(config), LOAD, COSTS, COSTS, ALONE, shared_is_here=True)
    assert timing.fit == 4 * 4 + 2 * 2 + 1
    assert timing.once == 50 - 4 + 2 * 2 + 7 + COMMAND_SECONDS
    assert timing.most == timing.once + 5 * timing.fit
    assert (timing.basis, timing.source) == ("last search", "from the search b-1 of 1 January 1970")


def test_what_counts_for_more_takes_longer_in_proportion(config: Config) -> None:
    """Steps count twice and answers thrice: 8 s a step, 0.5 + 4.5 s an evaluation."""
    more = Costs(steps=(4.0,), evaluation={**COSTS.evaluation, "answers": 9.0}, shared=30.0)
    timing = timing_after(past(config), LOAD, more, COSTS, ALONE, shared_is_here=True)
    assert (timing.step, timing.evaluation) == (8, 5)
    assert timing.once == 50 - 4 + 2 * 5 + 7 + COMMAND_SECONDS


def test_shared_work_that_is_to_be_made_costs_what_it_cost_or_what_steps_say(config: Config) -> None:
    """It took 20 s; where nobody made it, the count of 30 s times 2, as steps took twice their count."""
    made = dataclasses.replace(past(config), shared=20.0)
    once = [
        timing_after(search, LOAD, COSTS, COSTS, ALONE, shared_is_here=here).once
        for search, here in ((made, True), (made, False), (past(config), False))
    ]
    assert [seconds - once[0] for seconds in once] == [0, 20, 60]


def test_a_part_that_the_past_search_had_not_is_taken_as_counted(config: Config) -> None:
    prose = dataclasses.replace(COSTS, evaluation={**COSTS.evaluation, "perplexity": 5.0})
    assert timing_after(past(config), LOAD, prose, COSTS, ALONE, shared_is_here=True).evaluation == 0.5 + 1.5 + 5
