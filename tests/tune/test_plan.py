"""The plan of a toy search, by numbers that can be counted by hand."""

from pathlib import Path

import pytest

from tests.tune.conftest import ToyRequest
from tune.duration import SharedParts, _training_flops
from tune.plan import as_json, as_text, make_plan
from tune.shapes import Shape


def test_the_plan_of_the_toy_is_what_can_be_counted(toy_request: ToyRequest) -> None:
    """36 pairs, 9 of them artistic and held out; 3 trials and 2 x 2 finals of 4 steps.

    A toy layer: q and o 64·64 each, k and v 64·32 each, three matrices of 64·128 -> 36,864 parameters.
    """
    plan = make_plan(toy_request())
    assert (len(plan.split.held_out), len(plan.split.train) + len(plan.split.val)) == (9, 27)
    assert len(plan.split.val) in (4, 5)
    assert (plan.trials, plan.finals, plan.steps) == (3, 4, (4,))
    assert plan.shape is not None
    assert (plan.shape.layers, plan.shape.hidden, plan.shape.layer_parameters) == (4, 64, 36_864)
    assert plan.shape.parameters == 4 * 36_864 + plan.shape.vocabulary * 64
    assert plan.seconds is not None
    assert plan.seconds_per_fit is not None
    assert plan.seconds > 7 * plan.seconds_per_fit > 0
    assert plan.memory is not None
    assert 0.6e9 < plan.memory.process < plan.memory.total < 1.2e9


def test_steps_go_by_epochs_where_no_number_is_given(toy_request: ToyRequest) -> None:
    """22 or 23 pairs in batches of 4 are 6 batches, 2 batches a step are 3 steps an epoch."""
    sets = ("training.max_steps=null", "training.num_epochs=2", "training.batch_size=4")
    assert make_plan(toy_request(*sets, "training.gradient_accumulation_steps=2")).steps == (6,)


def test_the_steps_of_a_curriculum_are_those_of_its_stages(toy_request: ToyRequest) -> None:
    """Of 22 or 23 pairs half are 11 or 12, which are 3 batches of 4, 2 steps an epoch; all of them are 3."""
    stages = "[{name: easy, epochs: 2, data_fraction: 0.5}, {name: all, epochs: 1, data_fraction: 1.0}]"
    climb = ("training.curriculum_learning.enabled=true", f"training.curriculum_learning.stages={stages}")
    sets = ("training.max_steps=null", "training.batch_size=4", "training.gradient_accumulation_steps=2")
    assert make_plan(toy_request(*sets, *climb)).steps == (2 * 2 + 3,)


def test_workers_of_a_trial_take_larger_batches_and_fewer_steps(toy_request: ToyRequest) -> None:
    """22 or 23 pairs in micro-batches of 2 x 4 are 3 batches."""
    sets = ("training.max_steps=null", "training.num_epochs=2", "training.batch_size=4")
    plan = make_plan(toy_request(*sets, "training.distributed={enabled: true, num_gpus: 2}"))
    assert plan.steps == (6,)
    assert "GB a worker (weights " in as_text(plan)


def test_a_grid_is_counted_by_its_points_and_the_configs_own(toy_request: ToyRequest) -> None:
    grid = "search.parameters={training.beta: {grid: [0.05, 0.2]}, training.kto_lambda: {grid: [0.1, 0.5]}}"
    assert make_plan(toy_request("search.sampler=grid", grid)).trials == 5
    assert make_plan(toy_request("search.sampler=grid", grid, "training.beta=0.2")).trials == 4


def test_a_single_finalist_is_joined_by_the_configs_own_values(toy_request: ToyRequest) -> None:
    assert make_plan(toy_request("search.finalists={count: 1, seeds: 3}")).finals == 6
    assert make_plan(toy_request("search.finalists={count: 5, seeds: 1}")).finals == 3


def test_a_model_that_is_not_here_leaves_time_and_memory_open(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request("model.base_model=someone/not-here"))
    assert (plan.shape, plan.seconds, plan.memory) == (None, None, None)
    assert as_text(plan).count("unknown until the base model is here") == 3
    assert as_json(plan)["seconds"] is None


