"""Faults of checkpoints: one of three is damaged somewhere, and a run must go on from the newest of the others."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from phasegpt.checkpoint_files import newest_checkpoint, seal
from phasegpt.files import whole_folder

STEPS = (3, 6, 9)


def _made(folder: Path, dice: random.Random) -> None:
    for step in STEPS:
        with whole_folder(folder / f"checkpoint-{step}") as stage:
            for name in ("trainable.safetensors", "optimizer.pt", "adapter_model/adapter_model.safetensors"):
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_bytes(dice.randbytes(dice.randint(1, 4096)))
            (stage / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
            seal(stage, step)


def _truncated(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def _flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _inject(name: str, damage: Callable[[bytes, random.Random], bytes], folder: Path, seed: int) -> str:
    """The seal itself is spared by a flip: a bit of its layout may change and mean the same."""
    dice = random.Random(f"{name}/{seed}")  # noqa: S311 - places, not secrets
    shutil.rmtree(folder, ignore_errors=True)
    _made(folder, dice)
    hit = dice.choice(STEPS)
    files = [path for path in sorted((folder / f"checkpoint-{hit}").rglob("*")) if path.is_file()]
    place = dice.choice([path for path in files if damage is _truncated or path.name != "complete.json"])
    place.write_bytes(damage(place.read_bytes(), dice))
    wanted = folder / f"checkpoint-{max(step for step in STEPS if step != hit)}"
    found = newest_checkpoint(folder)
    return "whole" if found == wanted else f"goes on from {found and found.name} where {place.name} of {hit} is damaged"


CHECKPOINT_FAULTS: dict[str, Callable[[Path, int], str]] = {
    "truncated_checkpoint": partial(_inject, "truncated_checkpoint", _truncated),
    "flipped_checkpoint": partial(_inject, "flipped_checkpoint", _flipped),
}
