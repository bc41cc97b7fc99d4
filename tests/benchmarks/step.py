"""A training step of ours beside TRL's DPOTrainer: forward, loss and backward on the same batch with the same adapters.

Four of the shipped pairs in the chat template, LoRA r = 16 on q, k, v, o without dropout, float32, SDPA; TRL with its
reference live and precomputed, without gradient checkpointing. The three alternate in one process, so that whatever
else the machine does meets them alike; ratios are medians of the rounds' own. The optimizer's update is left out: it is
the same on both sides. What our step reads from shared work is made once for a whole search, and is not in it.

gemm_share is the operations of matrix products in our step (attention counted by its causal half) over its time, over
the rate of a large product on the same machine in the same rounds.

    python tests/benchmarks/step.py                  # SmolLM2-135M, about seven minutes on two cores
    python tests/benchmarks/step.py --rounds 9 --json
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from against_trl import Batch, Step, batch_of, our_step, trl_step
from torch.utils.flop_counter import FlopCounterMode

from phasegpt.models import Base, load_base
from phasegpt.pairs import read_pairs

PLACEMENTS = {"all_layers": None, "upper_third": "upper_third"}
DOMAINS = ("philosophy", "science", "social", "artistic")
Seconds = Mapping[str, Sequence[float]]


def attention_operations(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Products with keys and with values over the causal half."""
    batch, heads, tokens, width = query
    return 2 * 2 * batch * heads * tokens * key[2] * width // 2


def backward_operations(_: Sequence[int], query: Sequence[int], key: Sequence[int], *__: Any, **___: Any) -> int:
    """Five products where the forward pass has two: the scores are made again."""
    return attention_operations(query, key) * 5 // 2


def product_operations(_: Sequence[int], left: Sequence[int], right: Sequence[int], *__: Any, **___: Any) -> int:
    """A product added in place, which torch's own counter leaves out."""
    return 2 * left[0] * left[1] * right[1]


NOT_COUNTED_BY_TORCH = {
    torch.ops.aten.addmm_: product_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward_operations,
}


def operations(step: Step) -> int:
    """Operations of the matrix products of a step; a multiplication with its addition counts two."""
    with FlopCounterMode(display=False, custom_mapping=NOT_COUNTED_BY_TORCH) as counter:
        step()
    return int(counter.get_total_flops())


def peak_rate(seconds: float = 0.5, size: int = 1024) -> float:
    """Operations a second of a product of two square matrices."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        a @ b
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begun)


def parts_of(step: Step) -> dict[str, float]:
    """Seconds of one of our steps by what is computed: products of matrices, attention's kernels, all else."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    seconds = dict.fromkeys(("products", "attention", "rest"), 0.0)
    for event in profile.key_averages():
        name = "attention" if "scaled_dot_product" in event.key else "rest"
        name = "products" if event.key in ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm") else name
        seconds[name] += event.self_cpu_time_total / 1e6
    return seconds


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(base: Base, layers: str | None, batch: Batch, rounds: int, folder: Path) -> dict[str, Any]:
    """The three steps in turn, `rounds` times after one of warming up."""
    with ExitStack() as stack:
        steps: dict[str, Step] = {
            "trl_live": stack.enter_context(trl_step(base, layers, batch, precomputed=False)),
            "trl_precomputed": stack.enter_context(trl_step(base, layers, batch, precomputed=True)),
            "ours": stack.enter_context(our_step(base, layers, batch, folder)),
        }
        losses = {name: step() for name, step in steps.items()}
        counted = operations(steps["ours"])
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        peaks = []
        for turn in range(rounds):
            print(f"{layers or 'all layers'}: round {turn + 1} of {rounds}", file=sys.stderr)
            for name, step in steps.items():
                seconds[name].append(timed(step))
            peaks.append(peak_rate())
        return {**summary(seconds, losses, counted, peaks), "parts_s": parts_of(steps["ours"])}


def summary(seconds: Seconds, losses: Mapping[str, float], counted: int, peaks: Sequence[float]) -> dict[str, Any]:
    """Medians, and ratios with their spread."""
    found: dict[str, Any] = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    for name in ("live", "precomputed"):
        ratios = [trl / ours for trl, ours in zip(seconds[f"trl_{name}"], seconds["ours"], strict=True)]
        found |= {f"ratio_{name}": statistics.median(ratios), f"spread_{name}": [min(ratios), max(ratios)]}
    shares = [counted / ours / peak for ours, peak in zip(seconds["ours"], peaks, strict=True)]
    return {
        **found,
        "gemm_share": statistics.median(shares),
        "gemm_share_spread": [min(shares), max(shares)],
        "operations": counted,
        "peak_gflops": statistics.median(peaks) / 1e9,
        "losses": dict(losses),
    }


def table(found: Mapping[str, Any], batch: Batch) -> str:
    """The figures for people."""
    lines = [
        f"{len(batch.pairs)} pairs: {batch.packed_tokens} tokens packed, {batch.padded_tokens} padded, "
        f"{batch.completion_tokens} in completions",
        f"{'adapters on':<12} {'ours':>8} {'TRL live':>9} {'precomp.':>9} {'ratio live':>22} {'ratio precomputed':>22} "
        f"{'gemm share':>11}",
    ]
    for name in PLACEMENTS:
        row = found[name]
        ratios = [f"{row[f'ratio_{w}']:.2f} [{row[f'spread_{w}'][0]:.2f}, {row[f'spread_{w}'][1]:.2f}]"
                  for w in ("live", "precomputed")]  # fmt: skip
        lines.append(
            f"{name.replace('_', ' '):<12} {row['ours_s']:>7.2f}s {row['trl_live_s']:>8.2f}s "
            f"{row['trl_precomputed_s']:>8.2f}s {ratios[0]:>22} {ratios[1]:>22} {row['gemm_share']:>11.2f}"
        )
        losses = ", ".join(f"{side} {value:.6f}" for side, value in row["losses"].items())
        work = f"{row['operations'] / 1e9:.0f} GFLOP at a peak of {row['peak_gflops']:.0f} GFLOP/s"
        parts = ", ".join(f"{part} {value:.2f} s" for part, value in row["parts_s"].items())
        lines += [f"  loss: {losses}", f"  ours: {work}; in a profile {parts}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the bundled model, or a folder")
    parser.add_argument("--data", type=Path, default=Path("data/preferences_v14_100pairs.jsonl"), help="pairs")
    parser.add_argument("--pairs", type=int, default=4, help="how many of them make the batch (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    base = load_base(options.model, Path())
    batch = batch_of(base, read_pairs(options.data, DOMAINS)[: options.pairs])
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {
            name: measure(base, layers, batch, options.rounds, Path(folder)) for name, layers in PLACEMENTS.items()
        }
    found["gemm_share"] = min(found[name]["gemm_share"] for name in PLACEMENTS)
    print(json.dumps(found) if options.json else table(found, batch))


if __name__ == "__main__":
    main()
