"""The divergence on the policy's own answers: against a plain loop in float64, and the same whatever the batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from phasegpt.adapters import PhaseSettings
from phasegpt.evaluate import Answer, answer_prompts
from phasegpt.metrics.samples import sample_divergences
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base

pytestmark = pytest.mark.usefixtures("one_thread")

PHASE = PhaseSettings((1,), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
PROMPTS = ["Tell of the river.", "What can a clock teach about an old song in case 7?", "A lamp?", "Tell of a lamp."]


@pytest.fixture(params=[None, PHASE], ids=["adapter", "adapter and branch"])
def policy(toy_model_dir: Path, request: pytest.FixtureRequest) -> Iterator[Policy]:
    base = load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)
    policy = attach_policy(base, LoraSettings(4, 8, 0.5, ("q_proj", "v_proj")), seed=1, phase=request.param)
    yield policy
    policy.detach()


def move(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def divergences(policy: Policy, answers: list[Answer], batch_size: int = 4) -> list[float]:
    return sample_divergences(policy, [a.prompt_ids for a in answers], [a.ids for a in answers], batch_size)


def by_hand(policy: Policy, answer: Answer) -> float:
    """Σ_v π (log π − log π_ref) at each place of the answer alone, then the mean."""
    ids = torch.tensor([answer.prompt_ids + answer.ids])
    with torch.no_grad():
        own = torch.log_softmax(policy.model.eval()(input_ids=ids).logits[0], -1)
    with policy.as_reference():
        reference = torch.log_softmax(policy.model(input_ids=ids).logits[0], -1)
    first = len(answer.prompt_ids) - 1
    values = [(own[t].exp() * (own[t] - reference[t])).sum() for t in range(first, ids.shape[1] - 1)]
    assert len(values) == len(answer.ids)
    return float(sum(values) / len(values))


def test_an_untrained_policy_has_none(policy: Policy) -> None:
    found = divergences(policy, answer_prompts(policy, PROMPTS, max_new_tokens=12))
    assert found == pytest.approx([0.0] * 4, abs=1e-12)


def test_it_is_the_mean_over_the_answers_tokens_of_the_sum_over_the_vocabulary(policy: Policy) -> None:
    move(policy)
    answers = answer_prompts(policy, PROMPTS, max_new_tokens=12)
    found = divergences(policy, answers)
    assert found == pytest.approx([by_hand(policy, answer) for answer in answers], rel=1e-9)
    assert min(found) > 1e-4


def test_batch_order_and_padding_change_nothing(policy: Policy) -> None:
    move(policy)
    answers = answer_prompts(policy, PROMPTS, max_new_tokens=12)
    shortened = [Answer(a.prompt_ids, a.ids[: 1 + 3 * n], "", False) for n, a in enumerate(answers)]
    together = divergences(policy, shortened)
    assert divergences(policy, shortened, batch_size=1) == pytest.approx(together, rel=1e-9)
    assert divergences(policy, shortened[::-1], batch_size=3) == pytest.approx(together[::-1], rel=1e-9)


def test_no_answers_give_no_values_and_no_gradient_is_left(policy: Policy) -> None:
    assert divergences(policy, []) == []
    divergences(policy, answer_prompts(policy, PROMPTS[:1], max_new_tokens=2))
    assert all(parameter.grad is None for parameter in policy.trainable().values())
