"""The baseline of every gain: the reference itself, or evaluation.baseline_checkpoint, on the suite of a config.

Measured once for what it depends on and kept beside the shared work, so that searches and tracks with the same base
model, data and suite have one measurement between them.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from filelock import FileLock

from phasegpt import ranks
from phasegpt.adapters import adapter_hash
from phasegpt.answers import UNPAIRED_METHOD
from phasegpt.checkpoints import adapter_folder
from phasegpt.config import Config, stages, value_at
from phasegpt.config_io import files_of, resolve
from phasegpt.config_sections import BASELINE, REFERENCE
from phasegpt.evaluate import Evaluation, evaluate
from phasegpt.files import file_sha256, make_folder, text_sha256, write_json
from phasegpt.forward import PairModel
from phasegpt.metrics.declared import is_own
from phasegpt.metrics.text import scorer
from phasegpt.models import load_policy
from phasegpt.once import made_once
from phasegpt.parts import RunError, Workbench, device_of, set_up, suite_of
from phasegpt.runs import RunPaths, versions
from phasegpt.shared_parts import HIDDEN
from phasegpt.shared_store import Progress
from phasegpt.shared_work import SharedWork
from phasegpt.train import evaluated, read_evaluation

OF_TRAINING = ("max_length", "max_prompt_length", "bf16", "fp16", "beta")
NOT_MEASURED = ("eval_interval", "save_best_only", "save_total_limit", "metric_for_best_model", "baseline_checkpoint")
"""What of `evaluation` says nothing of one measurement."""


def measure(
    config: Config, *, paths: RunPaths, half: str, workbench: Workbench, on_progress: Progress | None = None
) -> Evaluation:
    """The baseline on one half of the prompts; its KL and rewards are those against the search's reference.

    One that was measured before, for the same of all it depends on, is read back. With metrics of the user's own, whose
    code may have changed, it is measured anew. Raises ModelError, RunError.
    """
    last = stages(config)[-1]
    if any(map(is_own, config.evaluation.metrics)):
        return _measured(last, paths, half, workbench, on_progress)
    key = text_sha256(repr(depends_on(last, paths, half, workbench)))[:16]
    place = paths.shared_work.parent / "baselines" / f"{key}.json"
    make_folder(place.parent)
    with FileLock(f"{place}.lock") if ranks.first() else nullcontext(), made_once(place, place.is_file):
        if ranks.by_first(place.is_file):
            return read_evaluation(place)
        found = _measured(last, paths, half, workbench, on_progress)
        if ranks.first():
            write_json(place, asdict(found))
    return found


def depends_on(config: Config, paths: RunPaths, half: str, bench: Workbench) -> Mapping[str, Any]:
    """All that a baseline's numbers depend on: settings, the content of files and adapters, versions."""
    tree, training = config.dump(), config.training
    evaluation = {name: value for name, value in tree["evaluation"].items() if name not in NOT_MEASURED}
    named = {REFERENCE: training.reference_model, BASELINE: config.evaluation.baseline_checkpoint}
    return {
        "base": bench.base(config).fingerprint,
        "adapters": {key: _adapter(key, name, config, paths) for key, name in named.items()},
        "training": {name: tree["training"][name] for name in OF_TRAINING},
        "unpaired": training.method == UNPAIRED_METHOD,
        "evaluation": evaluation,
        "data": tree["data"],
        "files": [file_sha256(resolve(value_at(config, key))) for key in files_of(config)],
        "seed": config.experiment.seed,
        "device": device_of(config),
        "half": half,
        "scorer": scorer(),
        "versions": versions(),
    }


def _adapter(key: str, name: str | None, config: Config, paths: RunPaths) -> str:
    """The content of a named adapter; of a missing reference, without which dpo does, none."""
    if not name or (key == REFERENCE and not name.startswith("models:") and not os.path.isdir(resolve(name))):
        return ""
    return adapter_hash(adapter_folder(key, name, paths.references, config.model.base_model))


def _measured(config: Config, paths: RunPaths, half: str, bench: Workbench, on_progress: Progress | None) -> Evaluation:
    with set_up(config, paths, bench, half, on_progress) as run:
        if config.evaluation.baseline_checkpoint is None:
            return evaluated(run)
        shared, pair_ids = run.material.shared, run.suite.pair_ids
    return _of_checkpoint(config, paths, bench, half, shared, pair_ids)


def _of_checkpoint(
    config: Config,
    paths: RunPaths,
    bench: Workbench,
    half: str,
    shared: SharedWork | None,
    pair_ids: Sequence[str],
) -> Evaluation:
    """The suite on the adapter that evaluation.baseline_checkpoint names, with the reference's shared work."""
    if config.training.reference_model and "kl_on_samples" in config.evaluation.metrics:
        raise RunError(
            f"{BASELINE}: its kl_on_samples would be taken against the base model, not against {REFERENCE}; "
            f"leave kl_on_samples out of evaluation.metrics, or {BASELINE} out"
        )
    base = bench.base(config)
    suite = suite_of(config, base, dict.fromkeys(pair_ids, ("", "")), half)
    if shared is not None:
        shared = shared.without_trunk()  # the checkpoint's adapter may lie on those layers
        if config.training.reference_model and HIDDEN not in shared.parts and "kl_divergence" in suite.metrics:
            raise RunError(f"{BASELINE}: its KL needs the reference's states; raise shared_work.max_gb")
    name = str(config.evaluation.baseline_checkpoint)
    folder = adapter_folder(BASELINE, name, paths.references, config.model.base_model)
    policy = load_policy(base, folder)
    try:
        return evaluate(PairModel(policy), shared, suite)
    finally:
        policy.detach()
