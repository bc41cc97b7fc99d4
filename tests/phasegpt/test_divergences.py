"""The divergences against numbers worked by hand, finite differences, and one pass over all tokens."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phasegpt.divergences import KINDS, divergence, token_statistics

TOKENS, WIDTH, VOCABULARY = 11, 6, 9


def logits(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "value"), [("kl", 0.130812), ("reverse_kl", 0.143841), ("js_divergence", 0.033823)])
def test_three_quarters_to_one_quarter_against_evens_is_worked_by_hand(kind: str, value: float) -> None:
    policy, reference = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
    assert divergence(policy, reference, kind).item() == pytest.approx(value, abs=1e-6)


def test_the_temperature_divides_both_logits() -> None:
    policy, reference = torch.tensor([2 * math.log(3), 0.0]), torch.tensor([0.0, 0.0])
    assert divergence(policy, reference, "kl", temperature=2.0).item() == pytest.approx(0.130812, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.sampled_from(KINDS))
def test_a_divergence_is_not_negative_and_zero_between_equals(seed: int, temperature: float, kind: str) -> None:
    policy, reference = logits(5, 30, seed=seed), logits(5, 30, seed=seed + 1)
    values = divergence(policy, reference, kind, temperature)
    assert values.shape == (5,)
    assert (values > 0).all()
    assert divergence(policy, policy + 3.0, kind, temperature).abs().max() < 1e-14


def test_forward_and_reverse_are_each_others_mirror_and_js_is_symmetric_and_below_ln_2() -> None:
    policy, reference = logits(50, 8, seed=0) * 20, logits(50, 8, seed=1) * 20
    assert torch.equal(divergence(policy, reference, "kl"), divergence(reference, policy, "reverse_kl"))
    js = divergence(policy, reference, "js_divergence")
    torch.testing.assert_close(js, divergence(reference, policy, "js_divergence"))
    assert js.max() <= math.log(2) + 1e-14
    assert js.max() > 0.69


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences_and_none_reaches_the_reference(kind: str) -> None:
    policy, reference = logits(3, 7, seed=0).requires_grad_(), logits(3, 7, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x, reference, kind, 1.5), (policy,))
    own, others = torch.autograd.grad(divergence(policy, reference, kind).sum(), (policy, reference), allow_unused=True)
    assert own.abs().sum() > 0
    assert others is None


@pytest.mark.parametrize("kind", ["forward_kl", "KL", ""])
def test_another_kind_is_an_error_that_lists_the_kinds(kind: str) -> None:
    with pytest.raises(ValueError, match=f"unknown divergence '{kind}': expected one of kl, reverse_kl, js_divergence"):
        divergence(torch.zeros(2), torch.zeros(2), kind)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_an_error(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, found"):
        divergence(torch.zeros(2), torch.zeros(2), "kl", temperature)


def run(with_reference: bool = True, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probs, divergences and the gradient of their sum on the hidden states."""
    hidden = logits(TOKENS, WIDTH, seed=seed).requires_grad_()
    targets = torch.arange(TOKENS) % VOCABULARY
    head, reference = logits(VOCABULARY, WIDTH, seed=1), logits(TOKENS, WIDTH, seed=2)
    logps, values = token_statistics(hidden, targets, head, reference if with_reference else None, **options)
    [gradient] = torch.autograd.grad(logps.sum() + (0 if values is None else values.sum()), hidden)
    return logps.detach(), values, gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 4, 11, 12])
