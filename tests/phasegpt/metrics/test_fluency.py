"""Perplexity: every token scored once, with the context that the windows promise."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from phasegpt.metrics.fluency import _windows, perplexity, prose_of
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def policy(toy_model_dir: Path) -> Iterator[Policy]:
    base = load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)
    policy = attach_policy(base, LoraSettings(4, 8, 0.5, ("q_proj", "v_proj")), seed=1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    yield policy
    policy.detach()


@pytest.fixture(scope="module")
def tokens(policy: Policy) -> list[int]:
    text = "People say the river stays. The facts of a clock push back, for it moves. So the bridge keeps a letter. "
    return list(policy.base.tokenizer(text)["input_ids"]) * 3


def log_prob(policy: Policy, context: list[int], token: int) -> float:
    with torch.no_grad():
        logits = policy.model.eval()(input_ids=torch.tensor([context])).logits[0, -1]
    return float(torch.log_softmax(logits, -1)[token])


def test_in_one_window_it_is_that_of_a_plain_loop_over_tokens(policy: Policy, tokens: list[int]) -> None:
    scores = [log_prob(policy, tokens[:place], tokens[place]) for place in range(1, 30)]
    assert perplexity(policy, prose_of(tokens[:30])) == pytest.approx(math.exp(-sum(scores) / 29), rel=1e-10)


@pytest.mark.parametrize(("window", "stride"), [(16, 12), (10, 3), (40, 39)])
def test_in_many_windows_each_token_sees_its_window_alone(
    policy: Policy, tokens: list[int], window: int, stride: int
) -> None:
    begin, scores = 0, []
    for place in range(1, len(tokens)):
        while place >= begin + window:
            begin += stride
        scores.append(log_prob(policy, tokens[begin:place], tokens[place]))
    expected = math.exp(-sum(scores) / len(scores))
    assert perplexity(policy, prose_of(tokens, window, stride)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("length", [2, 3, 9, 10, 11, 16, 17, 23, 24, 100])
def test_windows_score_each_token_but_the_first_exactly_once(length: int) -> None:
    windows = list(_windows(length, window=10, stride=7))
    scored = [token for _, end, new in windows for token in range(new, end)]
    assert scored == list(range(1, length))
    assert all(end - begin <= 10 for begin, end, _ in windows)
    assert all(new - begin >= 3 for begin, _, new in windows[1:])


def test_a_model_without_any_knowledge_has_the_vocabularys_size(policy: Policy, tokens: list[int]) -> None:
    saved = policy.head.clone()
    with torch.no_grad():
        policy.head.zero_()
    assert perplexity(policy, prose_of(tokens)) == pytest.approx(len(saved))
    with torch.no_grad():
        policy.head.copy_(saved)


def test_a_single_token_is_an_error_and_none_makes_no_windows() -> None:
    with pytest.raises(ValueError, match="needs two tokens of text, found 1"):
        prose_of([5])
    assert prose_of([]).windows == ()


def test_windows_without_overlap_are_an_error_since_their_first_token_would_have_no_context(
    policy: Policy, tokens: list[int]
) -> None:
    with pytest.raises(ValueError, match="a stride from 1 to 15, found 16"):
        prose_of(tokens, window=16, stride=16)
