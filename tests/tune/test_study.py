"""Ask and tell on real journals: first points, states, constraints, and what a dead process leaves behind."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from phasegpt.config_search import Search
from tune.space import LITERATURE
from tune.study import CURVE, METRICS, WHY, Asked, Study

BETA, RATE = "training.beta", "training.learning_rate"
BOX = {BETA: {"loguniform": [0.01, 1.0]}, RATE: {"loguniform": [1e-6, 1e-4]}}
OWN = {BETA: 0.2, RATE: 5e-5}
Loss = Callable[[Mapping[str, Any]], float]


def loss(values: Mapping[str, Any]) -> float:
    """Least at β = 0.1 and lr = 1e-5."""
    return abs(math.log10(values[BETA]) + 1) + abs(math.log10(values[RATE]) + 5)


def search(**settings: Any) -> Search:
    return Search.model_validate({"objectives": {"eval_loss": "min"}, "parameters": BOX, "trials": 5, **settings})


def opened(folder: Path, settings: Search, own: Mapping[str, Any] = OWN) -> Study:
    return Study("toy", folder / "study.journal", settings, dict(own), seed=42)


def run_out(study: Study) -> list[Asked]:
    """Ask and complete until the budget is spent."""
    asked = []
    while (question := study.ask()) is not None:
        asked.append(question)
        study.complete(question.number, {"eval_loss": loss(question.values)}, {})
    return asked


def test_the_first_trial_is_the_config_as_written_even_outside_the_box(tmp_path: Path) -> None:
    outside = {BETA: 7.0, RATE: 0.5}
    asked = run_out(opened(tmp_path, search(trials=8), outside))
    assert asked[0] == Asked(0, outside, "config")
    assert [a.number for a in asked] == list(range(8))
    sampled = [a for a in asked if a.origin == "sampler"]
    assert len(sampled) == 6
    assert all(0.01 <= a.values[BETA] <= 1.0 and 1e-6 <= a.values[RATE] <= 1e-4 for a in sampled)


def test_a_choice_without_the_own_value_still_begins_with_it(tmp_path: Path) -> None:
    ranks = search(parameters={"model.lora_config.r": {"choice": [8, 32]}})
    study = opened(tmp_path, ranks, {"model.lora_config.r": 16})
    first = study.ask()
    assert first == Asked(0, {"model.lora_config.r": 16}, "config")


def test_published_settings_follow_one_in_eight_trials(tmp_path: Path) -> None:
    assert [a.origin for a in run_out(opened(tmp_path / "7", search(trials=7)))][:2] == ["config", "sampler"]
    asked = run_out(opened(tmp_path / "16", search(trials=16)))
    assert [a.origin for a in asked][:4] == ["config", LITERATURE[0][0], LITERATURE[1][0], "sampler"]
    assert asked[1].values == LITERATURE[0][1]


def test_a_grid_asks_every_point_once(tmp_path: Path) -> None:
    grid = {BETA: {"grid": [0.1, 0.2]}, RATE: {"grid": [1e-5, 5e-5]}}
    study = opened(tmp_path, search(parameters=grid, sampler="grid", trials=50))
    asked = run_out(study)
    points = [(a.values[BETA], a.values[RATE]) for a in asked]
    assert points == [(0.2, 5e-5), (0.1, 1e-5), (0.1, 5e-5), (0.2, 1e-5)]
    assert [a.origin for a in asked] == ["config", "grid", "grid", "grid"]
    assert study.budget == 4


def test_each_end_is_told_as_what_it_was_with_its_reason(tmp_path: Path) -> None:
    study = opened(tmp_path, search())
    for _ in range(3):
        study.ask()
    study.complete(0, {"eval_loss": 0.5, "perplexity": 40.0, "subtlety": math.nan}, {})
    study.report(1, 10, {"eval_loss": 0.7})
    study.prune(1, "stopped by the scheduler")
    study.fail(2, "NonFiniteLossError: the loss became nan at step 3")
    complete, pruned, failed = study.trials()
    assert (complete.state, complete.values) == (TrialState.COMPLETE, [0.5])
    assert complete.user_attrs[METRICS] == {"eval_loss": 0.5, "perplexity": 40.0}
    assert (pruned.state, pruned.user_attrs[WHY]) == (TrialState.PRUNED, "stopped by the scheduler")
    assert pruned.intermediate_values == {10: 0.7}
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs[WHY] == "NonFiniteLossError: the loss became nan at step 3"


@pytest.mark.parametrize("metrics", [{"eval_loss": math.nan}, {"eval_loss": math.inf}, {"perplexity": 1.0}])
def test_an_objective_without_a_finite_value_is_a_failure(tmp_path: Path, metrics: dict[str, float]) -> None:
    study = opened(tmp_path, search())
    study.ask()
    study.complete(0, metrics, {})
    (trial,) = study.trials()
    assert (trial.state, trial.user_attrs[WHY]) == (TrialState.FAIL, "no finite value of eval_loss")
    assert METRICS not in trial.user_attrs


def test_a_value_that_is_no_number_never_reaches_a_curve(tmp_path: Path) -> None:
    study = opened(tmp_path, search())
    study.ask()
    study.report(0, 1, {"eval_loss": math.nan, "perplexity": 40.0})
    study.report(0, 2, {"eval_loss": 0.6})
    (trial,) = study.trials()
    assert trial.intermediate_values == {2: 0.6}
    assert study.curve(0) == {1: {"perplexity": 40.0}, 2: {"eval_loss": 0.6}}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_several_objectives_with_curves_and_stops_last_twenty_trials(tmp_path: Path, sampler: str) -> None:
    both = search(objectives={"spiral_score": "max", "perplexity": "min"}, sampler=sampler, trials=20)
    study = opened(tmp_path, both)
    while (asked := study.ask()) is not None:
        metrics = {"spiral_score": 1 - loss(asked.values), "perplexity": 40 + loss(asked.values)}
        study.report(asked.number, 1, metrics)
        if asked.number % 3 == 2:
            study.prune(asked.number, "stopped by the scheduler")
        else:
            study.complete(asked.number, metrics, {"kl_divergence": -1.0})
    trials = study.trials()
    assert len(trials) == 20
    assert sum(trial.state == TrialState.PRUNED for trial in trials) == 6
    assert all(trial.user_attrs[CURVE] and not trial.intermediate_values for trial in trials)


def sampled_after_ten(folder: Path, violation_of_large: float) -> list[float]:
    """β of trials 10 to 29; 0.8 is best and 0.2 nearly so. A β above 0.5 is told to break its constraint by so much."""
    study = opened(folder, search(parameters={BETA: {"uniform": [0.0, 1.0]}}, trials=30), {BETA: 0.5})
    asked = []
    while (question := study.ask()) is not None:
        beta = question.values[BETA]
        asked.append(beta)
        violation = violation_of_large if beta > 0.5 else -1.0
        score = min(abs(beta - 0.8), abs(beta - 0.2) + 0.1)
        study.complete(question.number, {"eval_loss": score}, {"kl_divergence": violation})
    assert [t.constraints["kl_divergence"] for t in study.trials()] == [
        violation_of_large if beta > 0.5 else -1.0 for beta in asked
    ]
    return asked[10:]


def test_the_sampler_leaves_the_region_that_breaks_a_constraint(tmp_path: Path) -> None:
    free, bound = sampled_after_ten(tmp_path / "free", -1.0), sampled_after_ten(tmp_path / "bound", 1.0)
    assert sum(beta > 0.5 for beta in free) > 15
    assert sum(beta > 0.5 for beta in bound) < 5


def test_a_boundless_violation_can_be_told(tmp_path: Path) -> None:
    study = opened(tmp_path, search())
    study.ask()
    study.complete(0, {"eval_loss": 0.5}, {"kl_divergence": math.inf})
    assert study.trials()[0].constraints == {"kl_divergence": 1e9}


def test_a_reopened_study_keeps_what_ended_and_asks_again_what_ran(tmp_path: Path) -> None:
    before = opened(tmp_path, search())
    first, second, third = before.ask(), before.ask(), before.ask()
    assert first is not None
    before.complete(0, {"eval_loss": 0.5}, {})
    after = opened(tmp_path, search())
    assert [t.state for t in after.trials()] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    assert [after.ask(), after.ask()] == [second, third]
    after.report(1, 1, {"eval_loss": 0.9})
    after.prune(1, "stopped by the scheduler")
    after.complete(2, {"eval_loss": 0.4}, {})
    assert [a.number for a in run_out(after)] == [3, 4]
    assert after.ask() is None
    assert [t.number for t in after.trials()] == [0, 1, 2, 3, 4]


def test_a_study_at_its_budget_asks_only_what_was_left_running(tmp_path: Path) -> None:
    before = opened(tmp_path, search(trials=2))
    asked = [before.ask(), before.ask()]
    assert before.ask() is None
    after = opened(tmp_path, search(trials=2))
    assert [after.ask(), after.ask(), after.ask()] == [*asked, None]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_search_that_dies_in_every_trial_asks_what_an_undisturbed_one_asks(tmp_path: Path, sampler: str) -> None:
    settings = search(sampler=sampler, trials=14)
    undisturbed = run_out(opened(tmp_path / "one", settings))
    asked = []
    for _ in range(14):
        died = opened(tmp_path / "many", settings).ask()
        study = opened(tmp_path / "many", settings)
        again = study.ask()
        assert again is not None
        assert again == died
        asked.append(again)
        study.complete(again.number, {"eval_loss": loss(again.values)}, {})
    assert asked == undisturbed
    assert opened(tmp_path / "many", settings).ask() is None


def test_another_seed_asks_something_else(tmp_path: Path) -> None:
    one = run_out(opened(tmp_path / "one", search()))
    other = run_out(Study("toy", tmp_path / "other" / "study.journal", search(), OWN, seed=7))
    assert one[0] == other[0]
    assert one[1].values != other[1].values


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_dies_between_two_values_asks_what_an_undisturbed_one_asks(tmp_path: Path, sampler: str) -> None:
    settings = search(sampler=sampler, trials=14)
    undisturbed = run_out(opened(tmp_path / "one", settings))
    journal, asked = tmp_path / "many" / "study.journal", []
    for _ in range(14):
        opened(tmp_path / "many", settings).ask()
        lines = journal.read_bytes().splitlines(keepends=True)
        assert RATE.encode() in lines[-1]
        journal.write_bytes(b"".join(lines[:-1]))
        study = opened(tmp_path / "many", settings)
        again = study.ask()
        assert again is not None
        asked.append(again)
        study.complete(again.number, {"eval_loss": loss(again.values)}, {})
    assert asked == undisturbed


def test_a_search_that_dies_while_it_begins_still_asks_every_point_of_its_grid(tmp_path: Path) -> None:
    grid = search(parameters={BETA: {"grid": [0.1, 0.2, 0.3]}}, sampler="grid")
    own = {BETA: 0.5}

    def asked_by(study: Study) -> list[Asked]:
        asked = []
        while (question := study.ask()) is not None:
            asked.append(question)
            study.complete(question.number, {"eval_loss": question.values[BETA]}, {})
        return asked

    whole = asked_by(opened(tmp_path / "whole", grid, own))
    opened(tmp_path / "dies", grid, own)
    journal = tmp_path / "dies" / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    for length in range(1, len(lines)):
        journal.write_bytes(b"".join(lines[:length]))
        assert asked_by(opened(tmp_path / "dies", grid, own)) == whole


MIXED = {
    "training.method": {"choice": ["dpo", "kto"]},
    "training.kto_lambda": {"loguniform": [0.001, 1.0], "or": [0], "when": {"training.method": "kto"}},
    BETA: {"loguniform": [0.01, 1.0]},
}
MIXED_OWN = {"training.method": "kto", "training.kto_lambda": 0.1, BETA: 0.1}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_conditional_parameters_are_asked_told_and_replayed(tmp_path: Path, sampler: str) -> None:
    settings = search(parameters=MIXED, sampler=sampler, trials=40)
    study = opened(tmp_path, settings, MIXED_OWN)
    asked = []
    while (question := study.ask()) is not None:
        asked.append(question)
        penalty = question.values.get("training.kto_lambda", 0.3)
        study.complete(question.number, {"eval_loss": penalty + abs(question.values[BETA] - 0.2)}, {})
    assert asked[0].values == MIXED_OWN
    lambdas = {"training.kto_lambda" in a.values for a in asked if a.values["training.method"] == "dpo"}
    assert lambdas == {False}
    drawn = [a.values["training.kto_lambda"] for a in asked if a.values["training.method"] == "kto"]
    assert 0 in drawn
    assert any(0.001 <= value <= 1.0 for value in drawn[1:])
    reopened = opened(tmp_path, settings, MIXED_OWN)
    assert [reopened.values(trial) for trial in reopened.trials()] == [a.values for a in asked]


def best_after(folder: Path, sampler: str, seed: int) -> float:
    """The least of 30 losses on a bowl whose ground is 0, at β = 0.03 and lr = 4e-5, where no first point lies."""
    study = Study("bowl", folder / f"{sampler}-{seed}", search(sampler=sampler, trials=30), OWN, seed)
    best = math.inf
    while (asked := study.ask()) is not None:
        away = math.log10(asked.values[BETA] / 0.03), math.log10(asked.values[RATE] / 4e-5)
        best = min(best, math.hypot(*away))
        study.complete(asked.number, {"eval_loss": math.hypot(*away)}, {})
    return best


def test_tpe_reaches_a_known_optimum_and_beats_random(tmp_path: Path) -> None:
    tpe = [best_after(tmp_path, "tpe", seed) for seed in range(4)]
    random = [best_after(tmp_path, "random", seed) for seed in range(4)]
    assert sum(found < 0.12 for found in tpe) >= 3
    assert sum(a < b for a, b in zip(tpe, random, strict=True)) >= 3


def test_a_torn_journal_is_cut_with_a_warning_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = opened(tmp_path, search())
    asked = before.ask()
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "wor')
    with caplog.at_level(logging.WARNING, "phasegpt"):
        after = opened(tmp_path, search())
    assert "study.journal:6: cut 19 bytes of a line that was never finished" in caplog.text
    assert journal.read_bytes().startswith(whole + b"{")
    assert after.ask() == asked
    run_out(after)
    assert len(opened(tmp_path, search()).trials()) == 5


def test_a_whole_journal_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_out(opened(tmp_path, search()))
    before = (tmp_path / "study.journal").read_bytes()
    opened(tmp_path, search())
    assert (tmp_path / "study.journal").read_bytes()[: len(before)] == before
    assert not caplog.records
