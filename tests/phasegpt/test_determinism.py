"""Which kernels torch may take: a run's own choice, whatever the run before it in the same process chose."""

import os
from collections.abc import Iterator

import pytest
import torch

from phasegpt.determinism import FIXED, WORKSPACE, choose_kernels


@pytest.fixture(autouse=True)
def own_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test chooses ends with it."""
    before = torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv(WORKSPACE, raising=False)
    yield
    torch.use_deterministic_algorithms(before)


def test_a_run_on_a_gpu_takes_the_kernels_it_asks_for_and_the_next_one_its_own() -> None:
    choose_kernels("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == FIXED
    choose_kernels("cuda", deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_workspace_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    choose_kernels("cuda", deterministic=True)
    assert os.environ[WORKSPACE] == ":16:8"


def test_a_run_on_a_cpu_changes_nothing() -> None:
    choose_kernels("cpu", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ
