"""The order of a search and what each end means for the study, driven by hand as Ray drives it."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from phasegpt.config_search import Search
from phasegpt.files import write_json
from tune.jobs import Job, from_config
from tune.searcher import FINISHED_KEY, JobSearcher, StopNotingScheduler, metrics_of
from tune.study import CURVE, WHY, Study

BETA = "training.beta"


def toy_search(**settings: Any) -> Search:
    return Search.model_validate(
        {
            "objectives": {"eval_loss": "min"},
            "constraints": {"perplexity": "<= 1.1 * baseline"},
            "parameters": {BETA: {"uniform": [0.1, 1.0]}},
            "trials": 3,
            "finalists": {"count": 2, "seeds": 2},
            **settings,
        }
    )


class Hands:
    """Stands where Ray stands: asks for jobs, leaves their results on disk, and tells how they ended."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        search = toy_search(**settings)
        study = Study("toy", folder / "study.journal", search, {BETA: 0.5}, seed=42)
        self.searcher = JobSearcher(study, search, {"name": "toy"}, folder / "results", seed=42)
        self.asked = 0

    def take(self) -> tuple[str, Job] | None:
        """The next job with its Ray id; None where there is none just now or none any more."""
        trial_id = f"ray-{self.asked}"
        config = self.searcher.suggest(trial_id)
        if config is None or config == Searcher.FINISHED:
            return None
        self.asked += 1
        return trial_id, from_config(config)[0]

    def must_take(self) -> tuple[str, Job]:
        taken = self.take()
        assert taken is not None
        return taken

    def finish(self, trial_id: str, loss: float = 0.5, perplexity: float = 40.0) -> None:
        """The job writes its result and ends well."""
        metrics = {"eval_loss": loss, "perplexity": perplexity}
        job = self.searcher.jobs[trial_id]
        write_json(self.searcher.results / f"{job.name}.json", {"metrics": metrics})
        self.searcher.on_trial_complete(trial_id, result=report(4, loss, perplexity) | {FINISHED_KEY: True})

    def baselines(self) -> None:
        for _ in range(2):
            self.finish(self.must_take()[0])

    def trial(self, number: int) -> Any:
        return self.searcher.study.trials()[number]


def report(step: int, loss: float, perplexity: float = 40.0) -> dict[str, Any]:
    """What a job reports after an evaluation."""
    return {"step": step, "metric/eval_loss": loss, "metric/perplexity": perplexity, "eval_loss": loss}


