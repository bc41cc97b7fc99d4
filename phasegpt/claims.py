"""Whose a run's folder is: the config that it was begun with, and the data and models behind that.

The claim lies in the folder as run.json; a later call that asks for something else is refused.
"""

import os
from pathlib import Path

from phasegpt import ranks
from phasegpt.config import Config, config_hash
from phasegpt.config_search import Search
from phasegpt.files import read_json, write_json
from phasegpt.parts import RunError, SetUp
from phasegpt.runs import RunPaths

CLAIM = "run.json"
CONTENT = {
    "data": "the data (training.preference_dataset)",
    "base_model": "the base model (model.base_model)",
    "reference_adapter": "the reference adapter (training.reference_model; of two stages the first one's)",
}
"""What a run is made of beside its config, by the name of its hash."""


def claim(config: Config, paths: RunPaths, half: str, start: Path | None) -> None:
    """A run's folder belongs to one config, start and half of the prompts: its files must not pass for another's.

    Raises RunError where it belongs to another.
    """
    file = paths.checkpoints / CLAIM
    own = {"config_hash": config_hash(config.model_copy(update={"search": Search()})), "half": half}
    own |= {} if start is None else {"start": _from_run(start, paths)}
    if not file.is_file():
        if ranks.first():
            write_json(file, own)
    elif {key: value for key, value in read_json(file).items() if key != "hashes"} != own:
        raise RunError(
            f"{paths.checkpoints} holds another run, as its config.yaml and run.json say; give this one another name"
        )


def claim_content(run: SetUp, paths: RunPaths) -> None:
    """What a run was begun with stays what it was: its weights and its optimizer state came of that.

    Raises RunError where it changed since; the claim of a run from before these hashes were kept is filled in.
    """
    file = paths.checkpoints / CLAIM
    claimed = read_json(file)
    own = {name: run.hashes[name] for name in CONTENT}
    own["base_model"] = run.judged.policy.base.identity  # the bundled model's files differ from machine to machine
    before = claimed.get("hashes", own)
    if changed := [what for name, what in CONTENT.items() if own[name] != before[name]]:
        raise RunError(
            f"{paths.checkpoints}: {' and '.join(changed)} changed since this run was begun; put back what was there, "
            f"or give this run another name"
        )
    if ranks.first() and "hashes" not in claimed:
        write_json(file, {**claimed, "hashes": own})


def _from_run(start: Path, paths: RunPaths) -> str:
    """An adapter folder as seen from a run's own where one storage, which may move, has both; else its full path."""
    storage = paths.shared_work.parent
    return os.path.relpath(start, paths.checkpoints) if start.is_relative_to(storage) else str(start)
