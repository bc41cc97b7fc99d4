"""The schema: types, combinations, stages, ranges, bounds and the hash. Every case is a plain dictionary."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phasegpt.config import KEYS, METRICS, USED_BY, Config, config_hash, stages, unused, value_at
from phasegpt.config_ranges import Distribution
from phasegpt.config_search import Constraint
from phasegpt.key_paths import lay, split

README = Path(__file__).parents[2] / "configs" / "v14" / "README.md"


def plain(**laid: Any) -> dict[str, Any]:
    """The smallest dictionary of a dpo run, with values laid in: training__beta=1 sets training.beta."""
    values: dict[str, Any] = {"model": {"base_model": "toy"}, "training": {"method": "dpo", "preference_dataset": "p"}}
    for key, value in laid.items():
        lay(values, split(key.replace("__", ".")), value)
    return values


def config(**laid: Any) -> Config:
    return Config.model_validate(plain(**laid))


def refusals(**laid: Any) -> dict[str, str]:
    """The refused key paths of a config, each with pydantic's message."""
    with pytest.raises(ValidationError) as caught:
        config(**laid)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def test_the_smallest_config_has_every_default() -> None:
    made = config()
    assert made.model.phase_layer_idx == ("0.3",)
    assert made.model.lora_config.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (made.training.beta, made.training.kto_lambda, made.training.max_steps) == (0.1, None, None)
    assert (made.data.train_split, made.evaluation.eval_interval, made.experiment.seed) == (0.85, 100, 42)
    assert (made.search.sampler, made.search.scheduler, made.search.finalists.count) == ("tpe", "none", 2)


def test_a_whole_number_may_stand_for_a_fractional_one_and_becomes_one() -> None:
    assert config(training__beta=1) == config(training__beta=1.0)
    assert config_hash(config(training__beta=1)) == config_hash(config(training__beta=1.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training__batch_size", "5"),
        ("training__batch_size", 5.0),
        ("training__batch_size", True),
        ("training__beta", "0.1"),
        ("training__beta", True),
        ("training__beta", math.nan),
        ("training__beta", math.inf),
        ("training__beta", 0),
        ("training__bf16", 1),
        ("training__bf16", "true"),
        ("training__label_smoothing", 0.5),
        ("training__kto_lambda", -0.1),
        ("training__method", "DPO"),
        ("training__lr_scheduler", None),
        ("training__btea", 0.1),
        ("model__lora_config", [1]),
        ("model__base_model", ""),
        ("model__base_model", 5),
        ("model__lora_config__target_modules", "q_proj"),
        ("model__lora_config__target_modules", []),
        ("model__phase_layer_idx", 7),
        ("model__phase_layer_idx", [0.3]),
        ("model__phase_layer_idx", [-1]),
        ("model__phase_layer_idx", ["1.5"]),
        ("model__lora_config__layers_to_transform", "lower_third"),
        ("data__stratify_by", ["colour"]),
        ("experiment__seed", -1),
    ],
)
def test_a_wrong_value_is_refused_at_its_own_key(key: str, value: Any) -> None:
    (path,) = refusals(**{key: value})
    assert path.startswith(key.replace("__", "."))


def test_an_empty_section_is_its_defaults() -> None:
    assert config(data=None, search=None, training__kto_config=None) == config()


@pytest.mark.parametrize("layers", [None, "upper_third", [1, 2]])
def test_adapters_lie_on_all_layers_on_named_ones_or_on_the_upper_third(layers: Any) -> None:
    made = config(model__lora_config__layers_to_transform=layers).model.lora_config.layers_to_transform
    assert made == (tuple(layers) if isinstance(layers, list) else layers)


