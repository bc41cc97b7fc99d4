"""A plain text to fine-tune on: blocks of tokens without a chat template, cut one after another from its beginning.

Knows nothing of configs or of the training loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from phasegpt.encoding import Group, Tokens
from phasegpt.forward import TextModel
from phasegpt.models import Policy
from phasegpt.objectives import sft_loss
from phasegpt.packing import pack
from phasegpt.shared_store import Encoded, Passages, Progress, SharedStore
from phasegpt.shared_work import SharedWork


class TextError(ValueError):
    """A text that cannot be trained on; the message names the file and the cure."""


@dataclass(frozen=True)
class Block:
    """A stretch of a text, `id` telling where: block-0 is its beginning."""

    id: str
    tokens: Tokens

    @property
    def group(self) -> Group:
        """Its first token as a prompt, the others as the completion."""
        return self.tokens[:1], self.tokens[1:]


@dataclass(frozen=True)
class Blocks:
    """A text as blocks to train on and blocks to judge by. `cut_tokens` at its end made no whole block."""

    train: tuple[Block, ...]
    val: tuple[Block, ...]
    cut_tokens: int


def read_blocks(path: Path, tokenizer: PreTrainedTokenizerBase, length: int, val_split: float, seed: int) -> Blocks:
    """The blocks of `length` tokens of a UTF-8 text; of them a seeded share `val_split`, at least one, goes to val.

    Raises TextError where the text is no UTF-8 or has less than one block to train on and one to judge by.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(ids) // length
    if count < 2:
        raise TextError(
            f"{path}: {len(ids)} tokens; expected at least {2 * length}, a block of training.max_length ({length}) to "
            f"train on and one to judge by; give a longer text or lower training.max_length"
        )
    blocks = [Block(f"block-{n}", tuple(ids[n * length : (n + 1) * length])) for n in range(count)]
    held_out = min(count - 1, max(1, round(count * val_split)))
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    val = set(drawn[:held_out].tolist())
    return Blocks(
        tuple(block for n, block in enumerate(blocks) if n not in val),
        tuple(block for n, block in enumerate(blocks) if n in val),
        len(ids) - count * length,
    )


@dataclass(frozen=True)
class TextExamples:
    """Blocks of a text, for a `TextModel`, with their shared work. Every token but a block's first is learned."""

    blocks: Sequence[Block]
    shared: SharedWork | None = None

    def __len__(self) -> int:
        return len(self.blocks)

    def batch(self, numbers: Sequence[int], whole: Sequence[int] | None = None) -> dict[str, Tensor]:
        """A packed batch of S blocks."""
        blocks = [self.blocks[number] for number in numbers]
        if self.shared is not None:
            return self.shared.answers([block.id for block in blocks], with_hidden=False)
        return pack([block.group for block in blocks])

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """`TextOutputs`."""
        return model(batch)

    def names(self, numbers: Sequence[int]) -> list[str]:
        """The blocks."""
        return [self.blocks[number].id for number in numbers]


def share_blocks(
    store: SharedStore, policy: Policy, blocks: Sequence[Block], data: str, on_progress: Progress | None
) -> SharedWork | None:
    """The trunk's output for all blocks of a text, where there is a trunk; `data` is the text's hash."""
    if not policy.trunk_depth:
        return None
    ordered = sorted(blocks, key=lambda block: block.id)  # under every seed the same, however they were split
    encoded = Encoded([block.group for block in ordered], [(block.id,) for block in ordered])
    content = ("blocks", data, str(len(blocks[0].tokens)))
    return store.open(policy, Passages(content, lambda: encoded), on_progress, with_hidden=False)


def block_rows(policy: Policy, examples: TextExamples, batch_size: int) -> Iterator[dict[str, float | str]]:
    """One row a block, without gradient. eval_loss is the mean of −log π over its tokens, in nats; lower is better."""
    model = TextModel(policy).eval()
    for begin in range(0, len(examples), batch_size):
        numbers = range(begin, min(begin + batch_size, len(examples)))
        batch = {name: value.to(policy.head.device) for name, value in examples.batch(numbers).items()}
        with torch.no_grad():
            outputs = model(batch)
        losses = sft_loss(outputs.policy_logps, outputs.completion_tokens)
        for number, loss in zip(numbers, losses.tolist(), strict=True):
            yield {"id": examples.blocks[number].id, "eval_loss": loss}
