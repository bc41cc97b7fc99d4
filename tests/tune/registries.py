"""A real registry for tests: adapters of the toy model, and winners of searches that are said to have run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tune.contenders import candidate
from tune.gate import Candidate

EXPERIMENT = "phasegpt-v14"


def toy_adapter(base_folder: Path, to: Path, seed: int = 0, **more: Any) -> Path:
    """An adapter of the toy model, by `seed`, that changes its answers; `more` goes to `attach_policy`."""
    import torch

    from phasegpt.models import LoraSettings, attach_policy, load_base

    base = load_base(str(base_folder), base_folder)
    lora = LoraSettings(r=2, alpha=4, dropout=0.0, target_modules=("q_proj",))
    policy = attach_policy(base, lora, seed, **more)
    for weight in policy.trainable().values():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
    policy.save(to)
    return to


def winner_of(client: Any, base_folder: Path, adapter: Path, values: Mapping[str, float], track: str) -> Candidate:
    """A candidate with a run of its own in the experiment, which is made where it is not there."""
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    run = client.create_run(experiment, run_name="winner")
    return candidate(run.info.run_id, str(base_folder), adapter, values, track)
