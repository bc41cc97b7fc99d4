"""A saved model by each kind of address, with a real MLflow in SQLite behind run ids and registry addresses."""

import shutil
from pathlib import Path

import pytest

from phasegpt import checkpoints
from phasegpt.adapters import PhaseSettings
from phasegpt.base_model import ModelError
from phasegpt.checkpoints import (
    REFERENCE,
    adapter_folder,
    answers,
    fetch,
    locate,
    open_adapter,
    open_checkpoint,
    pinned,
)
from phasegpt.cli import main
from phasegpt.files import read_json, write_json
from phasegpt.mlflow_client import open_client
from phasegpt.models import LoraSettings, attach_policy, load_base
from tests.mlflow_store import migrated
from tests.phasegpt.trained import Trained, train_toy
from tests.toy import build_toy_model
from tests.tune.contenders import LOW, candidate
from tune.registry import promote
from tune.tracking import Tracker

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj",))
CHAMPION = "models:/phasegpt-track-b@champion"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_sets: list[str]) -> Trained:
    return train_toy(tmp_path_factory.mktemp("storage"), "one", toy_sets)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return migrated(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def run_id(uri: str, trained: Trained, toy_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run in MLflow as a search logs it; its adapter is the champion of track b."""
    folder = tmp_path_factory.mktemp("spool")
    tracker = Tracker(uri, "phasegpt-v14", folder / "spool.jsonl")
    for name in ("one", "without"):
        tracker.run(name, name)
    tracker.file("one", trained.paths.results, "result")
    tracker.file("one", trained.paths.checkpoints / "config.yaml", "config")
    tracker.folder("one", trained.paths.adapter, "adapter")
    assert tracker.close(60) == 0
    made = tracker.run_id("one")
    assert made is not None
    assert promote(open_client(uri), candidate(made, str(toy_model_dir), trained.paths.adapter, LOW, "b")).promote
    return made


@pytest.mark.parametrize("phase", [None, PhaseSettings((1,), 8, 1.0, 1.0, 0.1, 3)], ids=["adapter", "with a branch"])
def test_an_adapter_folder_answers_by_itself(phase: PhaseSettings | None, toy_model_dir: Path, tmp_path: Path) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), tmp_path), LORA, seed=0, phase=phase)
    policy.save(tmp_path / "run" / "adapter_model")
    for address in (tmp_path / "run", tmp_path / "run" / "adapter_model"):
        assert len(answers(str(address), ["Tell of a clock.", "And of a letter."], 4, tmp_path, None)) == 2
    assert (open_checkpoint(str(tmp_path / "run"), tmp_path).phase is None) == (phase is None)


def test_a_run_folder_brings_its_config_and_its_result(trained: Trained, toy_model_dir: Path, tmp_path: Path) -> None:
    run = trained.paths.checkpoints
    for address in (run, run / "adapter_model"):
        found = locate(str(address), tmp_path)
        assert (found.adapter, found.base_model) == (run / "adapter_model", str(toy_model_dir))
        assert (found.config_file, found.result) == (run / "config.yaml", trained.paths.results)


def test_another_checkpoint_of_a_run_brings_its_config_and_no_result(trained: Trained, tmp_path: Path) -> None:
    """The result is of the chosen one."""
    found = locate(str(trained.paths.checkpoints / "checkpoint-2"), tmp_path)
    assert (found.config_file, found.result) == (trained.paths.checkpoints / "config.yaml", None)


def test_an_adapter_alone_brings_neither(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.paths.adapter, tmp_path / "copy")
    found = locate(str(tmp_path / "copy"), tmp_path)
    assert (found.config_file, found.result) == (None, None)


def test_an_untuned_model_has_no_adapter(toy_model_dir: Path, tmp_path: Path) -> None:
    assert locate("base", tmp_path).base_model is None
    for name in (str(toy_model_dir), "smollm2-135m", "Qwen/Qwen2.5-0.5B-Instruct"):
        assert (locate(name, tmp_path).adapter, locate(name, tmp_path).base_model) == (None, name)
    with pytest.raises(ModelError, match="untuned"):
        open_checkpoint(str(toy_model_dir), tmp_path)


def test_a_run_id_brings_what_mlflow_keeps(run_id: str, uri: str, trained: Trained, tmp_path: Path) -> None:
    found = locate(run_id, tmp_path, uri)
    assert found.adapter is not None
    assert found.config_file is not None
    assert found.result is not None
    kept = {path.name: path.read_bytes() for path in trained.paths.adapter.iterdir()}
    assert {path.name: path.read_bytes() for path in found.adapter.iterdir()} == kept
    assert found.config_file.read_bytes() == (trained.paths.checkpoints / "config.yaml").read_bytes()
    assert found.result.read_bytes() == trained.paths.results.read_bytes()


def test_a_registry_alias_becomes_its_version(run_id: str, uri: str, toy_model_dir: Path, tmp_path: Path) -> None:
    assert run_id
    found = locate(CHAMPION, tmp_path, uri)
    assert (found.address, found.base_model) == ("models:/phasegpt-track-b/1", str(toy_model_dir))
    assert found.config_file is not None
    assert len(answers(CHAMPION, ["Tell of a clock."], 4, tmp_path / "again", uri)) == 1


def test_a_folder_without_an_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter there"):
        open_checkpoint(str(tmp_path), tmp_path)


@pytest.mark.parametrize("address", ["/nowhere/run", "data/typo", "nothing", "a/b/c"])
def test_an_address_of_nothing_names_the_forms_there_are(address: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such checkpoint; expected an adapter folder, .*models:/NAME@ALIAS"):
        locate(address, tmp_path)


def test_a_run_without_an_adapter_or_unknown_to_mlflow_is_an_error(run_id: str, uri: str, tmp_path: Path) -> None:
    client = open_client(uri)
    experiment = client.get_run(run_id).info.experiment_id
    (other,) = client.search_runs([experiment], "attributes.run_name = 'without'")
    with pytest.raises(ModelError, match="the run without keeps no adapter"):
        locate(other.info.run_id, tmp_path, uri)
    with pytest.raises(ModelError, match=r"MLflow has no such run .*--tracking-uri"):
        locate("0" * 32, tmp_path, uri)


def test_another_base_model_under_the_same_path_is_refused(
    run_id: str, uri: str, toy_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version says which model its path held; a copy of it under the same name passes, another model does not."""
    assert run_id
    adapter = fetch(CHAMPION, tmp_path / "fetched", uri) / "data/phasegpt/adapter"
    place = shutil.copytree(toy_model_dir, tmp_path / "moved" / toy_model_dir.name)
    settings = {**read_json(adapter / "base_model.json"), "address": str(place)}
    write_json(adapter / "base_model.json", settings)
    assert open_adapter(adapter).base.folder == place
    build_toy_model(place, seed=1)
    assert main(["generate", "--checkpoint", str(adapter), "A prompt"]) == 2
    assert f"{place} is another model than {adapter} was made for" in capsys.readouterr().err
    with pytest.raises(ModelError, match="is another model than"):
        attach_policy(load_base(str(place), tmp_path), LORA, seed=0, reference_adapter=adapter)
    shutil.rmtree(place)
    with pytest.raises(ModelError, match="put its model there, or a link to it"):
        open_adapter(adapter)


def test_an_adapter_that_would_have_peft_import_a_module_is_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.paths.adapter, tmp_path / "copy")
    settings = read_json(tmp_path / "copy" / "adapter_config.json")
    write_json(tmp_path / "copy" / "adapter_config.json", {**settings, "megatron_config": {"a": 1}})
    with pytest.raises(ModelError, match="megatron_config"):
        open_adapter(tmp_path / "copy")


@pytest.mark.parametrize("address", ["models:/phasegpt-track-b", "models:/other/1", "models:/phasegpt-track-b/x"])
def test_an_address_of_no_version_is_refused_before_anything_is_written(
    address: str, run_id: str, uri: str, tmp_path: Path
) -> None:
    assert run_id
    with pytest.raises(ModelError, match="the registry has no such model"):
        fetch(address, tmp_path / "x", uri)
    assert not (tmp_path / "x").exists()


def test_an_adapter_that_names_no_base_model_is_an_error(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.paths.adapter, tmp_path / "copy")
    settings = read_json(tmp_path / "copy" / "adapter_config.json")
    write_json(tmp_path / "copy" / "adapter_config.json", {**settings, "base_model_name_or_path": None})
    with pytest.raises(ModelError, match="names no base model"):
        locate(str(tmp_path / "copy"), tmp_path)


def test_an_address_that_no_registry_has_is_one_sentence(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--checkpoint", "models:/phasegpt-track-c@champion", "--tracking-uri", uri, "A prompt"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "models:/phasegpt-track-c@champion" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_an_answer_of_no_tokens_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--checkpoint", "/nowhere", f"--max-new-tokens={number}", "A prompt"])
    assert ended.value.code == 2
    assert f"--max-new-tokens: expected a whole number from 1 on, found {number}" in capsys.readouterr().err