@pytest.mark.parametrize(
    ("laid", "key"),
    [
        ({"training__method": "kto"}, "training.kto_lambda"),
        ({"training__method": "kto_unpaired"}, "training.gradient_accumulation_steps"),
        ({"training__method": "kto_unpaired", "training__batch_size": 1}, "training.batch_size"),
        ({"training__fp16": True, "training__bf16": True}, "training.bf16"),
        ({"model__lora_config__bias": "all"}, "model.lora_config.bias"),
        ({"model__lora_config__bias": "lora_only"}, "model.lora_config.bias"),
        ({"training__preference_dataset": "prose.txt"}, "training.preference_dataset"),
        ({"training__max_length": 128}, "training.max_prompt_length"),
        ({"training__phase_a__num_epochs": 1}, "training.phase_a"),
        ({"training__phase_b__num_epochs": 1}, "training.phase_b"),
        ({"training__phase_a__method": "dpo", "training__phase_b__beta": 1.0}, "training.phase_a"),
        ({"training__phase_a__beta": 0.1, "training__phase_b__beta": 1.0}, "training.phase_a"),
        ({"training__phase_a__num_epochs": 1, "training__phase_b__method": "kto"}, "training.phase_b"),
        ({"training__phase_a": {}, "training__phase_b": {}, "training__method": "lora"}, "training.method"),
        ({"data__train_split": 0.9}, "data.train_split"),
        ({"model__use_phase_attention": True, "model__phase_layer_idx": []}, "model.phase_layer_idx"),
        ({"evaluation__held_out_domains": ["arts"]}, "evaluation.held_out_domains"),
        ({"evaluation__metrics": ["spiral_scor"]}, "evaluation.metrics"),
        ({"evaluation__metrics": ["spiral_score", "mine:"]}, "evaluation.metrics"),
        ({"evaluation__metric_for_best_model": "speed"}, "evaluation.metric_for_best_model"),
        ({"search__objectives": {"perplexity": "max"}}, "search.objectives.perplexity"),
        ({"search__objectives": {"spiral": "max"}}, "search.objectives.spiral"),
        ({"search__objectives": {}}, "search.objectives"),
        ({"search__constraints": {"kl": "<= 2"}}, "search.constraints.kl"),
        ({"search__constraints": {"perplexity": "< 2"}}, "search.constraints.perplexity"),
        ({"search__parameters": {"training.btea": {"uniform": [0.1, 1.0]}}}, "search.parameters.training.btea"),
        ({"search__parameters": {"search.trials": {"randint": [1, 9]}}}, "search.parameters.search.trials"),
        ({"search__parameters": {"training.kto_lambda": {"uniform": [0, 1]}}}, "search.parameters.training.kto_lambda"),
        ({"search__sampler": "grid", "search__parameters": {"training.beta": {"uniform": [0.1, 1]}}}, "search.sampler"),
    ],
)
def test_a_combination_that_cannot_run_is_refused_at_the_key_to_change(laid: dict[str, Any], key: str) -> None:
    assert key in refusals(**laid)


SCHEDULE: dict[str, Any] = {"enabled": True, "initial_lambda": 0.5, "final_lambda": 0}
ENABLED = "training.kto_config.lambda_schedule.enabled"


def scheduled(**laid: Any) -> dict[str, Any]:
    """A kto run whose λ moves."""
    return {"training__method": "kto", "training__kto_config__lambda_schedule": SCHEDULE, **laid}


def test_a_lambda_schedule_takes_the_place_of_a_plain_lambda() -> None:
    made = config(**scheduled())
    assert made.training.kto_lambda is None
    assert "lambda_schedule sets λ" in str(unused(made, "training.kto_lambda"))
    for name in ("initial_lambda", "final_lambda", "schedule_type"):
        key = f"training.kto_config.lambda_schedule.{name}"
        assert unused(made, key) is None
        assert "while training.kto_config.lambda_schedule.enabled" in str(
            unused(config(training__method="kto", training__kto_lambda=0.1), key)
        )


@pytest.mark.parametrize(
    ("laid", "said"),
    [
        ({"training__kto_lambda": 0.1}, r"so does kto_lambda \(0.1\); set kto_lambda to null"),
        ({"training__method": "dpo"}, "only method kto has a λ that can move, found method dpo"),
        ({"training__kto_config__lambda_schedule__final_lambda": None}, "give final_lambda beside it"),
        ({"training__kto_config__lambda_schedule": {"enabled": True}}, "give initial_lambda and final_lambda"),
    ],
)
def test_a_schedule_that_cannot_run_names_the_keys(laid: dict[str, Any], said: str) -> None:
    values = scheduled() | {"training__kto_config__lambda_schedule": dict(SCHEDULE)} | laid
    assert re.search(said, refusals(**values)[ENABLED])


STAGES = [{"name": "easy", "epochs": 2, "data_fraction": 0.5}, {"name": "all", "epochs": 1, "data_fraction": 1}]
CURRICULUM: dict[str, Any] = {"training__curriculum_learning": {"enabled": True, "stages": STAGES}}


