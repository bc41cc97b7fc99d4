"""What a version holds. That it answers as its adapter does is tested through the registry."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tune.contenders import LOW, UNTUNED, candidate
from tune.gate import Candidate, Evidence
from tune.served import EXAMPLE, evidence_fields, evidence_json, lineage, pack, weights_hash


@pytest.fixture
def winner(tmp_path: Path, toy_model_dir: Path) -> Candidate:
    """A candidate whose adapter names its base model by a path that holds in its project alone."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "models/mine", "r": 2}')
    return candidate("a-run", str(toy_model_dir), adapter, LOW, "c")


def test_a_version_holds_its_card_its_config_and_nothing_pickled(winner: Candidate, tmp_path: Path) -> None:
    from mlflow.models import Model

    logged = SimpleNamespace(artifact_location="file:///nowhere", model_id="m-1")
    folder = pack(winner, tmp_path / "packed", logged)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    data = {f"data/phasegpt/{name}" for name in ("config.json", "scores.json", "adapter/adapter_model.safetensors")}
    assert data | {"MLmodel", "input_example.json"} <= files
    example = {"inputs": [EXAMPLE], "params": {"max_new_tokens": 24}}
    assert json.loads((folder / "serving_input_example.json").read_text()) == example
    assert "# phasegpt-track-c" in (folder / "data/phasegpt/README.md").read_text()
    assert Model.load(str(folder)).flavors["python_function"]["loader_module"] == "tune.served"


def test_a_version_names_its_base_model_from_anywhere_and_says_which_one_it_was(
    winner: Candidate, tmp_path: Path
) -> None:
    logged = SimpleNamespace(artifact_location="file:///nowhere", model_id="m-1")
    adapter = pack(winner, tmp_path / "packed", logged) / "data/phasegpt/adapter"
    assert json.loads((adapter / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": winner.base_model,
        "r": 2,
    }
    said = json.loads((adapter / "base_model.json").read_text())
    assert said == {"address": winner.base_model, "identity": winner.base_identity}


def test_evidence_comes_back_from_its_file_as_it_was(winner: Candidate) -> None:
    told = replace(winner, interval_vs_own=UNTUNED, untuned={"spiral_score": 0.3}, own={"spiral_score": 0.35})
    stored = json.loads(json.dumps(evidence_json(told)))
    back = Evidence(**evidence_fields(stored))
    assert (back.interval_vs_own, back.untuned, back.own) == (UNTUNED, told.untuned, told.own)
    assert evidence_json(back) == stored
    assert evidence_json(Evidence(**evidence_fields({**stored, "added_later": 1}))) == stored
    for added_since in ("base_identity", "untuned", "own", "interval_vs_own", "prompts", "answer_tokens", "data_hash"):
        del stored[added_since]
    assert Evidence(**evidence_fields(stored)).interval_vs_own is None


def test_the_tags_of_a_version_say_where_it_comes_from(winner: Candidate) -> None:
    tags = lineage(winner)
    said = {"search": "first", "trial": "trial-003", "base_model": winner.base_model, "metrics.spiral_score": "0.425"}
    assert said.items() <= tags.items()
    assert tags["adapter_sha256"] == weights_hash(winner)
    assert tags["gain_over_untuned"].startswith("+0.1000 [-0.0500, +0.2500] on 6 prompts")
