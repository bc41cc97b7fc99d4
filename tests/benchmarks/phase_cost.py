"""What the phase branch costs beside the decoder layer that carries it: operations counted, and seconds measured.

A layer of the named sizes with random weights, one sequence of 256 to 4,096 tokens, float32, without gradient, on one
thread. Matrix products count two operations a multiplication; everything else counts one for each number that it
writes, and PyTorch's fused attention is counted so too, which makes the layer look cheaper than it is. A minute or two:
`python tests/benchmarks/phase_cost.py`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaModel

from phasegpt.phase_attention import KuramotoBranch

LENGTHS = (256, 512, 1024, 2048, 4096)
REPEATS = 15


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder layer, and the oscillators that its track gives the branch."""

    name: str
    hidden: int
    inner: int
    heads: int
    key_value_heads: int
    oscillators: int


SMOLLM2 = Sizes("SmolLM2-135M", 576, 1536, 9, 3, 32)
QWEN = Sizes("Qwen2.5-0.5B", 896, 4864, 14, 2, 32)
QWEN_LARGE = Sizes("Qwen2.5-1.5B", 1536, 8960, 12, 2, 48)


class Counter(TorchDispatchMode):
    """Counts the operations of what runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.operations += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        elif not func.is_view:
            self.operations += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


@torch.no_grad()
def operations(run: Callable[[], Any]) -> int:
    """How many operations a call takes."""
    with Counter() as counter:
        run()
    return counter.operations


def branch_run(sizes: Sizes, tokens: int) -> Callable[[], Any]:
    """A forward pass of a branch over one sequence."""
    torch.manual_seed(0)
    branch, hidden = KuramotoBranch(sizes.hidden, sizes.oscillators), torch.randn(1, tokens, sizes.hidden)
    nn.init.normal_(branch.gate)
    return lambda: branch(hidden)


def layer_run(sizes: Sizes, tokens: int) -> Callable[[], Any]:
    """A forward pass of a decoder layer over one sequence."""
    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=8,
            num_hidden_layers=1,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.inner,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.key_value_heads,
            max_position_embeddings=max(LENGTHS),
        )
    ).eval()
    hidden = torch.randn(1, tokens, sizes.hidden)
    rotary = model.rotary_emb(hidden, torch.arange(tokens)[None])
    return lambda: model.layers[0](hidden, position_embeddings=rotary)


@torch.no_grad()
def seconds(*runs: Callable[[], Any]) -> list[float]:
    """The least of REPEATS calls of each, taken in turn: what else runs on the machine can only add."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, times in zip(runs, taken, strict=True):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return [min(times) for times in taken]


def rows(sizes: Sizes) -> Iterator[str]:
    """A line for each length: operations and milliseconds of the branch, and its share of the layer's."""
    first = None
    for tokens in LENGTHS:
        branch, layer = branch_run(sizes, tokens), layer_run(sizes, tokens)
        counted, of_layer = operations(branch), operations(layer)
        taken, layer_taken = seconds(branch, layer)
        first = first or taken / tokens
        yield (
            f"| {sizes.name} | {tokens} | {counted / 1e6:.1f} M | {counted / of_layer:.2%} | {taken * 1e3:.2f} ms | "
            f"{taken / layer_taken:.2%} | {taken / tokens / first:.2f} |"
        )


def main() -> None:
    torch.set_num_threads(1)
    print("| layer of | tokens | branch operations | of the layer's | branch time | of the layer's | a token, to 256 |")
    print("|---|---|---|---|---|---|---|")
    for sizes in (SMOLLM2, QWEN, QWEN_LARGE):
        for row in rows(sizes):
            print(row, flush=True)


if __name__ == "__main__":
    main()
