"""The memory estimate of `--plan` against what torch holds at the peak of a training step.

python tests/benchmarks/memory_estimate.py [--large]: SmolLM2-135M; with --large also a random Qwen2 of 0.5B shape,
which needs 5 GB and some minutes. Figures are in docs/operations.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from phasegpt.bundled import ensure_bundled
from phasegpt.config_io import load_config, track_config
from phasegpt.models import LoraSettings, attach_policy, load_base
from tests.live_memory import peak_of_step, tokens_of
from tests.toy import build_toy_model
from tune.memory import estimate
from tune.shapes import read_shape

CASES = (("dpo", False, 2, 128), ("dpo", False, 4, 256), ("kto", False, 2, 128), ("dpo", True, 4, 256))


def large_model(folder: Path) -> Path:
    """Random weights in the shape of Qwen2.5-0.5B."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    build_toy_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def row(folder: Path, method: str, checkpointing: bool, pairs: int, length: int) -> str:
    """One line: what torch holds, and the estimate of it."""
    weight = "0.1" if method == "kto" else "null"
    sets = ["model.lora_config.layers_to_transform=null", "model.lora_config.lora_dropout=0.0"]
    sets += [f"training.method={method}", f"training.kto_lambda={weight}", "evaluation.metrics=[eval_loss]"]
    sets += ["evaluation.metric_for_best_model=eval_loss", "search.parameters={}", "search.constraints={}"]
    sets += [f"model.use_gradient_checkpointing={str(checkpointing).lower()}"]
    config = load_config(track_config("a"), "laptop", sets)
    lora = config.model.lora_config
    settings = LoraSettings(lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules)
    policy = attach_policy(load_base(str(folder), Path("/")), settings, seed=0, gradient_checkpointing=checkpointing)
    live = peak_of_step(policy, pairs, length, with_divergence=method == "kto") / 1e9
    found = estimate(config, read_shape(folder / "config.json"), *tokens_of(pairs, length))
    policy.detach()
    apart = found.live / 1e9 / live - 1
    name = f"{method}{', checkpointed' if checkpointing else ''}"
    return f"| {folder.name} | {name} | {2 * pairs} x {length} | {live:.2f} | {found.live / 1e9:.2f} | {apart:+.1%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    print("| model | method | answers x tokens | live GB | estimate | apart |\n|---|---|---|---|---|---|")
    for case in CASES:
        print(row(ensure_bundled(), *case), flush=True)
    if options.large:
        with tempfile.TemporaryDirectory() as place:
            print(row(large_model(Path(place)), "dpo", False, 2, 128), flush=True)


if __name__ == "__main__":
    main()
