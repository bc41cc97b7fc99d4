"""Where a base model is found, and what is said where it is not. No test reaches for the network."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phasegpt import base_model
from phasegpt.base_model import (
    BASE_FILES,
    BUNDLED,
    ModelError,
    base_address,
    base_identity,
    model_fingerprint,
    resolve_base,
)
from phasegpt.bundled import WHEEL_SHA256, BundledModelError

ROOT = Path(__file__).parents[2]


def test_a_folder_is_taken_as_it_is_or_from_the_root(toy_model_dir: Path) -> None:
    assert resolve_base(str(toy_model_dir), Path("/nowhere")) == toy_model_dir
    assert resolve_base(toy_model_dir.name, toy_model_dir.parent) == toy_model_dir


def test_a_folder_may_also_count_from_where_one_stands(toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_model_dir.parent)
    assert resolve_base(toy_model_dir.name, Path("/nowhere")).resolve() == toy_model_dir


def test_a_folder_has_an_address_that_holds_from_anywhere(toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_model_dir.parent)
    for name in (str(toy_model_dir), toy_model_dir.name, f"./{toy_model_dir.name}"):
        assert base_address(name, Path("/nowhere")) == str(toy_model_dir)
    assert base_address(toy_model_dir.name, toy_model_dir.parent) == str(toy_model_dir)


def test_a_name_that_is_no_folder_is_its_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "ensure_bundled", lambda: tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert base_address(BUNDLED, tmp_path) == BUNDLED
    assert base_address("somebody/model", tmp_path) == "somebody/model"


def test_the_bundled_model_is_itself_whatever_converted_it_and_a_folder_is_what_it_holds(tmp_path: Path) -> None:
    assert base_identity(BUNDLED, "one") == base_identity(BUNDLED, "two") == WHEEL_SHA256
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(tmp_path)
    assert base_identity(str(tmp_path), before) == before
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert model_fingerprint(tmp_path) != before


def test_the_bundled_model_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "ensure_bundled", lambda: tmp_path)
    assert resolve_base(BUNDLED, Path("/nowhere")) == tmp_path


def test_a_bundled_model_that_cannot_be_had_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise BundledModelError("no index")

    monkeypatch.setattr(base_model, "ensure_bundled", fail)
    with pytest.raises(ModelError, match=r"^model\.base_model: no index\. "):
        resolve_base(BUNDLED, Path("/nowhere"))


@pytest.mark.parametrize("name", ["./models/mine", "/models/mine", "~/mine", "models/my/own", "mine"])
def test_a_path_that_does_not_exist_is_named_with_what_may_stand_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_base(name, tmp_path)
    assert str(caught.value) == (
        f"model.base_model: no model in the folder {name!r} (config.json is missing there); give a folder written by "
        f"save_pretrained, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or smollm2-135m; where a saved adapter names "
        f"the folder, put its model there, or a link to it"
    )


def test_a_hub_id_without_a_network_is_one_sentence_with_both_ways_out_and_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(ModelError) as caught:
        resolve_base("nobody/no-such-model", tmp_path)
    assert time.monotonic() - begun < 5
    assert str(caught.value) == (
        "model.base_model: the model hub cannot be reached for 'nobody/no-such-model' and no copy is in its cache; "
        "fetch the model on a machine with a network and give its folder as model.base_model, "
        "or take the bundled model with --set model.base_model=smollm2-135m"
    )


def test_a_name_that_no_hub_could_know_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the hub knows no model 'two words/model'; check its name or your token"):
        resolve_base("two words/model", tmp_path)


def test_only_weights_without_code_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_base("somebody/model", Path("/nowhere")) == tmp_path
    assert asked["name"] == "somebody/model"
    assert asked["allow_patterns"] == list(BASE_FILES)
    assert not any(pattern.endswith((".py", ".bin", ".pt", ".pkl", "*")) for pattern in BASE_FILES)


def test_finding_a_folder_imports_no_torch(toy_model_dir: Path) -> None:
    body = (
        "import sys; from pathlib import Path; from phasegpt.base_model import resolve_base;"
        f"resolve_base({str(toy_model_dir)!r}, Path('/')); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", body], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
