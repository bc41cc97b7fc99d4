"""The order of a search and what each end means for the study, driven by hand as Ray drives it."""

import math
import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from phasegpt.config_search import Search
from phasegpt.files import write_json
from tune.commands import Commands
from tune.jobs import Job, from_config
from tune.reports import FINISHED_KEY, FULL_KEY, PAUSED_KEY, metrics_of, with_metrics
from tune.searcher import JobSearcher
from tune.study import CURVE, NOTES, WHY, Study

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

    def __init__(self, folder: Path, since: float = math.inf, **settings: Any) -> None:
        search = toy_search(**settings)
        study = Study("toy", folder / "study.journal", search, {BETA: 0.5}, seed=42)
        self.searcher = JobSearcher(
            study, search, {"name": "toy"}, folder / "results", seed=42, rungs=(1, 4), commands=Commands(folder, since)
        )
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

    def pause(self, trial_id: str, loss: float) -> None:
        """The job comes as far as it was asked to; Ray tells of the report first, and then of the end."""
        step = self.searcher.jobs[trial_id].until
        assert step is not None
        last = report(step, loss) | {PAUSED_KEY: True, FINISHED_KEY: False}
        self.searcher.on_trial_result(trial_id, last)
        self.searcher.on_trial_complete(trial_id, result=last)

    def finish(self, trial_id: str, loss: float = 0.5, perplexity: float = 40.0, **told: str) -> None:
        """The job writes its result and ends well."""
        metrics = {"eval_loss": loss, "perplexity": perplexity}
        job = self.searcher.jobs[trial_id]
        write_json(self.searcher.results / f"{job.name}.json", {"metrics": metrics})
        self.searcher.on_trial_complete(trial_id, result={**report(4, loss, perplexity), **told, FINISHED_KEY: True})

    def baselines(self) -> None:
        for _ in range(2):
            self.finish(self.must_take()[0])

    def trial(self, number: int) -> Any:
        return self.searcher.study.trials()[number]


def report(step: int, loss: float, perplexity: float = 40.0) -> dict[str, Any]:
    """What a job reports after an evaluation."""
    return with_metrics({"eval_loss": loss, "perplexity": perplexity}, step, "eval_loss")


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


def test_a_full_disk_stops_the_search_once_and_its_trial_is_asked_again(tmp_path: Path) -> None:
    hands, told = Hands(tmp_path), []
    hands.baselines()
    (one, first), (other, second) = hands.must_take(), hands.must_take()
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        for trial_id in (one, other):
            full = {"step": 0, FULL_KEY: "OSError: [Errno 28] No space left on device", FINISHED_KEY: False}
            hands.searcher.on_trial_complete(trial_id, result=full)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [signal.SIGINT]
    assert hands.searcher.trouble == "the storage takes no more: OSError: [Errno 28] No space left on device"
    again = Hands(tmp_path)
    assert [again.must_take()[1], again.must_take()[1]] == [first, second]


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


def test_a_paused_trial_stays_running_and_keeps_its_evaluation(tmp_path: Path) -> None:
    hands = Hands(tmp_path, scheduler="halving")
    hands.baselines()
    trial_id, job = hands.must_take()
    assert job.until == 1
    hands.pause(trial_id, loss=0.7)
    assert hands.searcher.ended[trial_id] == "paused"
    assert hands.trial(job.number).state == TrialState.RUNNING
    assert hands.searcher.study.curve(job.number) == {1: {"eval_loss": 0.7, "perplexity": 40.0}}
    assert hands.must_take()[1].number == 1


def test_a_remark_reaches_the_study_and_a_trial_that_ran_out_of_memory_says_so(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    (good, one), (bad, two) = hands.must_take(), hands.must_take()
    hands.finish(good, note="oom: ran again with training.batch_size 2")
    hands.searcher.on_trial_complete(bad, result={"step": 0, "failure": "oom: OutOfMemoryError: CUDA out of memory"})
    assert hands.trial(one.number).user_attrs[NOTES] == ["oom: ran again with training.batch_size 2"]
    assert hands.trial(two.number).state == TrialState.FAIL
    assert hands.trial(two.number).user_attrs[WHY].startswith("oom")


def test_the_own_values_go_to_the_finals_though_their_trial_was_stopped(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    trial_id, job = hands.must_take()
    assert job.number == 0
    hands.searcher.note_stop(trial_id, 1)
    hands.searcher.on_trial_complete(trial_id, result=report(1, 0.9))
    for _ in range(2):
        hands.finish(hands.must_take()[0])
    finals = [hands.must_take()[1] for _ in range(4)]
    assert [final.number for final in finals] == [1, 0, 1, 0]
    assert finals[1].values == {BETA: 0.5, "experiment.seed": 1042}


def test_what_ended_before_this_process_is_known_with_its_end(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    ids = [hands.must_take()[0] for _ in range(3)]
    hands.finish(ids[0])
    hands.searcher.on_trial_complete(ids[1], result={"step": 0, "failure": "the disk is full"})
    after = Hands(tmp_path)
    ended = [(job.name, how, why) for job, how, why in after.searcher.ended_before()]
    assert ended == [
        ("baseline-search", "complete", ""),
        ("baseline-final", "complete", ""),
        ("trial-000", "complete", ""),
        ("trial-001", "failed", "the disk is full"),
    ]
    after.finish(after.must_take()[0])
    after.finish(after.must_take()[0])
    last = Hands(tmp_path).searcher
    last.study.budget += 1  # as `extend` does; which finals there will be is open again
    assert [job.name for job, _, _ in last.ended_before()][-1].startswith("final-")
