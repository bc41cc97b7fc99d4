"""A toy search: what `--set` must say to run a track on the toy model, and requests made of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tune.request import Request, new_request

ToyRequest = Callable[..., Request]


@pytest.fixture(scope="session")
def toy_sets(
    toy_model_dir: Path, toy_pairs_file: Path, toy_prompts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """`key=value` overrides that make track B under the laptop profile a search of seconds; eval_loss judges."""
    prose = tmp_path_factory.mktemp("toy-prose") / "prose.txt"
    prose.write_text("People say the river stays. " * 40, encoding="utf-8")
    return [
        f"model.base_model={toy_model_dir}",
        "model.lora_config.layers_to_transform=null",
        f"training.preference_dataset={toy_pairs_file}",
        "training.max_steps=4",
        f"evaluation.prompts={toy_prompts_file}",
        f"evaluation.fluency_text={prose}",
        "evaluation.fluency_tokens=100",
        "evaluation.max_new_tokens=8",
        "evaluation.eval_interval=2",
        "search.objectives={eval_loss: min}",
        "search.trials=3",
    ]


@pytest.fixture
def toy_request(tmp_path: Path, toy_sets: list[str]) -> ToyRequest:
    """Makes requests of track B in `tmp_path/store`; words are further overrides."""

    def make(*sets: str, name: str = "toy") -> Request:
        return new_request(
            "b", profile="laptop", overrides=[*toy_sets, *sets], name=name, storage=str(tmp_path / "store")
        )

    return make
