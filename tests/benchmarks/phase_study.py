"""Does the phase branch help? Track B under the laptop profile on SmolLM2, with and without it.

Every variant trains with the same seeds, splits, adapters at the start and number of steps, and answers the final half
of the prompts. A difference is taken prompt by prompt (or held-out pair by pair) after the mean over seeds, with the
intervals of `phasegpt.statistics`. Writes into a temporary folder alone. About half a minute a run on two
quiet cores, and two minutes for the reference: `python tests/benchmarks/phase_study.py [--seeds 4] [--steps 6]`;
docs/methods.md quotes what it prints.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from phasegpt.config import METRICS
from phasegpt.config_io import load_config, track_config
from phasegpt.parts import Workbench
from phasegpt.runs import RunResult, run_paths
from phasegpt.statistics import Gain, paired_gain
from phasegpt.train import fit

FIRST_SEED = 42
BRANCH = ("model.use_phase_attention=true", "logging.track_phase_dynamics=true", "logging.phase_log_interval=1")
VARIANTS: Mapping[str, Sequence[str]] = {
    "no branch": (),
    "layer 9": (*BRANCH, 'model.phase_layer_idx=["0.3"]'),
    "layer 24": (*BRANCH, 'model.phase_layer_idx=["0.8"]'),
}
"""The seed's layer, 0.3 of the depth, lies below the adapters of the laptop profile; 0.8 lies among them."""

OF_ANSWERS = ("spiral_score", "subtlety")
OF_PAIRS = ("reward_margin", "eval_loss", "kl_divergence")
OF_RUNS = ("perplexity",)


def runs_of(variant: str, seeds: Sequence[int], steps: int, storage: Path, bench: Workbench) -> list[RunResult]:
    """A run of a variant for each seed."""
    found = []
    for seed in seeds:
        sets = [f"experiment.seed={seed}", f"training.max_steps={steps}", f"evaluation.eval_interval={steps}"]
        config = load_config(track_config("b"), "laptop", [*sets, *VARIANTS[variant]])
        paths = run_paths(storage, "b", f"{variant.replace(' ', '-')}-{seed}")
        found.append(fit(config, paths=paths, half="final", workbench=bench))
    return found


def scores(runs: Sequence[RunResult], metric: str) -> list[dict[str, float]]:
    """{id: value} of each run, to six digits: equal answers in unequal batches differ in the ninth."""
    rows = [run.answers if metric in OF_ANSWERS else run.pairs for run in runs]
    return [{str(row["id"]): round(float(row[metric]), 6) for row in of_run} for of_run in rows]


def table(found: Mapping[str, Sequence[RunResult]]) -> Iterator[str]:
    """The means of every variant and what each gains over the one without a branch."""
    plain, *others = VARIANTS
    gains = " | ".join(f"{name}: gain" for name in others)
    yield f"| metric | {' | '.join(VARIANTS)} | {gains} |"
    yield "|---" * (1 + len(VARIANTS) + len(others)) + "|"
    for metric in (*OF_ANSWERS, *OF_PAIRS):
        means = [f"{fmean(run.metrics[metric] for run in runs):.4f}" for runs in found.values()]
        better: Any = METRICS[metric]
        against = scores(found[plain], metric)
        cells = [_cell(paired_gain(scores(found[name], metric), against, better)) for name in others]
        yield f"| {metric} | {' | '.join(means)} | {' | '.join(cells)} |"
    for metric in OF_RUNS:
        means = [f"{fmean(run.metrics[metric] for run in runs):.3f}" for runs in found.values()]
        yield f"| {metric} | {' | '.join(means)} |{' |' * len(others)}"
    changed = [f"{_changed(found[name], found[plain])} of {_answers(found[name])}" for name in VARIANTS]
    yield f"| answers unlike those without a branch | {' | '.join(changed)} |{' |' * len(others)}"


def _cell(gain: Gain) -> str:
    return f"{gain.mean:+.5f} [{gain.low:+.5f}, {gain.high:+.5f}], n = {gain.n}"


def _answers(runs: Sequence[RunResult]) -> int:
    return sum(len(run.answers) for run in runs)


def _changed(runs: Sequence[RunResult], plain: Sequence[RunResult]) -> int:
    """How many answers differ from the other variant's under the same seed, to the letter."""
    couples = [zip(run.answers, other.answers, strict=True) for run, other in zip(runs, plain, strict=True)]
    return sum(ours["answer"] != theirs["answer"] for couple in couples for ours, theirs in couple)


def dynamics(name: str, runs: Sequence[RunResult]) -> Iterator[str]:
    """What the oscillators did from the first step to the last, as means over the seeds."""
    first, last = [run.training_log[0] for run in runs], [run.training_log[-1] for run in runs]
    for key in (key for key in first[0] if key.startswith("phase_")):
        begin, end = fmean(entry[key] for entry in first), fmean(entry[key] for entry in last)
        yield f"{name}: {key} {begin:.4f} -> {end:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The phase branch against none, on SmolLM2.")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each variant")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each run; the laptop profile takes 6")
    given = parser.parse_args()
    seeds, bench = range(FIRST_SEED, FIRST_SEED + given.seeds), Workbench()
    found = {}
    with tempfile.TemporaryDirectory(prefix="phase-study-") as folder:
        for variant in VARIANTS:
            found[variant] = runs_of(variant, seeds, given.steps, Path(folder), bench)
            seconds = fmean(run.seconds["total"] for run in found[variant])
            print(f"{variant}: {given.seeds} runs of {given.steps} steps, {seconds:.0f} s each", flush=True)
    print("\n".join(["", *table(found), ""]))
    for variant, runs in found.items():
        for line in dynamics(variant, runs):
            print(line)


if __name__ == "__main__":
    main()
