"""The plan of a toy search, by numbers that can be counted by hand."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from phasegpt.config import stages
from phasegpt.config_io import load_config, track_config
from tests.tune.conftest import ToyRequest
from tune.capacity import Ask
from tune.duration import SharedParts, _training_flops, costs_of
from tune.plan import Plan, as_json, make_plan
from tune.plan_text import as_text
from tune.rate import Rate
from tune.request import new_request
from tune.shapes import Shape, read_shape, shape_of


@pytest.fixture(autouse=True)
def no_kept_rate(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path_factory.mktemp("cache")))


def plain(text: str) -> str:
    """A text whose lines are not wrapped."""
    return " ".join(text.split())


def test_the_plan_of_the_toy_is_what_can_be_counted(toy_request: ToyRequest) -> None:
    """36 pairs, 9 of them artistic and held out; 3 trials and 2 x 2 finals of 4 steps.

    A toy layer: q and o 64·64 each, k and v 64·32 each, three matrices of 64·128 -> 36,864 parameters.
    """
    plan = make_plan(toy_request())
    assert (len(plan.split.held_out), len(plan.split.train) + len(plan.split.val)) == (9, 27)
    assert len(plan.split.val) in (4, 5)
    assert (plan.trials, plan.finals, plan.amounts.steps, plan.amounts.prompts) == (3, 4, (4,), 4)
    assert plan.shape is not None
    assert (plan.shape.layers, plan.shape.hidden, plan.shape.layer_parameters) == (4, 64, 36_864)
    assert plan.shape.parameters == 4 * 36_864 + plan.shape.vocabulary * 64
    assert plan.timing is not None
    assert plan.timing.most == plan.timing.fewest > 7 * plan.timing.fit / plan.room.count > 0
    assert plan.memory is not None
    assert 0.6e9 < plan.memory.process < plan.memory.total < 1.2e9


def test_steps_go_by_epochs_where_no_number_is_given(toy_request: ToyRequest) -> None:
    """22 or 23 pairs in batches of 4 are 6 batches, 2 batches a step are 3 steps an epoch."""
    sets = ("training.max_steps=null", "training.num_epochs=2", "training.batch_size=4")
    assert make_plan(toy_request(*sets, "training.gradient_accumulation_steps=2")).amounts.steps == (6,)


def test_the_steps_of_a_curriculum_are_those_of_its_stages(toy_request: ToyRequest) -> None:
    """Of 22 or 23 pairs half are 11 or 12, which are 3 batches of 4, 2 steps an epoch; all of them are 3."""
    stages = "[{name: easy, epochs: 2, data_fraction: 0.5}, {name: all, epochs: 1, data_fraction: 1.0}]"
    climb = ("training.curriculum_learning.enabled=true", f"training.curriculum_learning.stages={stages}")
    sets = ("training.max_steps=null", "training.batch_size=4", "training.gradient_accumulation_steps=2")
    assert make_plan(toy_request(*sets, *climb)).amounts.steps == (2 * 2 + 3,)


def test_workers_of_a_trial_take_larger_batches_and_fewer_steps(toy_request: ToyRequest) -> None:
    """22 or 23 pairs in micro-batches of 2 x 4 are 3 batches."""
    sets = ("training.max_steps=null", "training.num_epochs=2", "training.batch_size=4")
    plan = make_plan(toy_request(*sets, "training.distributed={enabled: true, num_gpus: 2}"))
    assert plan.amounts.steps == (6,)
    assert "GB a worker (weights " in plain(as_text(plan))


def test_a_grid_is_counted_by_its_points_and_the_configs_own(toy_request: ToyRequest) -> None:
    grid = "search.parameters={training.beta: {grid: [0.05, 0.2]}, training.kto_lambda: {grid: [0.1, 0.5]}}"
    assert make_plan(toy_request("search.sampler=grid", grid)).trials == 5
    assert make_plan(toy_request("search.sampler=grid", grid, "training.beta=0.2")).trials == 4


def test_a_single_finalist_is_joined_by_the_configs_own_values(toy_request: ToyRequest) -> None:
    assert make_plan(toy_request("search.finalists={count: 1, seeds: 3}")).finals == 6
    assert make_plan(toy_request("search.finalists={count: 5, seeds: 1}")).finals == 3


def test_a_model_that_is_not_here_leaves_time_and_memory_open(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request("model.base_model=someone/not-here"))
    assert (plan.shape, plan.timing, plan.memory, plan.disk) == (None, None, None, None)
    assert as_text(plan).count("unknown until the base model is here") == 4
    assert as_json(plan)["seconds"] is None


def costs(toy_request: ToyRequest, *sets: str) -> dict[str, float]:
    """What the parts of a run count for at 10^9 FLOP/s."""
    plan = make_plan(toy_request(*sets))
    assert plan.shape is not None
    config, amounts = plan.request.config, plan.amounts
    found = costs_of(config, stages(config), amounts.split, plan.shape, Rate({"float32": 1e9}), amounts.prompts)
    return {"step": found.steps[-1], **found.evaluation}


def test_all_layers_cost_more_than_the_last_and_examples_count(toy_request: ToyRequest) -> None:
    upper = costs(toy_request, "model.lora_config.layers_to_transform=[3]")
    lower = costs(toy_request)
    assert lower["step"] > 1.5 * upper["step"]
    assert costs(toy_request, "training.batch_size=4")["step"] == pytest.approx(2 * lower["step"])


def test_answers_cost_tokens_and_what_reads_them_comes_on_top(toy_request: ToyRequest) -> None:
    """Each of the toy's answers passes 18 layers of the judge, or policy and reference with the head of both."""
    metrics = "evaluation.metrics=[eval_loss, kl_divergence, spiral_lexical{}]"
    best = "evaluation.metric_for_best_model=eval_loss"
    made, judged, compared, none = (
        costs(toy_request, text, best, "search.constraints={}")["answers"]
        for text in (
            metrics.format(""),
            metrics.format(", subtlety"),
            metrics.format(", kl_on_samples"),
            "evaluation.metrics=[eval_loss, kl_divergence]",
        )
    )
    assert none == 0
    shape = make_plan(toy_request()).shape
    assert shape is not None
    assert made == pytest.approx(8 * Rate({"float32": 1e9}).decoding_step(shape.parameters, 4))
    assert judged - made == pytest.approx(4 * 8 * 2 * 18 * 3_540_000 / 0.75e9)
    assert compared - made > 4 * 8 * 2 * 2 * shape.parameters / 0.75e9
    longer = costs(toy_request, metrics.format(""), best, "evaluation.max_new_tokens=16", "search.constraints={}")
    assert longer["answers"] == pytest.approx(2 * made)


