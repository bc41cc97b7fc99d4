"""Token ids: nothing of the template lost, nothing cut uncounted, nothing padded into the sequence."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from phasegpt.answers import answers_of
from phasegpt.encoding import (
    EncodedPair,
    completion_ids,
    encode_answer,
    encode_pair,
    pad,
    prompt_ids,
)
from phasegpt.pairs import Pair, read_pairs
from tests.toy import DOMAINS


@pytest.fixture(scope="module")
def tokenizer(toy_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(toy_model_dir)


@pytest.fixture(scope="module")
def pair(toy_pairs_file: Path) -> Pair:
    return read_pairs(toy_pairs_file, DOMAINS)[0]


def test_prompt_and_completion_together_are_the_whole_template(tokenizer: Any, toy_pairs_file: Path) -> None:
    for pair in read_pairs(toy_pairs_file, DOMAINS):
        dialogue = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.chosen}]
        whole = tokenizer.apply_chat_template(dialogue, tokenize=False)
        ids = prompt_ids(tokenizer, pair.prompt) + completion_ids(tokenizer, pair.prompt, pair.chosen)
        assert tokenizer.decode(ids) == whole
        assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_a_completion_ends_with_the_templates_end_of_turn(tokenizer: Any, pair: Pair) -> None:
    completion = tokenizer.decode(completion_ids(tokenizer, pair.prompt, pair.chosen))
    assert completion == f"{pair.chosen}<|im_end|>\n"
    assert tokenizer.decode(prompt_ids(tokenizer, pair.prompt)).endswith("<|im_start|>assistant\n")


def test_a_template_that_rewrites_the_prompt_is_refused(toy_model_dir: Path, pair: Pair) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_model_dir)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="the chat template rewrites the prompt"):
        completion_ids(tokenizer, pair.prompt, pair.chosen)


def test_a_pair_that_fits_is_whole(tokenizer: Any, pair: Pair) -> None:
    encoded = encode_pair(tokenizer, pair, max_length=512, max_prompt_length=256)
    assert encoded == EncodedPair(
        id=pair.id,
        prompt=tuple(prompt_ids(tokenizer, pair.prompt)),
        chosen=tuple(completion_ids(tokenizer, pair.prompt, pair.chosen)),
        rejected=tuple(completion_ids(tokenizer, pair.prompt, pair.rejected)),
        cut_tokens=0,
    )


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_its_end_and_both_are_counted(
    tokenizer: Any, pair: Pair
) -> None:
    whole = encode_pair(tokenizer, pair, max_length=512, max_prompt_length=256)
    cut = encode_pair(tokenizer, pair, max_length=20, max_prompt_length=12)
    assert cut.prompt == whole.prompt[-12:]
    assert cut.chosen == whole.chosen[:8]
    assert cut.rejected == whole.rejected[:8]
    lost = len(whole.prompt) - 12 + len(whole.chosen) - 8 + len(whole.rejected) - 8
    assert cut.cut_tokens == lost > 0


def test_an_answer_may_use_the_room_that_a_short_prompt_leaves(tokenizer: Any, pair: Pair) -> None:
    whole = encode_pair(tokenizer, pair, max_length=512, max_prompt_length=256)
    room = max(len(whole.chosen), len(whole.rejected))
    assert encode_pair(tokenizer, pair, len(whole.prompt) + room, 256) == whole
    assert encode_pair(tokenizer, pair, len(whole.prompt) + room - 1, 256).cut_tokens > 0


def test_a_prompt_that_leaves_no_room_for_an_answer_is_an_error(tokenizer: Any, pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"training\.max_length 5 leaves no room for an answer behind 5 prompt tokens"):
        encode_pair(tokenizer, pair, max_length=5, max_prompt_length=5)


@pytest.mark.parametrize("lengths", [(512, 256), (20, 12)], ids=["whole", "cut"])
def test_an_answer_alone_is_encoded_as_in_its_pair(tokenizer: Any, pair: Pair, lengths: tuple[int, int]) -> None:
    both = encode_pair(tokenizer, pair, *lengths)
    chosen, rejected = (encode_answer(tokenizer, answer, *lengths) for answer in answers_of([pair]))
    assert (chosen.id, rejected.id) == (f"{pair.id}-chosen", f"{pair.id}-rejected")
    assert (chosen.prompt, chosen.completion, rejected.completion) == (both.prompt, both.chosen, both.rejected)
    prompt_cut = len(prompt_ids(tokenizer, pair.prompt)) - len(both.prompt)
    assert chosen.cut_tokens + rejected.cut_tokens - prompt_cut == both.cut_tokens


def test_padding_goes_right_or_left_and_is_masked() -> None:
    ids, mask = pad([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = pad([[5, 6, 7], [8]], pad_id=9, left=True)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
