"""A training step on a GPU, of ours beside TRL's DPOTrainer: time, speed and memory, in float32 and in bfloat16.

The steps are those of `step.py`, on 4 and on 16 of the shipped pairs. All sides alternate in one process, and ratios
are medians of the rounds' own. A time ends when the GPU has done what was asked. Memory is the most that torch has
allocated during a step over what it held before: of ours without the weights, which TRL's model has too.

    python tests/benchmarks/gpu.py                   # SmolLM2-135M, about three minutes on an H200
    python tests/benchmarks/gpu.py --rounds 40 --json
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from against_trl import Batch, Step, batch_of, our_step, trl_step

from phasegpt.models import Base, load_base
from phasegpt.pairs import read_pairs

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLACEMENTS = {"all layers": None, "upper third": "upper_third"}
DOMAINS = ("philosophy", "science", "social", "artistic")


def done(device: str) -> None:
    """Wait for what was asked of the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(step: Step, device: str) -> float:
    """Seconds of one step, to the end of its last kernel."""
    done(device)
    begun = time.perf_counter()
    step()
    done(device)
    return time.perf_counter() - begun


def peak_mib(step: Step, device: str) -> float:
    """The most memory that a step allocates over what was held before, in MiB; 0 on a CPU."""
    if device != "cuda":
        return 0.0
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def measure(base: Base, layers: str | None, batch: Batch, rounds: int, device: str) -> dict[str, Any]:
    """The three steps in turn, `rounds` times after three of warming up."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        steps: dict[str, Step] = {
            "trl_live": stack.enter_context(trl_step(base, layers, batch, precomputed=False)),
            "trl_precomputed": stack.enter_context(trl_step(base, layers, batch, precomputed=True)),
            "ours": stack.enter_context(our_step(base, layers, batch, Path(folder))),
        }
        losses = [{name: step() for name, step in steps.items()} for _ in range(3)]
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                seconds[name].append(seconds_of(step, device))
        memory = {name: peak_mib(step, device) for name, step in steps.items()}
    return {**summary(seconds), "mib": memory, "losses": losses[-1], "tokens": batch.packed_tokens}


def summary(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians in milliseconds, and TRL's time over ours with the middle half of the rounds."""
    found: dict[str, Any] = {f"{name}_ms": 1000 * statistics.median(values) for name, values in seconds.items()}
    for name in ("live", "precomputed"):
        ratios = [trl / ours for trl, ours in zip(seconds[f"trl_{name}"], seconds["ours"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found |= {f"ratio_{name}": middle, f"quartiles_{name}": [low, high]}
    return found


def line(row: Mapping[str, Any]) -> str:
    """One row of the table for people."""
    ratios = [f"{row[f'ratio_{w}']:.2f} [{row[f'quartiles_{w}'][0]:.2f}, {row[f'quartiles_{w}'][1]:.2f}]"
              for w in ("live", "precomputed")]  # fmt: skip
    memory = " / ".join(f"{row['mib'][side]:.0f}" for side in ("ours", "trl_live", "trl_precomputed"))
    speed = row["tokens"] / row["ours_ms"] * 1000
    return (
        f"{row['case']:<34} {row['ours_ms']:>8.1f} {row['trl_live_ms']:>8.1f} {row['trl_precomputed_ms']:>8.1f} "
        f"{ratios[0]:>18} {ratios[1]:>18} {speed:>9.0f} {memory:>18}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the bundled model, or a folder")
    parser.add_argument("--data", type=Path, default=Path("data/preferences_v14_100pairs.jsonl"), help="pairs")
    parser.add_argument("--pairs", type=int, nargs="+", default=[4, 16], help="how many make a batch (default: 4 16)")
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the script")
    parser.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py: no GPU on this machine; --device cpu tries the script")
        return
    logging.disable(logging.WARNING)
    card = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{card}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(
        "ms of ours, TRL live, precomputed; live / ours, precomputed / ours [quartiles]; tokens a second; MiB",
        flush=True,
    )
    found = []
    for precision, dtype in PRECISIONS.items():
        base = load_base(options.model, Path(), dtype, options.device)
        for count in options.pairs:
            batch = batch_of(base, read_pairs(options.data, DOMAINS)[:count])
            for place, layers in PLACEMENTS.items():
                row = measure(base, layers, batch, options.rounds, options.device)
                found.append({"case": f"{precision}, {count} pairs, {place}", **row})
                print(json.dumps(found[-1]) if options.json else line(found[-1]), flush=True)


if __name__ == "__main__":
    main()