# --- training.reference_model ----------------------------------------------------------------------------------------


def test_a_reference_from_the_registry_is_fetched_once_by_version(
    run_id: str, uri: str, trained: Trained, toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_id
    folder = adapter_folder(REFERENCE, CHAMPION, tmp_path, str(toy_model_dir), uri)
    assert folder == tmp_path / "phasegpt-track-b" / "1"
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (trained.paths.adapter / weights).read_bytes()
    monkeypatch.setattr(checkpoints, "fetch", lambda *_: pytest.fail("fetched a second time"))
    assert adapter_folder(REFERENCE, CHAMPION, tmp_path, str(toy_model_dir), uri) == folder
    assert pinned(CHAMPION, uri) == "models:/phasegpt-track-b/1"
    assert (
        adapter_folder(REFERENCE, pinned(CHAMPION, uri), tmp_path, str(toy_model_dir), "http://127.0.0.1:9") == folder
    )


def test_a_failed_fetch_leaves_nothing_that_passes_for_a_reference(run_id: str, uri: str, tmp_path: Path) -> None:
    assert run_id
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"training\.reference_model: models:/phasegpt-track-b/7: the registry has"
        ):
            adapter_folder(REFERENCE, "models:/phasegpt-track-b/7", tmp_path, "toy", uri)


def test_a_reference_folder_is_taken_as_it_is(trained: Trained, toy_model_dir: Path, tmp_path: Path) -> None:
    assert adapter_folder(REFERENCE, str(trained.paths.adapter), tmp_path, str(toy_model_dir)) == trained.paths.adapter


def test_a_reference_that_does_not_fit_says_why(run_id: str, uri: str, trained: Trained, tmp_path: Path) -> None:
    assert run_id
    with pytest.raises(ModelError, match=r"training\.reference_model: .*no adapter there"):
        adapter_folder(REFERENCE, str(tmp_path / "absent"), tmp_path, "toy")
    for name in (CHAMPION, str(trained.paths.adapter)):
        with pytest.raises(
            ModelError, match=r"training\.reference_model: .* made for the base model .*, not for other"
        ):
            adapter_folder(REFERENCE, name, tmp_path, "other", uri)
    with pytest.raises(ModelError, match=r"training\.reference_model: models:/phasegpt-track-c@champion"):
        adapter_folder(REFERENCE, "models:/phasegpt-track-c@champion", tmp_path, "toy", uri)
