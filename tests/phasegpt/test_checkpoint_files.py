"""Checkpoint folders: sealed, found again by step, passed over when damaged, and pruned."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from phasegpt.checkpoint_files import checkpoint_step, damage, newest_checkpoint, prune_checkpoints, seal


def checkpoint(folder: Path, step: int, *, sealed: bool = True) -> Path:
    """A checkpoint with two files."""
    made = folder / f"checkpoint-{step}"
    (made / "adapter_model").mkdir(parents=True)
    (made / "trainable.safetensors").write_bytes(b"tensors" * step)
    (made / "adapter_model" / "adapter_config.json").write_text("{}")
    if sealed:
        seal(made, step)
    return made


def test_the_newest_whole_checkpoint_is_found_and_half_ones_are_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (9, 10):
        checkpoint(tmp_path, step)
    half = checkpoint(tmp_path, 11, sealed=False)
    for name in (".checkpoint-12.stage", "evaluations"):
        (tmp_path / name).mkdir()
    with caplog.at_level(logging.WARNING, "phasegpt"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert caplog.messages == [f"{half} is not whole and is passed over"]
    assert checkpoint_step(tmp_path / "checkpoint-10") == 10
    assert checkpoint_step(tmp_path / "evaluations") == -1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated": ("trainable.safetensors", lambda folder: (folder / "trainable.safetensors").write_bytes(b"ten")),
    "flipped": ("trainable.safetensors", lambda folder: flip(folder / "trainable.safetensors")),
    "missing": ("adapter_model/adapter_config.json", lambda f: (f / "adapter_model/adapter_config.json").unlink()),
    "broken seal": ("complete.json", lambda folder: (folder / "complete.json").write_text('{"step": 2, "sha')),
    "empty seal": ("complete.json", lambda folder: (folder / "complete.json").write_text("{}")),
    "odd seal": ("complete.json", lambda folder: (folder / "complete.json").write_text("[1]")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_although_it_says_it_is_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    before, newest = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    assert newest_checkpoint(tmp_path) == newest
    name, break_it = DAMAGES[kind]
    break_it(newest)
    with caplog.at_level(logging.WARNING, "phasegpt"):
        assert newest_checkpoint(tmp_path) == before
    assert caplog.messages == [f"{newest} is damaged ({name}) and is passed over"]
    assert damage(before) is None


def test_the_seal_has_the_hash_of_every_file(tmp_path: Path) -> None:
    sealed = json.loads((checkpoint(tmp_path, 3) / "complete.json").read_text())
    assert sealed["step"] == 3
    assert list(sealed["sha256"]) == ["adapter_model/adapter_config.json", "trainable.safetensors"]


def test_pruning_keeps_the_chosen_the_newest_and_the_limit(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint(tmp_path, step, sealed=step < 6)

    def left() -> list[int]:
        return sorted(checkpoint_step(path) for path in tmp_path.iterdir())

    chosen = [tmp_path / "checkpoint-2"]
    prune_checkpoints(tmp_path, chosen, 4)
    assert left() == [2, 3, 4, 5, 6]  # the sixth is half a checkpoint and counts for nothing
    prune_checkpoints(tmp_path, chosen, 1)
    assert left() == [2, 5, 6]
