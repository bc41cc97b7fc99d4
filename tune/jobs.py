"""What the warm actors are asked to do, in order: the baseline, the trials, the finals. Plain values that travel.

Knows nothing of Ray, Optuna or MLflow.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tune.space import Values

JobKind = Literal["baseline", "trial", "final"]
FINAL_SEED_STEP = 1000  # finals train and split under seeds that no trial used


@dataclass(frozen=True)
class Job:
    """One fit, or for a baseline one measurement: `values` laid on the search's config, judged on one `half`.

    With `until` a trial goes as far as its evaluation at that step and pauses there. `warm` is the trial whose weights
    it starts from.
    """

    kind: JobKind
    number: int
    name: str
    values: Values
    half: str
    origin: str = ""
    until: int | None = None
    warm: int | None = None


def trial_name(number: int) -> str:
    """What a trial is called in files and runs."""
    return f"trial-{number:03d}"


def trial_number(name: str) -> int:
    """The number in a trial's name. Raises ValueError for another name."""
    return int(name.removeprefix("trial-"))


def baseline_name(half: str) -> str:
    """What the measurement on one half of the prompts is called."""
    return f"baseline-{half}"


def final_name(trial: int, seed: int | str) -> str:
    """What a trial's final on a seed is called; "*" stands for all of them."""
    return f"final-{trial:03d}-seed-{seed}"


def arm_name(number: int) -> str:
    """What an arm of an ablation is called; its runs have their seed behind it."""
    return f"arm-{number:02d}"


def trial_job(number: int, values: Values, origin: str, until: int | None = None, warm: int | None = None) -> Job:
    """A trial of the search, judged on the search half."""
    return Job("trial", number, trial_name(number), values, "search", origin, until, warm)


def baseline_job(half: str, checkpoint: str | None = None) -> Job:
    """What gains are measured from on one half of the prompts: the untuned model, or a checkpoint."""
    return Job("baseline", 0, baseline_name(half), {}, half, checkpoint or "untuned model")


def final_job(trial: int, values: Values, replicate: int, base_seed: int) -> Job:
    """A finalist's values on a fresh seed and split, judged on the final half."""
    seed = base_seed + FINAL_SEED_STEP + replicate
    return Job("final", trial, final_name(trial, seed), {**values, "experiment.seed": seed}, "final", f"trial {trial}")


def arm_job(number: int, label: str, values: Values, replicate: int, base_seed: int) -> Job:
    """An arm of an ablation on one of the seeds that all arms share, judged on the final half."""
    seed = base_seed + FINAL_SEED_STEP + replicate
    return Job("final", number, f"{arm_name(number)}-seed-{seed}", {**values, "experiment.seed": seed}, "final", label)


def as_config(job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary that Ray hands to the trainable."""
    return {"job": asdict(job), "spec": dict(spec)}


def from_config(config: Mapping[str, Any]) -> tuple[Job, Mapping[str, Any]]:
    """The inverse of `as_config`."""
    return Job(**config["job"]), config["spec"]