def test_the_stages_of_an_enabled_curriculum_have_their_own_epochs() -> None:
    made = config(**CURRICULUM)
    assert [stage.name for stage in made.training.curriculum_learning.active] == ["easy", "all"]
    assert "have their own epochs" in str(unused(made, "training.num_epochs"))
    off = config(training__curriculum_learning={"stages": STAGES})
    assert off.training.curriculum_learning.active == ()
    assert unused(off, "training.num_epochs") is None


@pytest.mark.parametrize(
    ("laid", "said"),
    [
        ({"training__curriculum_learning": {"enabled": True}}, "needs stages"),
        (
            CURRICULUM | {"training__method": "kto_unpaired", "training__gradient_accumulation_steps": 1},
            "kto_unpaired trains on answers",
        ),
    ],
)
def test_a_curriculum_that_cannot_run_says_why(laid: dict[str, Any], said: str) -> None:
    assert said in refusals(**laid)["training.curriculum_learning.enabled"]


def test_the_supervised_stage_has_neither_schedule_nor_curriculum() -> None:
    phases = {"training__phase_a": {"num_epochs": 7}, "training__phase_b": {"num_epochs": 3}}
    made = config(**scheduled(**phases), **CURRICULUM)
    first, second = stages(made)
    assert first.training.curriculum_learning.active == ()
    assert not first.training.kto_config.lambda_schedule.enabled
    assert first.training.num_epochs == 7
    assert second.training.curriculum_learning == made.training.curriculum_learning
    assert second.training.kto_config == made.training.kto_config
    assert "have their own epochs" in str(unused(made, "training.phase_b.num_epochs"))
    assert unused(made, "training.phase_a.num_epochs") is None


@pytest.mark.parametrize("key", ["model.phase_layer_idx", "model.num_oscillators", "logging.track_phase_dynamics"])
def test_what_only_a_branch_reads_is_unused_without_one(key: str) -> None:
    off, on = config(model__use_phase_attention=False), config(model__use_phase_attention=True)
    assert unused(off, key) == "unused while model.use_phase_attention is false; set that to true"
    assert unused(on, key) is None
    either = config(search__parameters={"model.use_phase_attention": {"choice": [True, False]}})
    assert unused(either, key) is None


def test_the_rhythm_of_the_notes_is_unused_where_nothing_is_noted() -> None:
    branch = {"model__use_phase_attention": True}
    reason = unused(config(**branch), "logging.phase_log_interval")
    assert reason == "unused while logging.track_phase_dynamics is false; set that to true"
    assert unused(config(**branch, logging__track_phase_dynamics=True), "logging.phase_log_interval") is None


def test_an_objective_of_a_search_must_be_measured() -> None:
    measured = {"evaluation__metrics": ["subtlety"], "evaluation__metric_for_best_model": "subtlety"}
    assert config(**measured).search.objectives == {"spiral_score": "max"}
    searched = measured | {"search__parameters": {"training.beta": {"uniform": [0.1, 1]}}}
    assert "search.objectives.spiral_score" in refusals(**searched)


METHODS = {"training.method": {"choice": ["dpo", "kto"]}}
LAMBDA = "training.kto_lambda"


def test_a_parameter_that_counts_in_some_trials_alone_says_when() -> None:
    drawn = METHODS | {LAMBDA: {"loguniform": [0.001, 1.0]}}
    asked = refusals(training__method="kto", training__kto_lambda=0.1, search__parameters=drawn)[
        f"search.parameters.{LAMBDA}"
    ]
    assert asked == (
        'changes nothing in some of the trials; say when it counts, as in when: {"training.method": ["kto"]}'
    )
    drawn = METHODS | {LAMBDA: {"loguniform": [0.001, 1.0], "when": {"training.method": "kto"}}}
    for method in ("dpo", "kto"):
        found = config(training__method=method, training__kto_lambda=0.1, search__parameters=drawn)
        assert found.search.parameters[LAMBDA].when == {"training.method": ("kto",)}
    assert (
        "unused with method dpo"
        in refusals(search__parameters={LAMBDA: {"uniform": [0, 1]}})[f"search.parameters.{LAMBDA}"]
    )


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"training.beta": 0.1}, "training.beta has to be searched itself"),
        ({"training.learning_rate": 1e-5}, "training.learning_rate has to be searched itself"),
        ({"training.method": "sft"}, "never takes 'sft'; it takes ['dpo', 'kto']"),
    ],
)
def test_a_condition_names_a_searched_choice_and_one_of_its_values(when: dict[str, Any], said: str) -> None:
    drawn = METHODS | {"training.beta": {"uniform": [0.1, 1.0]}, LAMBDA: {"uniform": [0.1, 1.0], "when": when}}
    assert (
        said
        in refusals(training__method="kto", training__kto_lambda=0.1, search__parameters=drawn)[
            "search.parameters." + LAMBDA
        ]
    )


