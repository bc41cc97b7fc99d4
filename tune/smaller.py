"""A job that ran out of memory runs again in smaller bites: half the micro-batch, twice the accumulation.

The optimizer's step sees the same examples, so the run stays what it was asked for. The choice lies in the job's
folder, so that a search that is resumed makes it again. Knows nothing of Ray.
"""

import shutil
from pathlib import Path
from typing import Any

from phasegpt.answers import UNPAIRED_METHOD
from phasegpt.config import Config
from phasegpt.files import read_json, write_json

OOM = "oom"
BATCH, ACCUMULATION = "training.batch_size", "training.gradient_accumulation_steps"
FILE = "smaller.json"
SAID = ("out of memory", "can't allocate memory", "not enough memory", "alloc_cpu")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in SAID)


def smaller(config: Config) -> dict[str, Any] | None:
    """The values that halve the micro-batch of a config; None where it cannot be halved without changing the run.

    kto_unpaired estimates its KL from batch mates: another micro-batch would be another objective.
    """
    training = config.training
    if training.method == UNPAIRED_METHOD or training.batch_size % 2:
        return None
    return {BATCH: training.batch_size // 2, ACCUMULATION: 2 * training.gradient_accumulation_steps}


def begin_smaller(folder: Path, values: dict[str, Any]) -> None:
    """Forget what a job left in its folder, and note the values that it now runs with."""
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / FILE, values)


def chosen_before(folder: Path) -> dict[str, Any]:
    """The smaller values of a job that began with them; else none."""
    found: dict[str, Any] = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    return found


def remark(values: dict[str, Any]) -> str:
    """What is recorded of it."""
    return f"{OOM}: ran again with {BATCH} {values[BATCH]} and {ACCUMULATION} {values[ACCUMULATION]}"
