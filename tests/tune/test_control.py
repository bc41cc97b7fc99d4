"""Looking at a search and steering it: the command line on files alone, and what the searcher makes of each command."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from optuna.trial import TrialState

from phasegpt.checkpoint_files import ADAPTER
from tests.tune.conftest import ToyRequest
from tests.tune.test_scheduler import RayTrial
from tests.tune.test_searcher import BETA, Hands, report
from tune import control
from tune.arms import Arm
from tune.commands import COMMANDS, Command, Commands, give
from tune.request import Request, resumed_request
from tune.scheduler import NotingScheduler
from tune.search import main
from tune.study import WHY, Study

# --- what the searcher makes of a command ----------------------------------------------------------------------------


def ran(hands: Hands) -> list[str]:
    """The names of the jobs to the end."""
    names = []
    while (taken := hands.take()) is not None:
        names.append(taken[1].name)
        hands.finish(taken[0], 1 / len(names))
    return names


def test_more_trials_are_run_also_after_the_finals_and_in_a_resumed_search(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    give(tmp_path, Command("extend", trials=2))
    first = ran(hands)
    assert [name for name in first if "trial" in name] == [f"trial-{n:03d}" for n in range(5)]
    give(tmp_path, Command("extend", trials=1))
    later = ran(Hands(tmp_path))
    assert later[0] == "trial-005"
    assert all(name.startswith("final-") for name in later[1:])
    assert not set(first) & set(later)


def test_a_clone_has_the_values_of_its_parent_with_changes_and_is_asked_for_once(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    hands.finish(hands.must_take()[0])
    give(tmp_path, Command("clone", trial=0, values={"training.max_steps": 7}, warm=True))
    give(tmp_path, Command("clone", trial=0, values={BETA: 0.9}))
    jobs = [hands.must_take() for _ in range(2)]
    assert [job.values for _, job in jobs] == [{BETA: 0.5, "training.max_steps": 7}, {BETA: 0.9}]
    assert [(job.origin, job.warm) for _, job in jobs] == [("clone of trial 0", 0), ("clone of trial 0", None)]
    for trial_id, _ in jobs:
        hands.finish(trial_id)
    again = Hands(tmp_path)
    names = ran(again)
    assert names[:2] == ["trial-003", "trial-004"]
    assert again.searcher.study.budget == 5
    assert [t.number for t in again.searcher.study.trials()] == [0, 1, 2, 3, 4]


def test_no_more_trials_means_on_to_the_finals_and_holds_after_a_crash(tmp_path: Path) -> None:
    hands = Hands(tmp_path, trials=9)
    hands.baselines()
    for _ in range(2):
        hands.finish(hands.must_take()[0])
    give(tmp_path, Command("finish"))
    assert hands.must_take()[1].name.startswith("final-")
    names = ran(Hands(tmp_path, trials=9))
    assert all(name.startswith("final-") for name in names)


def test_a_trial_that_people_stop_is_pruned_at_its_next_report(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    hands.baselines()
    (one, _), (two, _) = hands.must_take(), hands.must_take()
    give(tmp_path, Command("stop", trial=1))
    scheduler = NotingScheduler(hands.searcher)
    assert scheduler.on_trial_result(None, RayTrial(one), report(1, 0.5)) == scheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(two), {"step": 2, "loss": 0.1}) == scheduler.STOP
    hands.searcher.on_trial_complete(two, result={"step": 2, "loss": 0.1})
    assert (hands.trial(1).state, hands.trial(1).user_attrs[WHY]) == (TrialState.PRUNED, "stopped by command")


def test_a_trial_that_waits_for_its_cohort_is_stopped_at_once(tmp_path: Path) -> None:
    hands = Hands(tmp_path, scheduler="halving")
    hands.baselines()
    hands.pause(hands.must_take()[0], loss=0.1)
    give(tmp_path, Command("stop", trial=0))
    assert hands.must_take()[1].number == 1
    assert hands.trial(0).state == TrialState.PRUNED


def test_an_interruption_is_for_the_process_that_runs_and_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    hands = Hands(tmp_path)
    give(tmp_path, Command("interrupt"))
    hands.take()
    assert len(sent) == 1
    Hands(tmp_path).take()
    assert len(sent) == 1


def test_an_interruption_that_comes_while_a_process_is_still_setting_up_is_for_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    began = time.time()
    give(tmp_path, Command("interrupt"))
    Hands(tmp_path, since=began)
    assert len(sent) == 1
    Hands(tmp_path, since=time.time())
    assert len(sent) == 1


def test_commands_are_read_once_each_and_kept_in_their_order(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    assert commands.unread() == []
    give(tmp_path, Command("extend", trials=2))
    give(tmp_path, Command("stop", trial=1))
    assert [(place, str(command)) for place, command in commands.unread()] == [
        (0, "2 more trials"),
        (1, "stop trial 1"),
    ]
    assert commands.unread() == []
    give(tmp_path, Command("finish"))
    assert [place for place, _ in commands.unread()] == [2]
    assert all(abs(command.at - time.time()) < 60 for command in commands.all())


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def request_(toy_request: ToyRequest) -> Request:
    """A toy search that has run two of its three trials and stands in the third."""
    request = toy_request(
        "search.parameters={training.beta: {uniform: [0.1, 1]}, training.batch_size: {choice: [2, 4]}}"
    )
    request.save()
    study = opened(request)
    for number in range(3):
        study.ask()
        study.report(number, 2, {"eval_loss": 0.7 - number / 10})
    study.complete(0, {"eval_loss": 0.6}, {})
    study.fail(1, "the loss became nan at step 3")
    return request


def opened(request: Request) -> Study:
    search, journal = request.config.search, request.places.folder / "study.journal"
    return Study(request.name, journal, search, request.own_values(), request.config.experiment.seed)


@pytest.fixture
def held(request_: Request) -> Iterator[None]:
    """A driver that runs the search."""
    with FileLock(request_.places.folder / "driver.lock"):
        yield


def say(request: Request, verb: str, *words: str) -> int:
    return main([verb, request.name, *words, "--storage", str(request.places.storage)])


def asked(request: Request) -> list[Command]:
    return Commands(request.places.folder).all()


def test_the_status_tells_where_a_search_stands_and_changes_nothing(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (request_.places.folder / "study.journal").read_bytes()
    assert say(request_, "status") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:3] == [
        "toy: track b, not running",
        "  trials    3 of 3 begun (1 complete, 1 failed, 1 running), 0 finals done",
        f"  best      trial-000 β=0.1 batch_size={request_.config.training.batch_size} eval_loss=0.6",
    ]
    assert "  running   trial-002" in text
    assert "at step 2 eval_loss=0.5" in text
    assert say(request_, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["best"], found["running"], found["trials"][1]["why"]) == (
        "trial-000", False, "the loss became nan at step 3",
    )  # fmt: skip
    assert (request_.places.folder / "study.journal").read_bytes() == before


@pytest.mark.usefixtures("held")
def test_what_is_asked_of_a_running_search_lies_beside_it(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    (request_.places.checkpoints / "trial-000" / ADAPTER).mkdir(parents=True)
    assert say(request_, "extend", "--trials", "4") == 0
    assert say(request_, "stop", "trial-002") == 0
    assert say(request_, "stop", "--finish") == 0
    assert say(request_, "clone", "0", "--set", "training.beta=0.2", "--warm-start") == 0
    assert [str(command) for command in asked(request_)] == [
        "4 more trials",
        "stop trial 2",
        "no more trials, on to the finals",
        "trial 0 again with training.beta=0.2, from its weights",
    ]
    assert "at the next report of a job" in capsys.readouterr().out
    say(request_, "status")
    text = capsys.readouterr().out
    assert text.startswith("toy: track b, running")
    assert "  command   stop trial 2" in text


def test_what_is_asked_afterwards_names_the_command_that_goes_on(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(request_, "extend", "--trials", "4") == 0
    assert "python -m tune.search --track b --resume toy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stop", "7"], "7: no such trial of toy; trials so far: 0 to 2"),
        (["stop", "seven"], "seven: no such trial"),
        (["stop", "1"], "trial 1 has ended already: failed"),
        (["stop", "2", "--finish"], "leave out the trial, or leave out --finish"),
        (["extend", "--trials", "0"], "expected a number of trials to add"),
        (["clone", "2", "--warm-start"], "trial 2 has not ended"),
        (["clone", "0", "--warm-start"], "cannot be fetched: the search has sent nothing to MLflow; clone it without"),
        (["clone", "0", "--set", "training.bta=1"], "training.bta: no such key; did you mean beta?"),
        (["clone", "0", "--set", "training.beta=-1"], "training.beta"),
        (["clone", "0", "--set", "training.batch_size=3"], "the search chooses out of [2, 4]; found 3"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_no_command(
    request_: Request, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert say(request_, *words) == 2
    assert said in capsys.readouterr().err
    assert not (request_.places.folder / COMMANDS).exists()


def test_an_ablation_has_no_trials_to_steer(
    request_: Request, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation = replace(request_, arms=(Arm("β = 0.1", {"training.beta": 0.1}),))
    monkeypatch.setattr(control, "find", lambda *_, **__: ablation)
    for words in (["extend", "--trials", "2"], ["clone", "0"], ["stop", "0"], ["stop", "--finish"]):
        assert say(request_, *words) == 2
        assert "toy is an ablation" in capsys.readouterr().err
    assert say(request_, "stop") == 0


@pytest.mark.usefixtures("held")
def test_a_search_that_runs_is_not_cleaned(request_: Request, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(request_, "clean") == 2
    assert capsys.readouterr().err == "toy is running: it removes by search.keep itself; stop it first\n"


def test_a_search_that_has_not_come_to_its_end_is_cleaned_of_what_ended_trials_went_on_from(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    top = request_.places.checkpoints
    for trial in range(3):
        for name in ("checkpoint-2", ADAPTER):
            (top / f"trial-{trial:03d}" / name).mkdir(parents=True)
    everything = sorted(top.glob("*/*"))
    assert say(request_, "clean", "--dry-run") == 0
    assert sorted(top.glob("*/*")) == everything
    assert say(request_, "clean") == 0
    gone = {top / name / "checkpoint-2" for name in ("trial-000", "trial-001")}
    assert sorted(top.glob("*/*")) == sorted(set(everything) - gone)
    dry, done = capsys.readouterr().out.split("toy: would free up to 0.0 MB\n")
    assert dry == done.removesuffix("toy: freed 0.0 MB\n")
    assert "  trial-000: checkpoint-2 (0.0 MB)\n" in dry


def test_a_search_from_before_there_was_the_rule_keeps_all_when_it_goes_on(request_: Request) -> None:
    kept = json.loads(request_.places.request.read_text())
    del kept["config"]["search"]["keep"]
    request_.places.request.write_text(json.dumps(kept))
    assert request_.config.search.keep == "finalists"
    assert resumed_request("b", "toy", str(request_.places.storage)).config.search.keep == "all"


def test_a_search_that_is_not_there_is_named_with_those_that_are(
    request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "tuy", "--storage", str(request_.places.storage)]) == 2
    assert "there are: toy" in capsys.readouterr().err