def test_more_steps_more_evaluations_and_all_layers_take_longer(toy_request: ToyRequest) -> None:
    quick = make_plan(toy_request("model.lora_config.layers_to_transform=[3]")).seconds_per_fit
    slow = make_plan(toy_request("training.max_steps=32", "evaluation.eval_interval=1")).seconds_per_fit
    assert quick is not None
    assert slow is not None
    assert slow > 2 * quick


@pytest.mark.parametrize(("highest", "notes"), [("1.0e-3", 1), ("5.0e-5", 0)])
def test_a_learning_rate_beyond_the_literature_is_noted(toy_request: ToyRequest, highest: str, notes: int) -> None:
    plan = make_plan(toy_request(f"search.parameters.training.learning_rate={{choice: [1.0e-6, 2.0e-6, {highest}]}}"))
    assert len(plan.warnings) == notes
    assert all("trl#1236" in note for note in plan.warnings)


def test_the_text_says_what_would_run_and_that_nothing_did(toy_request: ToyRequest, tmp_path: Path) -> None:
    text = as_text(make_plan(toy_request("search.constraints={kl_divergence: '<= 2.0'}")))
    for line in (
        "Track b: profile laptop, as asked",
        "objectives  eval_loss min; constraints kl_divergence <= 2.0",
        "space       training.kto_lambda: loguniform [0.001, 1.0]",
        "training.beta: loguniform [0.01, 1.0]",
        "fits        3 trials (tpe, scheduler none) + 4 finals (2 x 2 seeds) + 2 baselines, 4 steps each",
        f"results     {tmp_path}/store/results/v14/track_b/toy.json",
    ):
        assert line in text
    assert text.endswith("Nothing was started.")
    assert list(tmp_path.iterdir()) == []


def test_the_object_for_scripts_holds_the_same_numbers(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request())
    found = as_json(plan)
    assert (found["trials"], found["finals"], found["steps"]) == (3, 4, [4])
    assert found["pairs"] == {"train": 27 - len(plan.split.val), "val": len(plan.split.val), "held_out": 9}
    assert found["config"]["training"]["beta"] == 0.1


def test_a_shape_counts_a_tied_embedding_once() -> None:
    assert Shape(layers=2, hidden=8, vocabulary=100, layer_parameters=50).parameters == 2 * 50 + 100 * 8


UPPER = "model.lora_config.layers_to_transform=upper_third"
MEASURED = "evaluation.metrics=[spiral_score, perplexity, eval_loss, kl_divergence]"


def test_the_plan_says_what_of_the_shared_work_runs_live_and_counts_its_time(toy_request: ToyRequest) -> None:
    """27 pairs outside the held-out domain: 54 answers of the toy's 64 numbers a token, in float32."""
    plans = [make_plan(toy_request(UPPER, MEASURED, f"shared_work.max_gb={gb}")) for gb in (20.0, 0.0)]
    kept, live = (plan.shared for plan in plans)
    assert kept is not None
    assert live is not None
    assert set(kept.kept) == {"hidden", "trunk"}
    assert live.kept == ()
    assert kept.wanted["trunk"] > kept.wanted["hidden"] > 54 * 5 * 64 * 4
    assert "on disk, once for all trials" in as_text(plans[0])
    assert "computed live in every step, over shared_work.max_gb" in as_text(plans[1])
    assert as_json(plans[1])["shared_work"]["kept"] == ()


def test_what_runs_live_costs_operations(toy_request: ToyRequest) -> None:
    request = toy_request(UPPER, "training.method=kto", "training.kto_lambda=0.1", MEASURED)
    shape = make_plan(request).shape
    assert shape is not None
    wanted = {"hidden": 1.0, "trunk": 1.0}
    kept, live = SharedParts(wanted, ("hidden", "trunk")), SharedParts(wanted, ())
    costs = [_training_flops(request.config, shape, shared, prompt=10, answer=20) for shared in (kept, live)]
    layer, head = 50 * 2 * 36_864, 2 * 20 * 2 * shape.vocabulary * 64
    assert costs == [(1 + 1) * layer + 4 * head, (4 + 4 + 1) * layer + 4 * head]