def test_baselines_come_first_and_alone_then_trials_then_finals_then_the_end(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    (one, first), (two, second) = hands.must_take(), hands.must_take()
    assert [first.name, second.name] == ["baseline-search", "baseline-final"]
    assert hands.take() is None
    hands.finish(one)
    assert hands.take() is None
    hands.finish(two)
    running = [hands.must_take() for _ in range(3)]
    assert [job.name for _, job in running] == ["trial-000", "trial-001", "trial-002"]
    hands.finish(running[0][0], 0.6)
    hands.finish(running[2][0], 0.4)
    assert hands.take() is None
    hands.finish(running[1][0], 0.5)
    finals = [hands.must_take() for _ in range(4)]
    assert [job.name for _, job in finals] == [
        "final-002-seed-1042",
        "final-000-seed-1042",
        "final-002-seed-1043",
        "final-000-seed-1043",
    ]
    assert hands.searcher.suggest("wait") is None
    assert hands.searcher.interrupted()
    for trial_id, _ in finals:
        hands.finish(trial_id)
    assert hands.searcher.suggest("end") == Searcher.FINISHED
    assert not hands.searcher.interrupted()
    assert set(hands.searcher.ended.values()) == {"complete"}


def test_no_job_is_handed_out_twice_over_a_whole_search(tmp_path: Path) -> None:
    hands, names = Hands(tmp_path, trials=6), []
    while (taken := hands.take()) is not None:
        names.append(taken[1].name)
        hands.finish(taken[0], 1 / len(names))
    assert len(names) == len(set(names)) == 2 + 6 + 4


def test_a_search_whose_baseline_fails_ends_without_trials(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    (one, _), (two, _) = hands.must_take(), hands.must_take()
    hands.finish(one)
    hands.searcher.on_trial_complete(two, result={"step": 0, "failure": "OSError: the disk is full"})
    assert hands.searcher.suggest("end") == Searcher.FINISHED
    assert hands.searcher.study.trials() == []


def test_a_stop_by_the_scheduler_is_pruned_and_keeps_the_evaluation_that_led_to_it(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    hands.searcher.on_trial_result(trial_id, report(1, 0.7))
    hands.searcher.on_trial_result(trial_id, {"step": 2, "loss": 0.6})
    hands.searcher.note_stop(trial_id, 3)
    hands.searcher.on_trial_complete(trial_id, result=report(3, 0.65))
    trial = hands.trial(job.number)
    assert (trial.state, trial.user_attrs[WHY]) == (TrialState.PRUNED, "stopped by the scheduler")
    assert trial.intermediate_values == {1: 0.7, 3: 0.65}
    assert trial.user_attrs[CURVE]["3"] == {"eval_loss": 0.65, "perplexity": 40.0}
    assert hands.searcher.ended[trial_id] == "pruned"


def test_a_trials_own_end_wins_over_a_stop(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    hands.searcher.note_stop(trial_id, 4)
    hands.finish(trial_id, 0.3)
    assert (hands.trial(job.number).state, hands.trial(job.number).values) == (TrialState.COMPLETE, [0.3])


def test_a_reason_of_failure_reaches_the_study(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    why = "NonFiniteLossError: the loss became nan at step 3"
    hands.searcher.on_trial_complete(trial_id, result={"step": 0, "failure": why, FINISHED_KEY: False})
    assert (hands.trial(job.number).state, hands.trial(job.number).user_attrs[WHY]) == (TrialState.FAIL, why)
    assert hands.searcher.why[trial_id] == why
    assert hands.must_take()[1].name == "trial-001"


def test_an_error_without_a_result_is_a_failure(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    hands.searcher.on_trial_complete(trial_id, error=True)
    assert hands.trial(job.number).state == TrialState.FAIL
    assert "the worker died" in hands.trial(job.number).user_attrs[WHY]


def test_an_interrupted_trial_stays_running_and_is_asked_again(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    hands.searcher.on_trial_complete(trial_id, result={"step": 1, "loss": 0.6})
    assert hands.searcher.ended[trial_id] == "interrupted"
    assert hands.trial(job.number).state == TrialState.RUNNING
    assert hands.searcher.interrupted()
    again = Hands(tmp_path)
    assert again.must_take()[1] == job


def test_a_resumed_search_hands_out_only_what_is_not_done(tmp_path: Path) -> None:
    hands, names = Hands(tmp_path), []
    for _ in range(6):
        trial_id, job = hands.must_take()
        names.append(job.name)
        hands.finish(trial_id, 1 / len(names))
    resumed = Hands(tmp_path)
    while (taken := resumed.take()) is not None:
        names.append(taken[1].name)
        resumed.finish(taken[0])
    assert len(names) == len(set(names)) == 2 + 3 + 4
    assert not resumed.searcher.interrupted()


def test_violations_are_told_against_the_baseline_of_the_search_half(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    hands.finish(hands.must_take()[0], perplexity=50.0)
    assert hands.trial(0).constraints["perplexity"] == pytest.approx(50 - 1.1 * 40)
    (candidate,) = hands.searcher.candidates()
    assert candidate.violations["perplexity"] == pytest.approx(6.0)


def test_only_metrics_of_a_report_are_metrics() -> None:
    assert metrics_of({**report(2, 0.5), "time_total_s": 3.0, "done": True}) == {"eval_loss": 0.5, "perplexity": 40.0}


class RayTrial:
    """What a scheduler reads of a Ray trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def asha(hands: Hands) -> StopNotingScheduler:
    searcher = hands.searcher
    inner = ASHAScheduler(
        time_attr="step", metric=searcher.metric, mode=searcher.mode, grace_period=1, max_t=4, reduction_factor=3
    )
    return StopNotingScheduler(inner, searcher)


def test_a_losing_trial_is_stopped_and_the_stop_is_noted_first(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    scheduler = asha(hands)
    hands.baselines()
    (good, _), (bad, _) = hands.must_take(), hands.must_take()
    for trial_id in (good, bad):
        scheduler.on_trial_add(None, RayTrial(trial_id))
    assert scheduler.on_trial_result(None, RayTrial(good), report(1, 0.4)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(bad), {"step": 1, "loss": 9.0}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(bad), report(1, 0.8)) == TrialScheduler.STOP
    hands.searcher.on_trial_complete(bad, result=report(1, 0.8))
    assert hands.searcher.ended == {"ray-0": "complete", "ray-1": "complete", bad: "pruned"}


def test_baselines_pass_the_scheduler_by(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    scheduler = asha(hands)
    baseline, _ = hands.must_take()
    scheduler.on_trial_add(None, RayTrial(baseline))
    assert scheduler.on_trial_result(None, RayTrial(baseline), report(9, 9.0)) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, RayTrial(baseline), report(9, 9.0))
    scheduler.on_trial_remove(None, RayTrial(baseline))
    scheduler.on_trial_error(None, RayTrial(baseline))


def test_the_last_report_of_a_trial_counts_for_those_that_follow(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    scheduler = asha(hands)
    hands.baselines()
    (done, _), (later, _) = hands.must_take(), hands.must_take()
    for trial_id in (done, later):
        scheduler.on_trial_add(None, RayTrial(trial_id))
    end = report(4, 0.2) | {FINISHED_KEY: True}
    assert scheduler.on_trial_result(None, RayTrial(done), end) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, RayTrial(done), end)
    assert scheduler.on_trial_result(None, RayTrial(later), report(3, 0.3)) == TrialScheduler.STOP
