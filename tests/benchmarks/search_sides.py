"""The sides of `search.py`: the same search by us, by TRL in process after process, and by Ray's documented pattern.

All of them get their numbers from one config. Each side runs in processes of its own, timed from outside; what lies
within is read from the files that they leave.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_runs import OURS, PATTERN, PROCESSES, STOPPED, Evaluation, Run, Trial

from phasegpt.base_model import resolve_base
from phasegpt.config import Config
from phasegpt.config_io import load_config, resolve, track_config
from phasegpt.pairs import Pair, Split, read_pairs, read_prompts, split_pairs, take_prompts

ROOT = Path(__file__).parents[2]
OPPONENTS = Path(__file__).parent / "opponents"
PLACEMENTS = {"all_layers": "null", "upper_third": "upper_third"}
METRICS = "[spiral_score, perplexity, reward_margin, reward_accuracy, eval_loss]"
SEARCHED = "training.learning_rate"
NAME = "bench"


@dataclass(frozen=True)
class Asked:
    """What is measured: a search of so many trials and steps, of track A under the laptop profile with `sets` on it."""

    trials: int
    steps: int
    sets: tuple[str, ...] = ()

    def learning_rates(self) -> list[float]:
        """One value a trial: the laptop profile's own first, the others evenly over its range in powers of ten."""
        config = load_config(track_config("a"), "laptop", self.sets)
        low, high = map(float, config.search.parameters[SEARCHED].values)
        count = max(1, self.trials - 2)
        rest = [low * (high / low) ** (place / count) for place in range(self.trials - 1)]
        return [config.training.learning_rate, *(float(f"{value:.3g}") for value in rest)]

    def overrides(self, placement: str, side: str = OURS) -> list[str]:
        """The `--set` values of our search, from which the opponents' task is made too."""
        interval = max(1, self.steps // 2) if side == STOPPED else self.steps
        return [
            f"model.lora_config.layers_to_transform={PLACEMENTS[placement]}",
            f"training.max_steps={self.steps}",
            f"evaluation.eval_interval={interval}",
            f"evaluation.metrics={METRICS}",
            "evaluation.metric_for_best_model=eval_loss",
            "search.objectives={eval_loss: min}",
            "search.constraints={}",
            f"search.parameters={{{SEARCHED}: {{grid: {self.learning_rates()}}}}}",
            "search.sampler=grid",
            f"search.scheduler={'asha' if side == STOPPED else 'none'}",
            "search.finalists={count: 1, seeds: 1}",
            "search.keep=all",
            *self.sets,
        ]


def ours(asked: Asked, placement: str, side: str = OURS) -> Run:
    """`python -m tune.search` as typed, from its start to its exit, into an empty storage folder; less its finals."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        command = [sys.executable, "-m", "tune.search", "--track", "a", "--profile", "laptop", "--name", NAME, "--json"]
        command += ["--storage", folder, "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        command += [word for value in asked.overrides(placement, side) for word in ("--set", value)]
        begun, ended = timed(command, storage / "log")
        return our_run(storage, asked.trials, begun, ended)


def our_run(storage: Path, trials: int, begun: float, ended: float) -> Run:
    """What the files of our search say; it began and ended at these times."""
    results = storage / "results" / "v14" / "track_a" / NAME
    jobs = storage / "checkpoints" / "v14" / "track_a" / NAME
    baselines = sorted(results.glob("baseline-*.json"))
    before = last = max(path.stat().st_mtime for path in baselines)
    found = []
    for number in range(trials):
        name = f"trial-{number:03d}"
        trial, last = our_trial(results / f"{name}.json", jobs / name / "evaluations", last)
        found.append(trial)
    finals = max((path.stat().st_mtime for path in results.glob("final-*.json")), default=last)
    evaluation = sum(sum(read(path)["seconds"].values()) for path in baselines)
    parts = {
        "baseline_evaluations": evaluation,
        "shared_work": shared_seconds(storage),
        "finals": finals - last,
        "ending": ended - finals,
    }
    return Run(tuple(found), before - begun, ended - finals, evaluation, parts)


def our_trial(result: Path, evaluations: Path, begun: float) -> tuple[Trial, float]:
    """A trial that began when the one before ended, and its own end.

    One that was stopped leaves no result, and its time in steps is not known. Raises SystemExit where one failed.
    """
    kept = [(path.stat().st_mtime, read(path)) for path in sorted(evaluations.glob("step-*.json"))]
    whole = result.is_file()
    if not kept:
        raise SystemExit(f"{result.stem} of our search failed before it was evaluated")
    ended = result.stat().st_mtime if whole else kept[-1][0]
    steps = read(result)["clock"]["step_seconds"] if whole else math.nan
    judged = sum(sum(each["seconds"].values()) for _, each in kept)
    found = tuple(Evaluation(each["step"], at - begun, each["summary"]["eval_loss"]) for at, each in kept)
    return Trial(ended - begun, steps, judged, found), ended


def shared_seconds(storage: Path) -> float:
    """Seconds that shared work took to make: the parts of an entry are made in one pass and say the same."""
    taken: dict[Path, float] = {}
    for seal in (storage / "checkpoints" / "v14" / "shared_work").glob("*/*.json"):
        taken[seal.parent] = max(taken.get(seal.parent, 0.0), read(seal).get("seconds", 0.0))
    return sum(taken.values())


def trl_process(asked: Asked, placement: str, number: int) -> Trial:
    """One trial of plain TRL, from the start of its process to its exit."""
    with task_of(asked, placement) as task:
        found = task.parent / f"{number}.json"
        words = [str(task), str(asked.learning_rates()[number]), str(found)]
        begun, ended = timed([sys.executable, str(OPPONENTS / "trl_trial.py"), *words], task.parent / "log")
        return their_trial(read(found), asked.steps, begun, ended)


def ray_pattern(asked: Asked, placement: str) -> Run:
    """The whole search by Tune + Train, from the start of its process to its exit."""
    with task_of(asked, placement) as task:
        values = [str(value) for value in asked.learning_rates()]
        words = [str(task), str(task.parent), *values]
        begun, ended = timed([sys.executable, str(OPPONENTS / "ray_pattern.py"), *words], task.parent / "log")
        found = [read(task.parent / f"{number}.json") for number in range(len(values))]
        before = last = found[0]["asked"]
        trials = []
        for each in found:
            trials.append(their_trial(each, asked.steps, last, each["ended"]))
            last = each["ended"]
        return Run(tuple(trials), before - begun, ended - last)


def their_trial(found: Mapping[str, Any], steps: int, begun: float, ended: float) -> Trial:
    """A trial of an opponent between two times."""
    judged = Evaluation(steps, found["ended"] - begun, found["metrics"]["eval_loss"])
    return Trial(ended - begun, found["training"], found["evaluation"], (judged,))


@contextmanager
def task_of(asked: Asked, placement: str) -> Iterator[Path]:
    """The opponents' task in a folder of its own; making it is not timed."""
    config = load_config(track_config("a"), "laptop", asked.overrides(placement))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        split = split_of(config)
        for name, pairs in (("train", split.train), ("validation", split.val)):
            rows = [json.dumps(row(pair)) for pair in pairs]
            (place / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (place / "task.json").write_text(json.dumps(task(config, place)), encoding="utf-8")
        yield place / "task.json"


def split_of(config: Config) -> Split:
    """The pairs as our side splits them."""
    data, evaluation = config.data, config.evaluation
    pairs = read_pairs(resolve(config.training.preference_dataset), data.domains, data.stratify_by)
    return split_pairs(pairs, data.val_split, data.stratify_by, evaluation.held_out_domains, config.experiment.seed)


def task(config: Config, place: Path) -> dict[str, Any]:
    """What `trl_trial.py` reads: numbers by the names that TRL and PEFT have for them."""
    from phasegpt.metrics.fluency import STRIDE, WINDOW
    from phasegpt.models import adapter_layers

    training, evaluation, lora = config.training, config.evaluation, config.model.lora_config
    model = resolve_base(config.model.base_model, ROOT)
    layers = adapter_layers(lora.layers_to_transform, read(model / "config.json")["num_hidden_layers"])
    prompts = take_prompts(read_prompts(resolve(evaluation.prompts)), "search", evaluation.max_prompts)
    return {
        "model": str(model),
        "train": str(place / "train.jsonl"),
        "validation": str(place / "validation.jsonl"),
        "cache": str(place / "datasets"),
        "training": {
            "beta": training.beta,
            "max_length": training.max_length,
            "max_steps": training.max_steps,
            "per_device_train_batch_size": training.batch_size,
            "per_device_eval_batch_size": max(1, evaluation.batch_size // 4),
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "warmup_steps": math.ceil((training.max_steps or 0) * training.warmup_ratio),
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "lr_scheduler_type": training.lr_scheduler,
            "seed": config.experiment.seed,
        },
        "lora": {
            "r": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "target_modules": list(lora.target_modules),
            "layers_to_transform": None if layers is None else list(layers),
        },
        "prompts": [prompt.prompt for prompt in prompts],
        "max_new_tokens": evaluation.max_new_tokens,
        "prose": str(resolve(evaluation.fluency_text)),
        "prose_tokens": evaluation.fluency_tokens,
        "window": WINDOW,
        "stride": STRIDE,
    }


def row(pair: Pair) -> dict[str, Any]:
    """A pair in TRL's conversational format."""
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {
        "prompt": [{"role": "user", "content": pair.prompt}],
        **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()},
    }


def timed(command: Sequence[str], log: Path) -> tuple[float, float]:
    """When a command began and ended, by `time.time()`. Raises SystemExit with the end of its log where it failed."""
    with log.open("w", encoding="utf-8") as lines:
        begun = time.time()
        status = subprocess.run(command, stdout=lines, stderr=lines, cwd=ROOT, env=environment(), check=False)
        ended = time.time()
    if status.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return begun, ended


def environment() -> dict[str, str]:
    """The same for all sides; Ray's workers run at the niceness of everybody else."""
    own = {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own}


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


WHOLE = {OURS: ours, STOPPED: lambda asked, placement: ours(asked, placement, STOPPED), PATTERN: ray_pattern}
"""The sides that are measured in one piece; of PROCESSES each trial is."""
SIDES = (OURS, PROCESSES, PATTERN)
