"""Asynchronous halving as Ray drives it: whom it stops, whom it leaves alone, and what a resumed search knows."""

from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from tests.tune.test_searcher import Hands, report
from tune.reports import FINISHED_KEY
from tune.scheduler import NotingScheduler
from tune.study import WHY


class RayTrial:
    """What a scheduler reads of a Ray trial."""

    def __init__(self, trial_id: str, error: str = "") -> None:
        self.trial_id, self.error = trial_id, error

    def get_error(self) -> Exception | None:
        return RuntimeError(self.error) if self.error else None


def told(hands: Hands, trial_id: str, step: int, loss: float) -> str:
    """A report passed on as Ray does it: to the scheduler, then to the searcher as its decision says."""
    result = report(step, loss)
    decision = NotingScheduler(hands.searcher, (1, 4)).on_trial_result(None, RayTrial(trial_id), result)
    if decision == TrialScheduler.STOP:
        hands.searcher.on_trial_complete(trial_id, result=result)
    else:
        hands.searcher.on_trial_result(trial_id, result)
    return decision


def test_a_trial_that_is_behind_at_a_rung_is_stopped_and_pruned(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    (good, _), (bad, _) = hands.must_take(), hands.must_take()
    assert told(hands, good, 1, 0.4) == TrialScheduler.CONTINUE
    assert told(hands, bad, 1, 0.8) == TrialScheduler.STOP
    assert hands.searcher.ended[bad] == "pruned"
    assert hands.searcher.study.curve(1) == {1: {"eval_loss": 0.8, "perplexity": 40.0}}


def test_values_of_other_steps_are_never_compared(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    (one, _), (two, _) = hands.must_take(), hands.must_take()
    assert told(hands, one, 2, 0.1) == TrialScheduler.CONTINUE
    assert told(hands, two, 1, 0.8) == TrialScheduler.CONTINUE
    assert told(hands, two, 3, 0.9) == TrialScheduler.CONTINUE


def test_baselines_progress_and_ends_pass_it_by(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    scheduler = NotingScheduler(hands.searcher, (1, 4))
    baseline, _ = hands.must_take()
    assert scheduler.on_trial_result(None, RayTrial(baseline), report(1, 9.0)) == TrialScheduler.CONTINUE
    hands.finish(baseline)
    hands.finish(hands.must_take()[0])
    (one, _), (two, _) = hands.must_take(), hands.must_take()
    assert told(hands, one, 1, 0.1) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(two), {"step": 1, "loss": 9.0}) == TrialScheduler.CONTINUE
    end = report(1, 9.0) | {FINISHED_KEY: True}
    assert scheduler.on_trial_result(None, RayTrial(two), end) == TrialScheduler.CONTINUE


def test_what_a_trial_passed_once_it_passes_again_though_others_are_ahead_by_now(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    (one, _), (two, _) = hands.must_take(), hands.must_take()
    assert told(hands, one, 1, 0.8) == TrialScheduler.CONTINUE
    assert told(hands, two, 1, 0.4) == TrialScheduler.CONTINUE
    assert told(hands, one, 1, 0.8) == TrialScheduler.CONTINUE


def test_a_resumed_search_stops_by_what_was_measured_before_it(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    one, _ = hands.must_take()
    told(hands, one, 1, 0.4)
    hands.finish(one)
    after = Hands(tmp_path)
    two, _ = after.must_take()
    assert told(after, two, 1, 0.8) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory", "oom: the machine"),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly", "the worker died; its log"),
        ("", "the worker died; its log"),
    ],
)
def test_what_a_worker_died_of_is_recorded(tmp_path: Path, error: str, said: str) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    NotingScheduler(hands.searcher).on_trial_error(None, RayTrial(trial_id, error))
    hands.searcher.on_trial_complete(trial_id, error=True)
    assert hands.trial(job.number).state == TrialState.FAIL
    assert hands.trial(job.number).user_attrs[WHY].startswith(said)
