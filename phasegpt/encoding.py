"""Answers as token ids: the chat template, truncation that keeps the answer, and padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from phasegpt.pairs import Pair, UnpairedRow

Tokens = tuple[int, ...]
Group = tuple[Tokens, ...]
"""A prompt of at least one token, then its completions."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of one pair. A sequence is prompt + completion; `cut_tokens` counts what truncation took away."""

    id: str
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    cut_tokens: int

    @property
    def group(self) -> Group:
        """The prompt with both answers, the chosen one first."""
        return self.prompt, self.chosen, self.rejected


@dataclass(frozen=True)
class EncodedAnswer:
    """Token ids of one unpaired answer; the fields mean what they mean in `EncodedPair`."""

    id: str
    prompt: Tokens
    completion: Tokens
    cut_tokens: int

    @property
    def group(self) -> Group:
        """The prompt with its answer."""
        return self.prompt, self.completion


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A user's turn up to where the assistant's answer begins."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def completion_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> list[int]:
    """The assistant's answer with the template's end of turn: what the whole dialogue has beyond its prompt."""
    user = {"role": "user", "content": prompt}
    head = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, {"role": "assistant", "content": completion}], tokenize=False)
    if not whole.startswith(head):
        raise ValueError("the chat template rewrites the prompt once an answer follows; such templates cannot be used")
    return list(tokenizer(whole[len(head) :], add_special_tokens=False)["input_ids"])


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair, max_length: int, max_prompt_length: int) -> EncodedPair:
    """Encode a pair.

    A prompt over `max_prompt_length` loses its beginning, an answer over the room left loses its end. Raises
    ValueError where `max_length` leaves no room for an answer.
    """
    answers = (pair.chosen, pair.rejected)
    prompt, (chosen, rejected), cut = _fitted(tokenizer, pair.prompt, answers, max_length, max_prompt_length)
    return EncodedPair(pair.id, prompt, chosen, rejected, cut)


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, row: UnpairedRow, max_length: int, max_prompt_length: int
) -> EncodedAnswer:
    """Encode an unpaired answer; truncation and errors as in `encode_pair`."""
    prompt, (completion,), cut = _fitted(tokenizer, row.prompt, (row.completion,), max_length, max_prompt_length)
    return EncodedAnswer(row.id, prompt, completion, cut)


def _fitted(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[str], max_length: int, max_prompt_length: int
) -> tuple[Tokens, list[Tokens], int]:
    """A prompt and its answers within the lengths, and how many tokens that took."""
    whole = prompt_ids(tokenizer, prompt)
    kept_prompt = whole[-max_prompt_length:]
    room = max_length - len(kept_prompt)
    if room < 1:
        raise ValueError(
            f"training.max_length {max_length} leaves no room for an answer behind {len(kept_prompt)} prompt tokens"
        )
    completions = [completion_ids(tokenizer, prompt, text) for text in answers]
    kept = [tuple(completion[:room]) for completion in completions]
    cut = len(whole) - len(kept_prompt) + sum(len(c) - len(k) for c, k in zip(completions, kept, strict=True))
    return tuple(kept_prompt), kept, cut


def pad(sequences: Sequence[Sequence[int]], pad_id: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and attention mask [B, T] of sequences padded to the longest."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence, dtype=torch.long)
        mask[row, place] = 1
    return ids, mask
