"""Opening a checkpoint to generate."""

from pathlib import Path

import pytest

from phasegpt.adapters import PhaseSettings
from phasegpt.base_model import ModelError
from phasegpt.checkpoints import answers, open_checkpoint
from phasegpt.cli import main
from phasegpt.models import LoraSettings, attach_policy, load_base

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj",))


@pytest.mark.parametrize("phase", [None, PhaseSettings((1,), 8, 1.0, 1.0, 0.1, 3)], ids=["adapter", "with a branch"])
def test_an_adapter_folder_answers_by_itself(phase: PhaseSettings | None, toy_model_dir: Path, tmp_path: Path) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), tmp_path), LORA, seed=0, phase=phase)
    policy.save(tmp_path / "run" / "adapter_model")
    for address in (tmp_path / "run", tmp_path / "run" / "adapter_model"):
        assert len(answers(str(address), ["Tell of a clock.", "And of a letter."], 4, tmp_path, None)) == 2
    assert (open_checkpoint(str(tmp_path / "run"), tmp_path).phase is None) == (phase is None)


def test_a_folder_without_an_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter there"):
        open_checkpoint(str(tmp_path), tmp_path)


def test_an_address_that_no_registry_has_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ["generate", "--checkpoint", "models:/phasegpt-track-b@champion", "--tracking-uri", uri, "A prompt"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "models:/phasegpt-track-b@champion" in said
    assert "Traceback" not in said
