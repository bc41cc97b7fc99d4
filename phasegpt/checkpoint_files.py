"""The checkpoint folders of a run: which is the newest whole one, what it holds, and which may go.

`complete.json` is written last and has the sha256 of every other file, so that a folder that a crash, a full disk or a
bad copy has damaged is found out. Knows nothing of torch.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phasegpt.files import file_sha256, read_json, write_json

ADAPTER = "adapter_model"
TRAINABLE = "trainable.safetensors"
WHOLE = "complete.json"
STATE = "trainer_state.json"
EVALUATIONS = "evaluations"
log = logging.getLogger("phasegpt")


def seal(folder: Path, step: int) -> None:
    """Say that a checkpoint is complete, and what its files hold."""
    write_json(folder / WHOLE, {"step": step, "sha256": {name: file_sha256(folder / name) for name in _files(folder)}})


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE)
    return sorted(str(path.relative_to(folder)) for path in paths)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: it has no seal, or a file is not what it was when it was sealed."""
    if not (folder / WHOLE).is_file():
        return "not whole"
    try:
        sealed: Any = read_json(folder / WHOLE)["sha256"]
        changed = [name for name, digest in sealed.items() if not _is(folder / name, digest)]
    except (ValueError, TypeError, KeyError, AttributeError):
        changed = [WHOLE]
    return f"damaged ({', '.join(changed)})" if changed else None


def _is(path: Path, digest: str) -> bool:
    return os.path.isfile(path) and file_sha256(path) == digest  # a name may be too long for a file


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The whole checkpoint with the highest step, or None. Damaged ones are passed over with a warning."""
    for folder in _by_step(output_dir):
        wrong = damage(folder)
        if wrong is None:
            return folder
        log.warning("%s is %s and is passed over", folder, wrong)
    return None


def last_adapter(run: Path) -> Path | None:
    """The adapter that the run in a folder came to: its result's, else that of its newest whole checkpoint, or None."""
    if (run / ADAPTER).is_dir():
        return run / ADAPTER
    newest = newest_checkpoint(run)
    return None if newest is None else newest / ADAPTER


def _by_step(output_dir: Path) -> Iterator[Path]:
    """The checkpoint folders, newest first."""
    yield from sorted(output_dir.glob("checkpoint-*"), key=checkpoint_step, reverse=True)


def checkpoint_step(folder: Path) -> int:
    """The optimizer step in a checkpoint folder's name."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1


def step_history(checkpoint: Path) -> list[dict[str, float]]:
    """{step, loss, learning_rate, grad_norm, rewards_…} of every optimizer step up to a checkpoint, cuts or not."""
    rows = [row for row in read_json(checkpoint / STATE)["log_history"] if "loss" in row]
    return [{name: value for name, value in row.items() if name != "epoch"} for row in rows]


def evaluation_files(checkpoints: Path) -> list[Path]:
    """The evaluations that a run has left, a file each, in the order of their steps."""
    return sorted((checkpoints / EVALUATIONS).glob("step-*.json"))


def history_left(output_dir: Path) -> list[dict[str, float]]:
    """The same up to a run's newest whole checkpoint, its bytes unchecked; nothing where its state is damaged."""
    newest = next((folder for folder in _by_step(output_dir) if (folder / WHOLE).is_file()), None)
    try:
        return step_history(newest) if newest else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s: its steps cannot be read: %s", newest, error)
        return []


def prune_checkpoints(output_dir: Path, keep: Sequence[Path], limit: int) -> None:
    """Remove old checkpoints: those in `keep` and the newest stay, and as many more as make `limit` in all."""
    folders = [folder for folder in _by_step(output_dir) if (folder / WHOLE).is_file()]
    kept = [folder for index, folder in enumerate(folders) if folder in keep or index == 0]
    spare = [folder for folder in folders if folder not in kept]
    for folder in spare[max(0, limit - len(kept)) :]:
        shutil.rmtree(folder)