def test_weights_belong_to_the_pick_by_weights() -> None:
    both = {"spiral_score": "max", "perplexity": "min"}
    found = config(
        search__objectives=both, search__pick="weights", search__weights={"spiral_score": 2, "perplexity": 1}
    )
    assert found.search.weights == {"spiral_score": 2.0, "perplexity": 1.0}
    missing = refusals(search__objectives=both, search__pick="weights", search__weights={"spiral_score": 2})
    assert "a weight for each of spiral_score, perplexity" in missing["search.weights"]
    assert "take pick: weights" in refusals(search__weights={"spiral_score": 2})["search.weights"]


def test_what_a_clock_reads_may_be_measured_and_judges_nothing() -> None:
    metrics = ["spiral_score", "training_throughput", "memory_usage", "inference_latency"]
    assert config(evaluation__metrics=metrics).evaluation.metrics == tuple(metrics)
    best = refusals(evaluation__metrics=metrics, evaluation__metric_for_best_model="memory_usage")
    assert "differs from machine to machine" in best["evaluation.metric_for_best_model"]
    searched = refusals(
        evaluation__metrics=metrics,
        search__objectives={"training_throughput": "max"},
        search__constraints={"memory_usage": "<= 2.0"},
    )
    assert {"search.objectives.training_throughput", "search.constraints.memory_usage"} <= searched.keys()


def test_workers_multiply_the_batch_only_where_they_are_enabled() -> None:
    laid = {"training__batch_size": 4, "training__distributed": {"num_gpus": 3}}
    assert config(**laid).training.micro_batch == 4
    laid["training__distributed"] = {"num_gpus": 3, "enabled": True}
    assert config(**laid).training.micro_batch == 12
    assert "strategy deepspeed alone" in refusals(training__deepspeed_config="x")["training.deepspeed_config"]


def test_every_table_names_keys_of_the_schema() -> None:
    assert USED_BY.keys() <= KEYS.keys()
    assert set(config().evaluation.metrics) <= METRICS.keys()


OWN = "mine.metrics:rhyme"
SEARCHED: dict[str, Any] = {"search__parameters": {"training.beta": {"uniform": [0.1, 1]}}}


def test_a_metric_of_ones_own_may_be_measured_searched_and_bounded_without_being_imported() -> None:
    made = config(
        evaluation__metrics=["spiral_score", OWN],
        evaluation__metric_for_best_model=OWN,
        search__objectives={OWN: "min", "spiral_score": "max"},
        search__constraints={OWN: "<= 1.5 * baseline"},
        **SEARCHED,
    )
    assert made.search.constraints[OWN].limit(2.0) == 3.0
    assert Config.model_validate(made.dump()) == made


def test_a_metric_of_ones_own_that_is_not_measured_cannot_be_searched_for() -> None:
    found = refusals(search__objectives={OWN: "min"}, **SEARCHED)
    assert "not measured; add it to evaluation.metrics" in found[f"search.objectives.{OWN}"]


def test_a_guard_may_be_bounded_wherever_answers_are_made() -> None:
    bound = {"search__constraints": {"repetition": "<= 0.1"}, **SEARCHED}
    assert config(**bound).search.constraints["repetition"].factor == 0.1
    without_answers = {
        "evaluation__metrics": ["eval_loss"],
        "evaluation__metric_for_best_model": "eval_loss",
        "search__objectives": {"eval_loss": "min"},
    }
    assert "not measured" in refusals(**without_answers, **bound)["search.constraints.repetition"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spiral_scor", "no metric named spiral_scor; did you mean spiral_score?"),
        ("distinct2", "no metric named distinct2; did you mean distinct_2?"),
        ("mine.metrics", "no metric named mine.metrics"),
        ("mine metrics:f", "expected a metric of your own as package.module:function, found mine metrics:f"),
    ],
)
def test_a_name_that_is_no_metric_is_refused_with_the_nearest_one(name: str, message: str) -> None:
    assert message in refusals(evaluation__metrics=["spiral_score", name])["evaluation.metrics"]
    assert message in refusals(search__constraints={name: "<= 1"})[f"search.constraints.{name}"]


