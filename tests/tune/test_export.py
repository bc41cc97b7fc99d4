"""Versions taken out of a real registry and opened by PEFT and transformers alone: what they say is what ours says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from phasegpt import base_model
from phasegpt.adapters import PhaseSettings
from phasegpt.base_model import BUNDLED
from phasegpt.bundled import WHEEL_SHA256
from phasegpt.checkpoints import open_adapter
from phasegpt.evaluate import generate
from phasegpt.files import read_json
from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tests.tune.contenders import LOW
from tests.tune.registries import EXPERIMENT, toy_adapter, winner_of
from tune import registry
from tune.model_card import BUNDLED_ON_HUB
from tune.registry import promote_version
from tune.versions import register

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "Tell of the river."


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mlflow")
    made = open_client(migrated(folder))
    made.create_experiment(EXPERIMENT, (folder / "artifacts").as_uri())
    return made


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path) -> dict[str, Path]:
    """An adapter, one on top of it (joined into one when it is saved), and one with a phase branch."""
    folder = tmp_path_factory.mktemp("adapters")
    plain = toy_adapter(toy_model_dir, folder / "plain")
    branch = PhaseSettings((1,), 8, 1.0, 1.0, 0.1, 3)
    return {
        "plain": plain,
        "on a reference": toy_adapter(toy_model_dir, folder / "on", seed=1, reference_adapter=plain),
        "with a branch": toy_adapter(toy_model_dir, folder / "branch", phase=branch),
    }


@pytest.fixture(scope="module")
def versions(client: Any, adapters: dict[str, Path], toy_model_dir: Path) -> dict[str, str]:
    """{kind of adapter: its version}; the plain one is champion."""
    made = {kind: register(client, winner_of(client, toy_model_dir, a, LOW, "b")) for kind, a in adapters.items()}
    promote_version(client, "b", made["plain"])
    return made


def export(client: Any, *words: str) -> int:
    return registry.main(["export", "--track", "b", "--tracking-uri", client.tracking_uri, *words])


def said(model: Any, tokenizer: Any) -> tuple[torch.Tensor, str]:
    """Logits on the prompt, and the greedy answer to it, by transformers alone."""
    row = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        logits = model(**row).logits
        ids = model.generate(**row, do_sample=False, max_new_tokens=12)
    answer = tokenizer.decode(ids[0, row["input_ids"].shape[1] :], skip_special_tokens=True)
    return logits.float(), answer.strip()


def ours(adapter: Path) -> tuple[torch.Tensor, str]:
    """The same by our own policy."""
    policy = open_adapter(adapter)
    logits, _ = said(policy.model.eval(), policy.base.tokenizer)
    return logits, generate(policy, [PROMPT], 12)[0].strip()


@pytest.mark.parametrize("kind", ["plain", "on a reference"])
def test_an_exported_adapter_answers_under_peft_as_it_does_here(
    kind: str, client: Any, versions: dict[str, str], adapters: dict[str, Path], toy_model_dir: Path, tmp_path: Path
) -> None:
    assert export(client, versions[kind], "--to", str(tmp_path / "out")) == 0
    base = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    logits, answer = said(model, AutoTokenizer.from_pretrained(tmp_path / "out"))
    expected, text = ours(adapters[kind])
    assert torch.equal(logits, expected)
    assert answer == text != ""
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "peft"


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 0.5)])
@pytest.mark.parametrize("kind", ["plain", "on a reference"])
def test_merged_weights_answer_under_transformers_as_the_policy_does_here(
    kind: str, dtype: str, off: float, client: Any, versions: dict[str, str], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Of half the precision only the logits are compared: two tokens that are nearly alike may change places."""
    to = tmp_path / "out"
    assert export(client, versions[kind], "--to", str(to), "--merge", "--dtype", dtype) == 0
    model = AutoModelForCausalLM.from_pretrained(to)
    assert model.dtype == getattr(torch, dtype)
    assert not list(to.glob("adapter*"))
    logits, answer = said(model.eval(), AutoTokenizer.from_pretrained(to))
    expected, text = ours(adapters[kind])
    assert (logits - expected).abs().max() < off
    if dtype == "float32":
        assert answer == text != ""
    card = ModelCard.load(to / "README.md")
    assert card.data.library_name == "transformers"
    assert model.config.use_cache


def test_the_champion_is_what_is_exported_and_its_card_says_how_it_became_it(
    client: Any, versions: dict[str, str], tmp_path: Path
) -> None:
    assert versions
    (tmp_path / "empty").mkdir()
    assert export(client, "--to", str(tmp_path / "empty")) == 0
    card = (tmp_path / "empty" / "README.md").read_text()
    assert "## Decision\n\nuncontested: the seat was empty" in card
    assert all(path.stat().st_mode & 0o044 for path in (tmp_path / "empty").iterdir())


def test_a_phase_branch_goes_with_the_adapter_and_is_never_lost_in_a_merge(
    client: Any, versions: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch = versions["with a branch"]
    assert export(client, branch, "--to", str(tmp_path / "merged"), "--merge") == 2
    assert "phase branch, a layer that transformers does not have" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert export(client, branch, "--to", str(tmp_path / "adapter")) == 0
    assert "PEFT alone does not load" in capsys.readouterr().err
    assert (tmp_path / "adapter" / "phase_branch.safetensors").is_file()
    assert open_adapter(tmp_path / "adapter").phase is not None


def test_an_adapter_of_the_bundled_model_is_the_hubs_for_peft_and_still_the_bundled_ones_here(
    client: Any, adapters: dict[str, Path], toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy stands in for the bundled model."""
    monkeypatch.setattr(base_model, "ensure_bundled", lambda: toy_model_dir)
    winner = winner_of(client, toy_model_dir, adapters["plain"], LOW, "b")
    bundled = replace(winner, base_model=BUNDLED, base_identity=WHEEL_SHA256)
    assert export(client, register(client, bundled), "--to", str(tmp_path / "out")) == 0
    assert read_json(tmp_path / "out" / "adapter_config.json")["base_model_name_or_path"] == BUNDLED_ON_HUB
    assert open_adapter(tmp_path / "out").base.name == BUNDLED
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == BUNDLED_ON_HUB


def test_a_folder_that_holds_something_is_left_as_it_is(
    client: Any, versions: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert versions
    (tmp_path / "mine.txt").write_text("kept")
    assert export(client, "--to", str(tmp_path)) == 2
    assert "name a folder that is new or empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert export(client, "--to", str(tmp_path / "new"), "--dtype", "float16") == 2
    assert "add --merge" in capsys.readouterr().err


def test_a_base_model_that_has_changed_since_is_refused_and_nothing_is_written(
    client: Any, adapters: dict[str, Path], toy_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model under the same path, as after a folder was trained on or fetched again."""
    from tests.toy import build_toy_model

    base = build_toy_model(tmp_path / toy_model_dir.name)
    version = register(client, winner_of(client, base, adapters["plain"], LOW, "b"))
    build_toy_model(base, seed=1)
    assert export(client, version, "--to", str(tmp_path / "out"), "--merge") == 2
    assert "is another model than" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(client, version, "--to", str(tmp_path / "adapter")) == 0
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(base)