def test_chunks_change_neither_values_nor_gradients(kind: str, chunk: int) -> None:
    whole = run(kind=kind, temperature=2.0)
    for expected, found in zip(whole, run(kind=kind, temperature=2.0, chunk_tokens=chunk), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_statistics_are_those_of_full_logits() -> None:
    hidden, targets = logits(TOKENS, WIDTH, seed=0), torch.arange(TOKENS) % VOCABULARY
    head, reference = logits(VOCABULARY, WIDTH, seed=1), logits(TOKENS, WIDTH, seed=2)
    logps, values, _ = run(chunk_tokens=3)
    expected = torch.log_softmax(hidden @ head.T, -1)[torch.arange(TOKENS), targets]
    torch.testing.assert_close(logps, expected)
    torch.testing.assert_close(values, divergence(hidden @ head.T, reference @ head.T, "kl"))


def test_without_a_reference_there_are_log_probs_alone() -> None:
    logps, values, _ = run(with_reference=False)
    assert values is None
    assert torch.equal(logps, run()[0])


def test_no_gradient_reaches_the_head_or_the_reference() -> None:
    hidden = logits(TOKENS, WIDTH, seed=0).requires_grad_()
    reference = logits(TOKENS, WIDTH, seed=2).requires_grad_()
    _, values = token_statistics(hidden, torch.zeros(TOKENS, dtype=torch.long), logits(3, WIDTH, seed=1), reference)
    assert values is not None
    assert torch.autograd.grad(values.sum(), (hidden, reference), allow_unused=True)[1] is None


def test_half_precision_states_give_float32_statistics() -> None:
    hidden, head = logits(TOKENS, WIDTH, seed=0).bfloat16(), logits(VOCABULARY, WIDTH, seed=1).bfloat16()
    logps, values = token_statistics(hidden, torch.zeros(TOKENS, dtype=torch.long), head, hidden.float())
    assert logps.dtype == torch.float32
    assert values is not None
    assert values.abs().max() == 0


def test_no_tokens_are_no_error() -> None:
    empty = torch.zeros(0, WIDTH)
    logps, values = token_statistics(empty, torch.zeros(0, dtype=torch.long), torch.zeros(VOCABULARY, WIDTH), empty)
    assert values is not None
    assert (len(logps), len(values)) == (0, 0)


@pytest.mark.parametrize("tokens", [TOKENS - 1, TOKENS + 256])
def test_a_reference_with_other_tokens_is_an_error(tokens: int) -> None:
    with pytest.raises(ValueError, match="are not those of the policy's tokens"):
        token_statistics(
            logits(TOKENS, WIDTH, seed=0),
            torch.zeros(TOKENS, dtype=torch.long),
            logits(VOCABULARY, WIDTH, seed=1),
            logits(tokens, WIDTH, seed=2),
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_gradient_of_the_statistics_is_that_of_full_logits(kind: str, temperature: float) -> None:
    hidden, reference = logits(TOKENS, WIDTH, seed=0).requires_grad_(), logits(TOKENS, WIDTH, seed=2)
    head, targets = logits(VOCABULARY, WIDTH, seed=1), torch.arange(TOKENS) % VOCABULARY
    weights = logits(2, TOKENS, seed=3)
    plain_logps = torch.log_softmax(hidden @ head.T, -1)[torch.arange(TOKENS), targets]
    plain = divergence(hidden @ head.T, reference @ head.T, kind, temperature)
    [expected] = torch.autograd.grad((weights[0] * plain_logps + weights[1] * plain).sum(), hidden)
    logps, values = token_statistics(
        hidden, targets, head, reference, kind=kind, temperature=temperature, chunk_tokens=4
    )
    assert values is not None
    torch.testing.assert_close((logps.detach(), values.detach()), (plain_logps.detach(), plain.detach()))
    [found] = torch.autograd.grad((weights[0] * logps + weights[1] * values).sum(), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    hidden = logits(TOKENS, WIDTH, seed=0).requires_grad_()
    logps, _ = token_statistics(hidden, torch.zeros(TOKENS, dtype=torch.long), logits(VOCABULARY, WIDTH, seed=1))
    [gradient] = torch.autograd.grad((logps**2).sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


PEAK = """
import resource, torch
from phasegpt.divergences import token_statistics
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
head = torch.randn(49_152, 32, generator=generator)
hidden = torch.randn(32 * 512, 32, generator=generator).requires_grad_()
reference = torch.randn(32 * 512, 32, generator=generator)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
logps, values = token_statistics(hidden, torch.zeros(32 * 512, dtype=torch.long), head, reference)
(logps.sum() + values.sum()).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_32_sequences_of_512_tokens_at_a_vocabulary_of_49k_stay_under_a_gigabyte() -> None:
    # their logits alone would be 3,072 MiB for the policy and as much for the reference
    shown = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(shown.stdout) < 1000
