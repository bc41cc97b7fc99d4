"""Memory of a step beside TRL's DPOTrainer: of the loss at two vocabularies, and of a whole trial on SmolLM2-135M.

Each figure is of a process of its own: the highest anonymous memory (RssAnon, sampled every 5 ms) during two steps,
less what was held before the first. Anonymous memory is what a further trial on the machine would need; weights are
mapped files on both sides, of which all processes have one copy. The loss is measured on a model of one layer whose
vocabulary is that of SmolLM2 (49,152) or Qwen2.5 (151,936), 4 pairs of 256 tokens an answer.

    python tests/benchmarks/memory.py            # about four minutes on two cores
    python tests/benchmarks/memory.py --json
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from against_trl import Step, batch_of, our_step, trl_step

SIDES = ("ours", "trl_live", "trl_precomputed")
VOCABULARIES = (49_152, 151_936)
PLACEMENTS = {"all_layers": None, "upper_third": "upper_third"}
DOMAINS = ("philosophy", "science", "social", "artistic")


class Peak:
    """The highest anonymous memory of this process while the block ran, over what it was before, in MiB."""

    def __enter__(self) -> Self:
        self.before = self.highest = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.highest = max(self.highest, anonymous())
            time.sleep(0.005)

    @property
    def grown(self) -> float:
        """MiB."""
        return self.highest - self.before


def anonymous() -> float:
    """MiB of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure(side: str, layers: str | None, model: str, long: bool) -> float:
    """MiB that two steps of one side need; run in a process of its own."""
    import torch

    from phasegpt.models import load_base
    from phasegpt.pairs import Pair, read_pairs

    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    base = load_base(model, Path())
    pairs = read_pairs(Path("data/preferences_v14_100pairs.jsonl"), DOMAINS)[:4]
    if long:  # of one length, so that padding tells nothing
        text = " ".join(("river", "clock", "song", "bridge")[n % 4] for n in range(250))
        pairs = tuple(Pair(p.id, "Why?", text, f"{text} end", p.domain, None, None, p.line) for p in pairs)
    batch = batch_of(base, pairs)
    with (
        tempfile.TemporaryDirectory() as folder,
        step_of(side, base, layers, batch, Path(folder)) as step,
        Peak() as peak,
    ):
        step()
        step()
    return peak.grown


def step_of(side: str, base: Any, layers: str | None, batch: Any, folder: Path) -> AbstractContextManager[Step]:
    if side == "ours":
        return our_step(base, layers, batch, folder)
    return trl_step(base, layers, batch, precomputed=side == "trl_precomputed")


def one_layer(folder: Path, vocabulary: int) -> Path:
    """A Llama of one layer with SmolLM2's width and tokenizer and this vocabulary, random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from phasegpt.base_model import resolve_base

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, eos_token_id=2, pad_token_id=2, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_base("smollm2-135m", Path())).save_pretrained(folder)
    return folder


def in_a_process(side: str, layers: str | None, model: str, long: bool) -> float:
    """`measure` in a new process."""
    print(f"{model}: {side}, adapters on {layers or 'all layers'}", file=sys.stderr)
    command = [sys.executable, __file__, "--side", side, "--model", model]
    command += ["--layers", layers] if layers else []
    shown = subprocess.run([*command, *(["--long"] if long else [])], capture_output=True, text=True, check=True)
    return float(shown.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures for people."""
    lines = [f"{'MiB of a step':<26}" + "".join(f"{side:>18}" for side in SIDES)]
    lines += [f"{name:<26}" + "".join(f"{row[side]:>18.0f}" for side in SIDES) for name, row in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for scripts")
    for hidden in ("--side", "--layers", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(measure(options.side, options.layers, options.model, options.long))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in VOCABULARIES:
            model = str(one_layer(Path(folder) / str(size), size))
            found[f"loss, vocabulary {size:,}"] = {side: in_a_process(side, None, model, True) for side in SIDES}
    for name, layers in PLACEMENTS.items():
        found[f"trial, {name.replace('_', ' ')}"] = {
            side: in_a_process(side, layers, "smollm2-135m", False) for side in SIDES
        }
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