def test_a_stage_keeps_the_objectives_which_say_which_way_is_better() -> None:
    made = config(
        training__phase_a={},
        training__phase_b={},
        search__objectives={OWN: "min"},
        evaluation__metrics=["spiral_score", OWN],
        **SEARCHED,
    )
    assert [stage.search.objectives for stage in stages(made)] == [{OWN: "min"}] * 2
    assert [stage.search.parameters for stage in stages(made)] == [{}] * 2


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        config().training.beta = 0.2  # type: ignore[misc]


def test_a_dump_is_json_and_reads_back_equal() -> None:
    laid = {
        "search__parameters": {"training.beta": {"loguniform": [0.01, 1]}, "training.batch_size": {"choice": [2, 4]}},
        "search__constraints": {"perplexity": "<= 1.05 * baseline", "kl_divergence": "<= 2"},
        "training__phase_a__max_steps": 8,
        "training__phase_b__learning_rate": 1,
    }
    made = config(**laid)
    assert Config.model_validate(json.loads(json.dumps(made.dump()))) == made


def test_the_hash_follows_values_and_the_order_of_objectives() -> None:
    first = config(search__objectives={"spiral_score": "max", "perplexity": "min"})
    second = config(search__objectives={"perplexity": "min", "spiral_score": "max"})
    assert re.fullmatch("[0-9a-f]{64}", config_hash(first))
    assert config_hash(first) == config_hash(Config.model_validate(first.dump()))
    assert len({config_hash(first), config_hash(second), config_hash(config())}) == 3


def test_a_config_without_phases_is_its_own_only_stage() -> None:
    made = config()
    assert stages(made) == (made,)


def test_phases_are_a_supervised_stage_and_then_the_method_itself() -> None:
    made = config(
        training__batch_size=2,
        training__phase_a={"num_epochs": 20, "learning_rate": 1e-4},
        training__phase_b={"num_epochs": 3, "beta": 0.5},
        search__parameters={"training.phase_b.beta": {"uniform": [0.1, 1]}},
    )
    first, second = stages(made)
    assert (first.training.method, first.training.num_epochs, first.training.learning_rate) == ("lora", 20, 1e-4)
    assert (second.training.method, second.training.num_epochs, second.training.beta) == ("dpo", 3, 0.5)
    assert {stage.training.batch_size for stage in (first, second)} == {2}
    assert {stage.training.phase_a for stage in (first, second)} == {None}
    assert first.evaluation == made.evaluation


UNPAIRED = {"training__method": "kto_unpaired", "training__gradient_accumulation_steps": 1}


def test_kto_unpaired_runs_one_batch_of_two_or_more_a_step_and_says_why() -> None:
    assert config(**UNPAIRED, training__batch_size=2).training.desirable_weight == 1.0
    refused = refusals(training__method="kto_unpaired", training__batch_size=1)
    assert "statistic of one batch" in refused["training.gradient_accumulation_steps"]
    assert "expected 1, found 8; raise batch_size instead" in refused["training.gradient_accumulation_steps"]
    assert "another row's answer; expected at least 2, found 1" in refused["training.batch_size"]


def test_the_stage_that_kto_unpaired_trains_is_the_one_that_must_not_accumulate() -> None:
    phases = {"training__phase_a": {"num_epochs": 1}, "training__phase_b": {"gradient_accumulation_steps": 1}}
    first, second = stages(config(training__method="kto_unpaired", **phases))
    assert (first.training.method, first.training.gradient_accumulation_steps) == ("lora", 8)
    assert (second.training.method, second.training.gradient_accumulation_steps) == ("kto_unpaired", 1)
    phases["training__phase_b"] = {"batch_size": 1}
    refused = refusals(**UNPAIRED, **phases)
    assert list(refused) == ["training.phase_b.batch_size"]


def test_the_weights_of_the_labels_are_read_by_kto_unpaired_alone() -> None:
    assert unused(config(**UNPAIRED), "training.desirable_weight") is None
    assert unused(config(**UNPAIRED), "training.beta") is None
    assert "read only by kto_unpaired" in str(unused(config(), "training.undesirable_weight"))
    assert "unused with method kto_unpaired" in str(unused(config(**UNPAIRED), "training.label_smoothing"))


