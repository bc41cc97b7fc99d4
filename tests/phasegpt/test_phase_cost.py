"""The branch's cost by counted operations: linear in the number of tokens, and little beside its layer's."""

import pytest
import torch
from torch import nn

from phasegpt.phase_attention import KuramotoBranch
from tests.benchmarks.phase_cost import QWEN, QWEN_LARGE, SMOLLM2, Sizes, branch_run, layer_run, operations

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_matrix_product_and_a_sum_are_counted_by_hand() -> None:
    """[3, 4] times [4, 5] is 3 · 4 · 5 multiplications and as many additions; its sum writes one number."""
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert operations(lambda: torch.sum(a @ b)) == 2 * 3 * 4 * 5 + 1
    assert operations(lambda: (a @ b).T[:2]) == 2 * 3 * 4 * 5  # a view computes nothing


def test_operations_grow_in_step_with_the_tokens_from_256_to_4096() -> None:
    counted = [operations(branch_run(SMOLLM2, tokens)) for tokens in (256, 512, 1024, 2048, 4096)]
    assert counted[0] > 0
    for operations_now, times in zip(counted, (1, 2, 4, 8, 16), strict=True):
        assert operations_now == pytest.approx(times * counted[0], rel=1e-3)  # beside the state's start


@pytest.mark.parametrize("sizes", [SMOLLM2, QWEN, QWEN_LARGE], ids=lambda sizes: sizes.name)
def test_the_branch_takes_less_than_a_twentieth_of_its_layers_operations(sizes: Sizes) -> None:
    assert 0 < operations(branch_run(sizes, 256)) < 0.05 * operations(layer_run(sizes, 256))


def test_a_token_in_generation_costs_the_same_however_many_came_before() -> None:
    branch, token = KuramotoBranch(SMOLLM2.hidden, SMOLLM2.oscillators), torch.randn(1, 1, SMOLLM2.hidden)
    nn.init.normal_(branch.gate)
    state = branch.start(token)
    counted = []
    for earlier in (1, 30, 500):
        branch(torch.randn(1, earlier, SMOLLM2.hidden), None, state)
        counted.append(operations(lambda: branch(token, None, state)))
    assert len(set(counted)) == 1
