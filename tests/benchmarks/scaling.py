"""What training costs as things grow: pairs, tokens a sequence, parameters of the model, trials at once.

Of each point, in a process of its own: seconds of a step (forward, loss and backward of DPO, the median of the rounds),
seconds and MiB of shared work (token ids, the reference's log-probs and states, the trunk), MiB that a step needs
(anonymous memory over what was held before, as `memory.py` has it). Adapters lie on the upper third of the layers, as
the laptop profile has them, or with --layers all on all of them.

pairs       a toy of 4 layers, synthetic pairs of some 40 tokens an answer; steps on the same 4 of them
length      the base model, one pair whose two sequences have so many tokens
parameters  models of SmolLM2's form with random weights and its vocabulary, 4 pairs of 128 tokens a sequence
slots       the base model, 4 pairs of 128 tokens: one trial on two threads, on one, and two at once on one each
qwen        the tracks' own models' forms with random weights, 4 pairs of 128 tokens; two points make no law

The exponent of a row is the slope of the cost over the size, both as logarithms, by least squares: 1 is linear, 0 does
not grow. Parameters are all of a model's; in the smallest one two thirds of them are the embedding.

    python tests/benchmarks/scaling.py               # ten minutes or more on two quiet cores, 16 GB of memory
    python tests/benchmarks/scaling.py --axes length slots --json
"""

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.toy import build_toy_model, toy_pairs

COMMON = {"length": 128, "pairs": 4, "batch": 4, "threads": 2}
TOY = "toy"
SHAPES = {"192x10": (192, 10), "384x20": (384, 20), "576x30": (576, 30), "768x40": (768, 40)}
"""Width and layers; the third is SmolLM2-135M's own."""
QWEN = {"Qwen2.5-0.5B": (896, 4864, 24, 14), "Qwen2.5-1.5B": (1536, 8960, 28, 12)}
"""Width, inner width, layers and heads, from their config.json; both have two heads of keys and values."""
SIZES: Mapping[str, Sequence[Any]] = {
    "pairs": (100, 1000, 10_000),
    "length": (128, 256, 512, 1024),
    "parameters": tuple(SHAPES),
}
SLOTS = ((1, 2), (1, 1), (2, 1))
"""Trials at once, and threads of each."""
EVERY = (*SIZES, "slots", "qwen")
COSTS = ("step_s", "shared_s", "shared_mib", "step_mib")
Point = dict[str, Any]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """The slope of log cost over log size; None for fewer than two sizes, or where a cost is nothing."""
    if len(sizes) < 2 or min(costs) <= 0:
        return None
    return statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, costs))).slope


def measure(spec: Point, folder: Path) -> Point:
    """Measure one point; run in a process of its own. Its steps begin when a line comes in."""
    import torch

    from phasegpt.models import LoraSettings, attach_policy, load_base
    from phasegpt.shared_store import Lengths, SharedStore, prepare

    logging.disable(logging.WARNING)
    torch.set_num_threads(spec["threads"])
    base, pairs, store = load_base(model_of(spec, folder), Path()), pairs_of(spec), folder / "shared"
    lora = LoraSettings(16, 32, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"), spec["layers"])
    policy = attach_policy(base, lora, seed=0)
    begun = time.perf_counter()
    shared = prepare(SharedStore(store), policy, pairs, Lengths(spec["length"], 64), with_hidden=True)
    made = time.perf_counter() - begun
    batch = shared.batch([pair.id for pair in pairs[: spec["batch"]]], with_hidden=False)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, mib = steps_of(policy, batch, spec["rounds"])
    return {
        "parameters": sum(p.numel() for p in base.model.parameters() if not p.requires_grad),
        "tokens": batch["input_ids"].numel(),
        "step_s": statistics.median(steps),
        "step_spread": [min(steps), max(steps)],
        "shared_s": made,
        "shared_mib": sum(file.stat().st_size for file in store.glob("*/*.safetensors")) / 2**20,
        "step_mib": mib,
    }


def steps_of(policy: Any, batch: Mapping[str, Any], rounds: int) -> tuple[list[float], float]:
    """Seconds of each step but the first, which warms up; MiB that the first one needs."""
    from memory import Peak

    from phasegpt.forward import PairModel
    from phasegpt.objectives import Dpo

    model, objective = PairModel(policy).train(), Dpo(0.1)

    def step() -> float:
        begun = time.perf_counter()
        policy.model.zero_grad(set_to_none=True)
        objective.losses(model(batch)).mean().backward()
        return time.perf_counter() - begun

    with Peak() as peak:
        step()
    return [step() for _ in range(rounds)], peak.grown


def model_of(spec: Point, folder: Path) -> str:
    """The base model of a point: as named, the toy, or one of SHAPES with the named one's tokenizer."""
    if spec["model"] == TOY:
        return str(build_toy_model(folder / "model"))
    if "shape" not in spec:
        return str(spec["model"])
    import torch
    from transformers import AutoTokenizer

    from phasegpt.base_model import resolve_base

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(spec["model"], Path()))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    random_model(spec["shape"], len(tokenizer), ends).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def random_model(shape: str, vocabulary: int, ends: Mapping[str, Any]) -> Any:
    """A model of one of SHAPES or QWEN with random weights; `ends` are the ids of tokens that end or fill."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if shape in QWEN:
        width, inner, layers, heads = QWEN[shape]
        own = Qwen2Config(
            vocab_size=151_936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=2, tie_word_embeddings=True, **ends,
        )  # fmt: skip
        return Qwen2ForCausalLM(own)
    width, layers = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 192, tie_word_embeddings=True, **ends,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def pairs_of(spec: Point) -> list[Any]:
    """The toy's pairs, as many as asked; for other models with answers that fill the length."""
    from phasegpt.pairs import Pair

    rows = toy_pairs(spec["pairs"])
    if spec["model"] != TOY:
        text = " ".join(("river", "clock", "song", "bridge")[n % 4] for n in range(spec["length"]))
        rows = [{**row, "chosen": text, "rejected": f"Then {text}"} for row in rows]
    return [
        Pair(row["id"], row["prompt"], row["chosen"], row["rejected"], row["domain"], None, None, line)
        for line, row in enumerate(rows, 1)
    ]