def test_a_key_is_unused_when_the_method_does_not_read_it_or_both_phases_set_it() -> None:
    rates = {"learning_rate": 1e-4}
    phased = config(training__phase_a=rates, training__phase_b=rates | {"beta": 0.2})
    assert unused(config(), "training.beta") is None
    assert "read only by kto" in str(unused(config(), "training.kto_lambda"))
    assert "training.phase_b.learning_rate" in str(unused(phased, "training.learning_rate"))
    assert "training.phase_b.beta" in str(unused(phased, "training.beta"))
    assert unused(phased, "training.batch_size") is None
    assert unused(phased, "experiment.seed") is None


def test_a_value_inside_a_missing_phase_is_none() -> None:
    assert value_at(config(), "training.phase_b.beta") is None
    assert value_at(config(), "training.beta") == 0.1


@pytest.mark.parametrize(
    "written",
    [
        {"uniform": [1, 1]},
        {"uniform": [1, 2, 3]},
        {"uniform": ["1", 2]},
        {"uniform": 5},
        {"loguniform": [0, 1]},
        {"loguniform": [0.1, math.inf]},
        {"quniform": [0, 1, 0]},
        {"quniform": [0, 1, 2]},
        {"randint": [0.5, 2]},
        {"randint": [True, 2]},
        {"choice": []},
        {"choice": [[[1]]]},
        {"choice": [{"r": 1}]},
        {"uniform": [[0], [1]]},
        {"normal": [0, 1]},
        {"uniform": [0, 1], "choice": [1]},
        {},
        [0, 1],
    ],
)
def test_a_range_that_makes_no_sense_is_refused(written: Any) -> None:
    assert list(refusals(search__parameters={"training.beta": written})) == ["search.parameters.training.beta"]


def test_a_range_knows_its_kind_and_its_edges() -> None:
    assert Distribution.parse({"uniform": [0, 1]}) == Distribution("uniform", (0.0, 1.0))
    assert Distribution.parse({"quniform": [0, 1, 0.25]}).edges() == (0.0, 1.0)
    assert Distribution.parse({"randint": [1, 8]}).edges() == (1, 8)
    assert Distribution.parse({"choice": [8, 16, 32]}).edges() == (8, 16, 32)
    layers = Distribution.parse({"choice": [[1], ["0.5", 2]]})
    assert layers == Distribution("choice", ((1,), ("0.5", 2)))
    assert layers.edges() == ([1], ["0.5", 2])
    assert layers.written() == {"choice": [[1], ["0.5", 2]]}


def test_a_bound_is_a_number_or_a_share_of_the_baseline() -> None:
    fixed = Constraint.parse("kl_divergence", "<= 2.0")
    share = Constraint.parse("perplexity", "<= 1.05 * baseline")
    floor = Constraint.parse("subtlety", ">=0.5*baseline")
    assert fixed == Constraint("kl_divergence", "<=", 2.0, False)
    assert (fixed.limit(7.0), share.limit(40.0)) == (2.0, 42.0)
    assert (fixed.violation(2.5, 0.0), fixed.violation(1.5, 0.0)) == (0.5, -0.5)
    assert (share.violation(43.0, 40.0), floor.violation(0.2, 0.8)) == (1.0, 0.2)


def test_nan_violates_every_bound() -> None:
    share = Constraint.parse("perplexity", "<= 1.05 * baseline")
    assert share.violation(math.nan, 40.0) == math.inf
    assert share.violation(40.0, math.nan) == math.inf
    assert Constraint.parse("subtlety", ">= 0.5").violation(math.nan, 0.0) == math.inf


@pytest.mark.parametrize("text", ["2.0", "< 2", "== 2", "<= two", "<= 1e999", "<= 1..5", "<= 2 * base", 2.0, None, ""])
def test_a_bound_in_another_form_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="expected text like"):
        Constraint.parse("perplexity", text)


def test_the_readme_lists_every_key_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (?:`(.*?)`|required) \|", README.read_text(encoding="utf-8"), re.M))
    defaults = {
        key: "" if field.is_required() else str(json.dumps(field.get_default(call_default_factory=False)))
        for key, field in KEYS.items()
    }
    assert rows == defaults
