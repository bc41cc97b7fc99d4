"""The model card: front matter that the hub's own classes read, and what the text owes its reader."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.tune.contenders import LOW, UNTUNED, candidate
from tune.card_numbers import metric_intervals, sample_prompts
from tune.gate import Candidate
from tune.model_card import BUNDLED_ON_HUB, hub_id, model_card


@pytest.fixture
def winner(tmp_path: Path, toy_model_dir: Path) -> Candidate:
    """A winner with all that a search tells of it."""
    plain = candidate("a-run", str(toy_model_dir), tmp_path, LOW, "b")
    scores = {
        "spiral_score": {p: [v, v + 0.02] for p, v in LOW.items()},
        "eval_loss": {f"pair-{n}": [0.6, None] for n in range(4)},
    }
    return replace(
        plain,
        base_model="smollm2-135m",
        scores=scores,
        metrics={"spiral_score": 0.435, "eval_loss": 0.6, "perplexity": 33.5, "mine:letters": 200.0},
        answers={p: [f"First of {p}.", "Second."] for p in LOW},
        prompts={p: f"What of {p}?" for p in LOW},
        untuned={"spiral_score": 0.3},
        own={"spiral_score": 0.33, "perplexity": 34.0},
        interval_vs_own=UNTUNED,
        config_hash="c0nf1g",
        data={"train": 90, "val": 18, "cut_tokens": 0},
        seconds=61.6,
        versions={"torch": "2.13.0"},
        finalists=3,
        dirty=True,
    )


def read(winner: Candidate, **changes: Any) -> Any:
    return ModelCard(model_card(replace(winner, **changes)))


def test_the_front_matter_is_read_by_the_hubs_classes(winner: Candidate) -> None:
    data = read(winner).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (BUNDLED_ON_HUB, "peft", "text-generation")
    assert (data.license, data.model_name) == ("apache-2.0", "phasegpt-track-b")
    assert {"lora", "dpo"} <= set(data.tags)  # the hub's kto is the unpaired one
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == winner.metrics
    assert results["spiral_score"].dataset_split == "final"
    assert results["eval_loss"].dataset_type == "preference-pairs"


@pytest.mark.parametrize(
    ("base_model", "expected"),
    [("smollm2-135m", BUNDLED_ON_HUB), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"), ("/models/mine", None)],
)
def test_only_what_the_hub_knows_is_named_to_it(winner: Candidate, base_model: str, expected: str | None) -> None:
    assert hub_id(base_model) == expected
    card = read(winner, base_model=base_model)
    assert card.data.base_model == expected
    assert card.data.license == ("apache-2.0" if base_model == "smollm2-135m" else None)
    assert "/models" not in card.content


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [("data/pairs.jsonl", None), ("trl-lib/ultrafeedback:train", "trl-lib/ultrafeedback"), ("/data/pairs", None)],
)
def test_a_data_set_of_the_hub_is_named_and_a_file_is_not(
    winner: Candidate, dataset: str, expected: str | None
) -> None:
    training = {**winner.config["training"], "preference_dataset": dataset}
    assert read(winner, config={**winner.config, "training": training}).data.datasets == expected


def test_every_metric_stands_with_its_interval_beside_the_untuned_and_the_configs_own(winner: Candidate) -> None:
    between = metric_intervals(winner)
    assert set(between) == {"spiral_score", "eval_loss"}
    low, high = between["spiral_score"].low, between["spiral_score"].high
    text = read(winner).text
    assert f"| spiral_score | higher | 0.435 | {low:.4g} to {high:.4g} | 0.3 | 0.33 |" in text
    assert "| perplexity | lower | 33.5 | - | - | 34 |" in text
    assert "| mine:letters | - | 200 | - | - | - |" in text
    assert "Means over 2 fresh seeds" in text
    assert "over the config's own values: +0.1000 [-0.0500, +0.2500]" in text


def test_an_interval_ends_where_the_metric_does(winner: Candidate) -> None:
    seeds_apart = {prompt: [0.0, 1.0] for prompt in winner.scores["spiral_score"]}
    between = metric_intervals(replace(winner, scores={"spiral_score": seeds_apart}))
    assert (between["spiral_score"].low, between["spiral_score"].high) == (0, 1)


def test_the_sample_answers_are_the_best_the_middle_and_the_worst(winner: Candidate) -> None:
    assert sample_prompts(winner) == [("the best", "p5"), ("the middle", "p2"), ("the worst", "p0")]
    assert sample_prompts(replace(winner, better="min")) == [
        ("the best", "p0"),
        ("the middle", "p3"),
        ("the worst", "p5"),
    ]
    assert sample_prompts(replace(winner, objective="eval_loss")) == [("the first", "p0"), ("the last", "p5")]
    assert sample_prompts(replace(winner, answers={})) == []
    text = read(winner).text
    assert "*The best* (`p5`, spiral_score 0.450): **What of p5?**\n\n> First of p5." in text
    assert "## Sample answers" not in read(winner, answers={}).text


def test_the_card_says_what_it_was_made_of_and_what_it_does_not_tell(winner: Candidate) -> None:
    text = read(winner).text
    for part in (
        "## Intended use",
        "d4ta",
        "training on: 90 rows",
        "held out for validation: 18 rows",
        "domains held out: artistic",
        "Apache-2.0",
        "`beta` 0.1",
        "finalists: 3",
        "commit c0ffee with changes that were not committed",
        "c0nf1g",
        "62 s",
        "torch 2.13.0",
        "it ranks manner more than movement",
    ):
        assert part in text
    assert "Judged on 6 prompts or pairs and 2 fresh seeds" in text
    assert "Judged on one number a run" in read(winner, objective="perplexity").text
    mine = {**winner.config["training"], "preference_dataset": "/home/me/pairs.jsonl"}
    assert "`pairs.jsonl`" in (own := read(winner, config={**winner.config, "training": mine}).text)
    assert "/home/me" not in own
    assert "written by the project's authors" not in own
    assert "manner more than movement" not in read(winner, objective="eval_loss").text
    assert "PEFT alone does not load it" not in text
    branch = {**winner.config, "model": {**winner.config["model"], "use_phase_attention": True}}
    assert "PEFT alone does not load it" in read(winner, config=branch).text
