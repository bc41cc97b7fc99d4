"""Synchronous halving on real studies: who runs when, who loses, and the same after every crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from phasegpt.config_search import Search
from tune.cohorts import Cohorts, Step
from tune.stopping import halving_steps
from tune.study import WHY, Study

BETA = "training.beta"
RUNGS = (1, 3, 9)
Score = Callable[[int, int], float]


def search(trials: int = 9, **settings: Any) -> Search:
    return Search.model_validate(
        {
            "objectives": {"spiral_score": "max"},
            "parameters": {BETA: {"uniform": [0.1, 1.0]}},
            "scheduler": "halving",
            "sampler": "random",
            "trials": trials,
            **settings,
        }
    )


class Field:
    """A search whose trials score what `score(number, step)` says; what dies is opened anew from its journal."""

    def __init__(self, folder: Path, settings: Search, score: Score = lambda number, step: number + step / 100) -> None:
        self.folder, self.settings, self.score = folder, settings, score
        self.pruned: dict[int, str] = {}
        self.ran: list[tuple[int, int | None]] = []
        self.open()

    def open(self) -> None:
        journal = self.folder / "study.journal"
        self.study = Study("toy", journal, self.settings, {BETA: 0.5}, seed=1)
        self.cohorts = Cohorts(self.study, self.settings, RUNGS, dict, self.pruned.__setitem__)

    def end(self, step: Step) -> None:
        number, until = step.asked.number, step.until
        self.ran.append((number, until))
        metrics = {"spiral_score": self.score(number, until or RUNGS[-1]), "perplexity": 40.0 - number}
        if until is None:
            self.study.complete(number, metrics, {})
        else:
            self.study.report(number, until, metrics)

    def run(self, slots: int = 1, die_every: int = 0) -> None:
        """To the end, `slots` jobs at once, of which the last begun ends first; with a crash every so many ends."""
        running: list[Step] = []
        while True:
            while len(running) < slots:
                step = self.cohorts.next([r.asked.number for r in running])
                if step is None:
                    break
                running.append(step)
            if not running:
                return
            self.end(running.pop())
            if die_every and len(self.ran) % die_every == 0:
                running.clear()
                self.open()

    def states(self) -> list[str]:
        return [trial.state.name[0] for trial in self.study.trials()]


def test_a_cohort_of_nine_is_halved_by_thirds_and_one_comes_to_the_end(tmp_path: Path) -> None:
    field = Field(tmp_path, search())
    field.run()
    assert field.ran == [(n, 1) for n in range(9)] + [(8, 3), (7, 3), (6, 3), (8, None)]
    assert field.states() == ["P"] * 8 + ["C"]
    assert field.pruned[0] == "9. of 9 in its cohort at step 1"
    assert field.pruned[7] == "2. of 3 in its cohort at step 3"
    assert field.study.trial(0).user_attrs[WHY] == field.pruned[0]


def test_cohorts_follow_one_another_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    field = Field(tmp_path, search(trials=11))
    field.run()
    assert field.ran[13:] == [(9, 1), (10, 1), (10, 3), (10, None)]
    assert field.states().count("C") == 2
    spent = [max((until or RUNGS[-1]) for number, until in field.ran if number == n) for n in range(11)]
    assert tuple(sorted(spent, reverse=True)) == halving_steps(11, RUNGS)
    assert len(field.study.trials()) == 11


@pytest.mark.parametrize("slots", [2, 5])
def test_with_more_slots_the_same_trials_are_kept(tmp_path: Path, slots: int) -> None:
    field = Field(tmp_path, search(trials=20), lambda number, step: (number * 7) % 20)
    field.run(slots)
    alone = Field(tmp_path / "alone", search(trials=20), field.score)
    alone.run()
    assert field.states() == alone.states()
    assert sorted(field.ran, key=str) == sorted(alone.ran, key=str)


@pytest.mark.parametrize("die_every", [1, 2, 5])
def test_a_search_that_dies_again_and_again_keeps_whom_an_undisturbed_one_keeps(tmp_path: Path, die_every: int) -> None:
    field = Field(tmp_path / "dies", search(trials=12), lambda number, step: (number * 5) % 12)
    field.run(slots=2, die_every=die_every)
    alone = Field(tmp_path / "alone", search(trials=12), field.score)
    alone.run(slots=2)
    assert field.states() == alone.states()
    assert [t.params for t in field.study.trials()] == [t.params for t in alone.study.trials()]
    assert len(field.ran) == len(set(field.ran)) == len(alone.ran)


def test_trials_that_are_added_after_the_end_join_the_last_cohort(tmp_path: Path) -> None:
    field = Field(tmp_path, search(trials=10))
    field.run()
    field.study.extend(2)
    field.run()
    assert [trial.number for trial in field.study.trials()] == list(range(12))
    assert "R" not in field.states()
    assert {number for number, _ in field.ran} == set(range(12))


def test_a_trial_that_is_evaluated_elsewhere_counts_by_its_next_evaluation(tmp_path: Path) -> None:
    field = Field(tmp_path, search(trials=9))
    for _ in range(9):
        step = field.cohorts.next([])
        assert step is not None
        late = 2 if step.asked.number == 8 else 1  # a clone may have an eval_interval of its own
        field.ran.append((step.asked.number, step.until))
        field.study.report(step.asked.number, late, {"spiral_score": float(step.asked.number), "perplexity": 40.0})
    field.run()
    assert field.ran[9:] == [(8, 3), (7, 3), (6, 3), (8, None)]


def test_a_trial_that_failed_takes_no_place(tmp_path: Path) -> None:
    field = Field(tmp_path, search())
    for _ in range(9):
        step = field.cohorts.next([])
        assert step is not None
        if step.asked.number == 8:
            field.study.fail(8, "the loss became nan at step 1")
        else:
            field.end(step)
    field.run()
    assert field.ran[8:] == [(7, 3), (6, 3), (5, 3), (7, None)]
    assert field.study.trial(8).state == TrialState.FAIL


def test_a_trial_that_breaks_a_constraint_loses_to_all_that_keep_it(tmp_path: Path) -> None:
    field = Field(tmp_path, search(constraints={"perplexity": ">= 33"}))
    field.run()
    assert field.ran[-1] == (7, None)


def test_several_objectives_are_halved_by_the_pick(tmp_path: Path) -> None:
    both = {"spiral_score": "max", "perplexity": "max"}
    field = Field(tmp_path, search(objectives=both, pick="weights", weights={"spiral_score": 1, "perplexity": 5}))
    field.run()
    assert field.ran[-1] == (0, None)
    assert field.study.trial(0).values == [pytest.approx(0.09), 40.0]