def test_asha_may_stop_all_but_one_trial_at_the_first_evaluation(toy_request: ToyRequest) -> None:
    """3 trials of 4 steps, evaluated every 2: 12 steps at most, 4 + 2 + 2 at least."""
    plan = make_plan(toy_request("search.scheduler=asha"))
    assert plan.timing is not None
    assert plan.timing.fewest < plan.timing.most
    assert as_json(plan)["trial_steps"] == {"fewest": 8, "most": 12}
    assert "scheduler asha: they take 8 to 12 of 12 steps" in plain(as_text(plan))


@pytest.mark.parametrize(
    ("parameters", "runs"),
    [
        ("{training.beta: {uniform: [0.1, 0.2]}}", 3),
        ("{training.phase_b.learning_rate: {uniform: [1.0e-5, 2.0e-5]}}", 3),
        ("{model.lora_config.r: {choice: [4, 8]}}", None),
    ],
)
def test_the_first_stage_is_trained_once_a_seed_unless_the_search_changes_it(
    toy_request: ToyRequest, parameters: str, runs: int | None
) -> None:
    phases = ("training.phase_a={learning_rate: 1.0e-4}", "training.phase_b={learning_rate: 5.0e-5}")
    plan = make_plan(toy_request(*phases, f"search.parameters={parameters}"))
    assert (plan.load.stages, plan.load.earlier_runs) == ((4, 4), runs)


def warned(plan: Plan, key: str) -> str:
    [text] = [each.text for each in plan.advice if each.key == key]
    return text


def test_a_machine_too_small_for_a_trial_is_named(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request(), Ask(workers=4096))
    assert warned(plan, "this machine").startswith("has no room for a trial: 4096 workers need 0 GPU and 1 CPU each")
    assert as_json(plan)["seconds"] is None
    assert "none on this machine" in as_text(plan)


def test_more_trials_at_once_than_memory_holds_are_warned_of(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request("training.batch_size=1000000", "model.lora_config.layers_to_transform=null"))
    assert plan.room.by_memory == 0
    assert "free memory hold 0: give a smaller training.batch_size" in warned(plan, "search.max_concurrent")


def test_a_search_that_writes_more_than_is_free_is_warned_of(toy_request: ToyRequest) -> None:
    """5,000,000 checkpoints of rank 4096, 470 MB each: more than any disk."""
    sets = ("training.max_steps=5000000", "training.num_epochs=5000000", "evaluation.eval_interval=1")
    plan = make_plan(toy_request(*sets, "evaluation.save_total_limit=5000000", "model.lora_config.r=4096"))
    assert plan.disk is not None
    assert not plan.disk.fits
    assert "name a folder with room" in warned(plan, "--storage")


