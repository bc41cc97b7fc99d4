"""Preference metrics: rows worked by hand, and the same rows whatever the batch."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt.forward import PairModel
from phasegpt.metrics.declared import DECLARED
from phasegpt.metrics.preference import NAMES, pair_rows
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base
from phasegpt.objectives import PairOutputs
from phasegpt.pairs import Pair, read_pairs
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.shared_work import SharedWork
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:5]


@pytest.fixture
def policy(toy_model_dir: Path) -> Iterator[Policy]:
    base = load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)
    policy = attach_policy(base, LoraSettings(4, 8, 0.5, ("q_proj", "v_proj")), seed=1)
    yield policy
    policy.detach()


@pytest.fixture
def shared(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> SharedWork:
    return prepare(SharedStore(tmp_path), policy, pairs, Lengths(512, 256))


def move(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def rows_of(policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...], batch_size: int = 2) -> list[dict[str, Any]]:
    ids = [pair.id for pair in pairs]
    return list(pair_rows(PairModel(policy), shared, ids, 0.5, batch_size, with_kl=True))


def test_the_names_are_the_declared_metrics_of_pairs() -> None:
    assert set(NAMES) == {name for name, metric in DECLARED.items() if metric.of == "pair"}


def test_the_reference_itself_has_no_margin_no_divergence_and_a_loss_of_ln_2(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...]
) -> None:
    rows = rows_of(policy, shared, pairs)
    assert [row["id"] for row in rows] == [pair.id for pair in pairs]
    for row in rows:
        assert row["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert row["reward_margin"] == pytest.approx(0, abs=1e-4)
        assert row["kl_divergence"] == pytest.approx(0, abs=1e-6)


def test_loss_accuracy_and_margin_of_a_row_agree(policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...]) -> None:
    move(policy)
    rows = rows_of(policy, shared, pairs)
    assert {row["reward_accuracy"] for row in rows} == {0.0, 1.0}
    for row in rows:
        assert row.keys() == {"id", *NAMES}
        assert row["eval_loss"] == pytest.approx(math.log1p(math.exp(-row["reward_margin"])), rel=1e-6)
        assert row["reward_accuracy"] == float(row["reward_margin"] > 0)
        assert row["kl_divergence"] > 0


def test_the_batch_size_changes_no_row(policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...]) -> None:
    move(policy)
    one, five = rows_of(policy, shared, pairs, 1), rows_of(policy, shared, pairs, 5)
    for alone, together in zip(one, five, strict=True):
        assert alone.pop("id") == together.pop("id")
        assert together == pytest.approx(alone, rel=1e-9)


class Scripted:
    """A model whose outputs are known: two pairs, the first without any margin."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def eval(self) -> None:
        """Nothing to switch."""

    def __call__(self, batch: Any, with_kl: bool) -> Any:
        return PairOutputs(
            policy_chosen_logps=torch.tensor([-1.0, -10.0]),
            policy_rejected_logps=torch.tensor([-2.0, -12.0]),
            reference_chosen_logps=torch.tensor([-1.0, -11.0]),
            reference_rejected_logps=torch.tensor([-2.0, -11.0]),
            completion_tokens=torch.ones(4),
            divergences=torch.tensor([0.1, 0.2, 0.3, 0.6]) if with_kl else None,
        )


def test_rows_worked_by_hand_with_half_a_point_for_no_margin(
    policy: Policy, shared: SharedWork, pairs: tuple[Pair, ...]
) -> None:
    model: Any = Scripted(policy)
    ids = [pair.id for pair in pairs[:2]]
    first, second = pair_rows(model, shared, ids, 0.5, 2, with_kl=True)
    assert first == {
        "id": ids[0],
        "eval_loss": pytest.approx(0.693147, abs=1e-6),
        "reward_margin": 0.0,
        "reward_accuracy": 0.5,
        "kl_divergence": pytest.approx(0.2),
    }
    assert second["eval_loss"] == pytest.approx(0.313262, abs=1e-6)
    assert (second["reward_margin"], second["reward_accuracy"]) == (1.0, 1.0)
    assert second["kl_divergence"] == pytest.approx(0.4)
    assert "kl_divergence" not in next(pair_rows(model, shared, ids, 0.5, 2, with_kl=False))
