"""Warnings: each names its key, its value, its source and a cure, and stays away where a setting is sound."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy import write_jsonl
from tests.tune.conftest import ToyRequest
from tune.advice import Advice, advice
from tune.amounts import amounts_of

Said = Callable[..., list[Advice]]
SOUND = (
    "search.parameters={training.beta: {uniform: [0.05, 0.5]}}",
    "training.learning_rate=5.0e-5",
    "training.max_steps=8",
    "training.batch_size=4",
)
UNPAIRED = ("training.method=kto_unpaired", "training.kto_lambda=null", "training.learning_rate=5.0e-6")


@pytest.fixture
def said(toy_request: ToyRequest, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """The warnings of SOUND with further overrides; 10 prompts a half."""
    folder: Path = tmp_path_factory.mktemp("prompts")
    rows = [
        {"id": f"p{n}", "prompt": f"Say {n} words.", "domain": "social", "half": ("search", "final")[n % 2]}
        for n in range(20)
    ]
    prompts = f"evaluation.prompts={write_jsonl(folder / 'prompts.jsonl', rows)}"

    def of(*sets: str) -> list[Advice]:
        config = toy_request(prompts, *SOUND, *sets).config
        return list(advice(config, amounts_of(config)))

    return of


def test_sound_settings_are_left_alone(said: Said) -> None:
    assert said() == []
    assert said(*UNPAIRED) == []


@pytest.mark.parametrize(
    ("sets", "key", "value", "words"),
    [
        (("training.learning_rate=2.0e-4",), "training.learning_rate", 2e-4, ("is 0.0002", "trl#1236", "6e-05")),
        (
            ("search.scheduler=halving", "evaluation.eval_interval=8"),
            "search.scheduler", "halving", ("stops nobody", "8 steps", "every 8", "eval_interval to a third"),
        ),
        (
            ("search.parameters.training.learning_rate={loguniform: [1.0e-6, 1.0e-3]}",),
            "training.learning_rate", 1e-3, ("goes up to 0.001", "trl#1236", "final prompts"),
        ),
        (
            (*UNPAIRED, "training.learning_rate=5.0e-5"),
            "training.learning_rate", 5e-5, ("is 5e-05", "1e-05", "arXiv 2402.01306"),
        ),
        ((*UNPAIRED, "training.batch_size=2"), "training.batch_size", 2, ("is 2", "other rows", "TRL", "to 4 or more")),
        (
            ("search.parameters.training.beta={loguniform: [0.001, 2.0]}",),
            "training.beta", 2.0, ("goes down to 0.001 and goes up to 2", "Zephyr", "SmolLM2", "kl_divergence"),
        ),
        (("training.max_steps=4",), "training.max_steps", 4, ("4 optimiser steps", "gradient_accumulation_steps")),
        (("evaluation.max_prompts=9",), "evaluation.max_prompts", 9, ("9 prompts", "arXiv 2503.01747", "more prompts")),
        (
            ("training.max_steps=null", "training.num_epochs=6"),
            "training.num_epochs", 6.0, ("6.0 times", "arXiv 2406.02900", "Take fewer"),
        ),
    ],
)  # fmt: skip
def test_a_setting_that_the_literature_rules_out_is_named(
    said: Said, sets: tuple[str, ...], key: str, value: float, words: tuple[str, ...]
) -> None:
    [found] = said(*sets)
    assert (found.key, found.value) == (key, value)
    assert str(found).startswith(f"{key} ")
    assert [word for word in words if word not in found.text] == []


def test_the_batch_of_kto_is_that_of_all_workers(said: Said) -> None:
    assert said(*UNPAIRED, "training.batch_size=2", "training.distributed={enabled: true, num_gpus: 2}") == []


def test_a_curriculum_shows_the_easy_examples_more_often(said: Said) -> None:
    """Of 22 or 23 examples half 8 times and all twice: 8 · 12/23 + 2, about 6.2 a piece."""
    stages = "[{name: easy, epochs: 8, data_fraction: 0.5}, {name: all, epochs: 2, data_fraction: 1.0}]"
    climb = f"training.curriculum_learning={{enabled: true, stages: {stages}}}"
    [found] = said("training.max_steps=null", climb)
    assert found.key == "training.curriculum_learning.stages"
    assert found.value == pytest.approx(6.1, abs=0.1)


def test_steps_that_end_a_run_early_are_not_counted_as_passes(said: Said) -> None:
    assert said("training.max_steps=8", "training.num_epochs=50") == []