def in_processes(spec: Point, count: int = 1) -> list[Point]:
    """`measure` in so many processes, whose steps begin at once."""
    command = [sys.executable, __file__, "--point", json.dumps(spec)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    for process in running:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise SystemExit(f"a process failed to measure {spec}")
    for process in running:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in running]
    return found


def axis(name: str, spec: Point, sizes: Sequence[Any]) -> dict[str, Any]:
    """The points of an axis, and how each cost grows over them."""
    points = []
    for size in sizes:
        print(f"{name}: {size}", file=sys.stderr, flush=True)
        points.append(in_processes(spec_of(name, spec, size))[0])
    numbers = [row["parameters"] for row in points] if name == "parameters" else list(sizes)
    costs = {cost: [row[cost] for row in points] for cost in COSTS}
    return {
        "sizes": numbers,
        **costs,
        "step_spread": [row["step_spread"] for row in points],
        "exponents": {cost: exponent(numbers, values) for cost, values in costs.items()},
    }


def spec_of(name: str, spec: Point, size: Any) -> Point:
    """What one point of an axis measures."""
    if name == "pairs":
        return {**spec, "model": TOY, "pairs": size}
    if name == "length":
        return {**spec, "length": size, "pairs": 1, "batch": 1}
    return {**spec, "shape": size}


def slots(spec: Point) -> list[Point]:
    """Seconds of a step of each trial, and of the machine: trials at once share it."""
    found = []
    for count, threads in SLOTS:
        print(f"slots: {count} on {threads} threads", file=sys.stderr, flush=True)
        rows = in_processes({**spec, "threads": threads}, count)
        step = statistics.mean(row["step_s"] for row in rows)
        found.append({"slots": count, "threads": threads, "step_s": step, "machine_s": step / count})
    return found


def qwen(spec: Point, count: int | None) -> list[Point]:
    """Each cost of the tracks' own forms, and tokens a second."""
    found = []
    for shape in list(QWEN)[:count]:
        print(f"qwen: {shape}", file=sys.stderr, flush=True)
        row = in_processes({**spec, "shape": shape})[0]
        found.append({"shape": shape, **row, "tokens_s": row["tokens"] / row["step_s"]})
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for name in (name for name in SIZES if name in found):
        row = found[name]
        lines.append(f"{name:<12}" + "".join(f"{size:>14,}" for size in row["sizes"]) + f"{'exponent':>12}")
        for cost in COSTS:
            grows = row["exponents"][cost]
            last = f"{'':>12}" if grows is None else f"{grows:>12.2f}"
            lines.append(f"  {cost:<10}" + "".join(f"{value:>14.3f}" for value in row[cost]) + last)
    for row in found.get("slots", ()):
        each = f"{row['slots']} at once, {row['threads']} threads each"
        lines.append(f"slots: {each}: {row['step_s']:.2f} s a step, {row['machine_s']:.2f} s of the machine")
    for row in found.get("qwen", ()):
        lines.append(
            f"{row['shape']} with random weights: {row['step_s']:.1f} s a step = {row['tokens_s']:.0f} tokens/s, "
            f"{row['step_mib']:.0f} MiB a step; shared work {row['shared_s']:.1f} s, {row['shared_mib']:.0f} MiB"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--model", default="smollm2-135m", help="the bundled model, or a folder")
    parser.add_argument("--layers", choices=("upper_third", "all"), default="upper_third", help="where adapters lie")
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed at each point (default: 5)")
    parser.add_argument("--points", type=int, help="only so many of each axis, the smallest first")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(json.loads(given.point), Path(folder))))
        return
    layers = None if given.layers == "all" else given.layers
    spec = {**COMMON, "model": given.model, "layers": layers, "rounds": given.rounds}
    found: dict[str, Any] = {
        name: axis(name, spec, SIZES[name][: given.points]) for name in given.axes if name in SIZES
    }
    if "slots" in given.axes:
        found["slots"] = slots(spec)
    if "qwen" in given.axes:
        found["qwen"] = qwen(spec, given.points)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