def test_half_precision_without_a_gpu_is_warned_of(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request("training.bf16=true"))
    assert plan.machine.gpus == ()
    assert "needs a GPU" in warned(plan, "training.bf16")


def test_the_text_says_what_would_run_and_that_nothing_did(toy_request: ToyRequest, tmp_path: Path) -> None:
    text = as_text(make_plan(toy_request("search.constraints={kl_divergence: '<= 2.0'}", "search.max_concurrent=1")))
    for line in (
        "Track b: profile laptop, as asked",
        "objectives eval_loss min; constraints kl_divergence <= 2.0",
        "space training.kto_lambda: loguniform [0.001, 1.0], or [0], grid [0.01, 0.1, 0.5]; the config's own 0.1",
        "training.beta: loguniform [0.01, 1.0]; the config's own 0.1",
        "sampler tpe: the config's own values, then 2 at random: TPE begins after 5 results",
        "fits 3 trials (scheduler none: all run through) + 4 finals (2 x 2 seeds) + 2 baselines; 4 steps a fit",
        "at once 1 trial of ",
        "counted, at a rate measured now, under whatever else runs; --measure for a better one",
        f"results {tmp_path}/store/results/v14/track_b/toy.json",
        "warning 1 training.learning_rate goes up to 0.005: above about 6e-05",
    ):
        assert line in plain(text)
    assert text.endswith("Nothing was started.")
    assert list(tmp_path.iterdir()) == []


def test_no_line_is_wider_than_the_terminal_save_for_what_cannot_be_broken(
    toy_request: ToyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = as_text(make_plan(toy_request())).splitlines()
    assert all(len(line) <= 80 or len(line.split()) <= 2 for line in lines)


def test_the_object_for_scripts_holds_the_same_numbers(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request())
    found = as_json(plan)
    assert (found["trials"], found["finals"], found["baselines"], found["steps"]) == (3, 4, 2, [4])
    assert found["space"]["training.beta"] == {"loguniform": [0.01, 1.0], "own": 0.1}
    assert found["seconds"] == found["time"]["most"] > found["seconds_per_fit"] > 0
    assert found["time"]["basis"] == "instant rate"
    assert found["concurrency"]["count"] == plan.room.count
    assert found["disk"]["fits"]
    assert [each["key"] for each in found["warnings"]] == [each.key for each in plan.advice]
    assert found["pairs"] == {"train": 27 - len(plan.split.val), "val": len(plan.split.val), "held_out": 9}
    assert found["config"]["training"]["beta"] == 0.1


def test_a_shape_counts_a_tied_embedding_once() -> None:
    shape = Shape(layers=2, hidden=8, vocabulary=100, layer_parameters=50)
    assert (shape.parameters, shape.size) == (2 * 50 + 100 * 8, 2 * 50 + 100 * 8)
    assert replace(shape, tied=False).size == 2 * 50 + 2 * 100 * 8


def test_a_hub_model_has_its_shape_once_it_is_in_the_cache(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = load_config(track_config("b"), overrides=["model.base_model=some/model"])
    assert shape_of(config) is None
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    shutil.copytree(toy_model_dir, cached / "snapshots/abc")
    assert shape_of(config) == read_shape(toy_model_dir / "config.json")


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
    assert "on disk, once for all trials" in plain(as_text(plans[0]))
    assert "computed live in every step, over shared_work.max_gb" in plain(as_text(plans[1]))
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


def test_cohorts_take_the_steps_that_their_rungs_leave_them(toy_request: ToyRequest) -> None:
    plan = make_plan(toy_request("search.scheduler=halving", "search.trials=6"))
    assert "scheduler halving: they take 16 of 24 steps" in plain(as_text(plan))
    assert as_json(plan)["trial_steps"] == {"fewest": 16, "most": 16}


def test_an_ablation_is_its_arms_on_every_seed(tmp_path: Path, toy_sets: list[str]) -> None:
    sets = [*toy_sets, "search.finalists={count: 1, seeds: 2}"]
    asked = ["training.kto_lambda=0,0.5"]
    request = new_request("b", profile="laptop", overrides=sets, name="arms", storage=str(tmp_path), ablate=asked)
    plan = make_plan(request)
    text = plain(as_text(plan))
    assert "arms DPO (λ = 0); DPO + λ·KL, λ = 0.5; KTO, unpaired labels" in text
    assert "fits 6 runs of arms (3 x 2 seeds) + 1 baseline; 4 steps a fit" in text
    assert (as_json(plan)["trials"], as_json(plan)["finals"], len(as_json(plan)["arms"])) == (0, 6, 3)
