"""What a version holds. That it answers as its adapter does is tested through the registry."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tune.contenders import LOW, candidate
from tune.gate import Candidate
from tune.served import EXAMPLE, adapter_hash, lineage, pack


@pytest.fixture
def winner(tmp_path: Path) -> Candidate:
    """A candidate whose adapter is a folder of one file."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    return candidate("a-run", "some/model", adapter, LOW, "c")


def test_a_version_holds_its_card_its_config_and_nothing_pickled(winner: Candidate, tmp_path: Path) -> None:
    from mlflow.models import Model

    logged = SimpleNamespace(artifact_location="file:///nowhere", model_id="m-1")
    folder = pack(winner, tmp_path / "packed", logged)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    data = {f"data/phasegpt/{name}" for name in ("config.json", "scores.json", "adapter/adapter_model.safetensors")}
    assert data | {"MLmodel", "input_example.json"} <= files
    assert json.loads((folder / "serving_input_example.json").read_text()) == {"inputs": [EXAMPLE]}
    card = (folder / "data/phasegpt/README.md").read_text()
    for part in ('base_model: "some/model"', "| spiral_score | 0.425 |", "d4ta", "[-0.0500, +0.2500]"):
        assert part in card
    assert Model.load(str(folder)).flavors["python_function"]["loader_module"] == "tune.served"


def test_the_tags_of_a_version_say_where_it_comes_from(winner: Candidate) -> None:
    tags = lineage(winner)
    said = {"search": "first", "trial": "trial-003", "base_model": "some/model", "metrics.spiral_score": "0.425"}
    assert said.items() <= tags.items()
    assert tags["adapter_sha256"] == adapter_hash(winner)
    assert tags["gain_over_untuned"].startswith("+0.1000 [-0.0500, +0.2500] on 6 prompts")
