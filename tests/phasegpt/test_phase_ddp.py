"""The branch under DistributedDataParallel: two processes with a row each train as one process with both rows."""

from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from phasegpt.adapters import PhaseSettings
from phasegpt.models import LoraSettings, Policy, attach_policy, load_base
from tests.phasegpt.decoders import IDS
from tests.phasegpt.workers import on_two

PHASE = PhaseSettings((1, 2), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
MASK = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])


def open_policy(folder: str, *, checkpointing: bool) -> Policy:
    """The toy model in float64 under LoRA with open branches, ready to train; the same in every process."""
    base = load_base(folder, Path("/"), dtype=torch.float64)
    policy = attach_policy(base, LORA, seed=0, phase=PHASE, gradient_checkpointing=checkpointing)
    torch.manual_seed(1)
    for parameter in policy.trainable().values():
        nn.init.normal_(parameter, std=0.3)
    policy.model.train()
    return policy


def gradients(policy: Policy, model: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Of the mean over these rows of each row's mean square of visible logits."""
    visible = MASK[rows, :, None]
    logits = model(input_ids=IDS[rows], attention_mask=MASK[rows], use_cache=False).logits
    ((logits.square() * visible).sum((1, 2)) / visible.sum((1, 2))).mean().backward()
    return {name: p.grad for name, p in policy.trainable().items() if p.grad is not None}


def worker(folder: str) -> dict[str, Tensor]:
    """What one of two processes finds of its row, with its activations computed twice."""
    rank, policy = distributed.get_rank(), open_policy(folder, checkpointing=True)
    return gradients(policy, nn.parallel.DistributedDataParallel(policy.model), slice(rank, rank + 1))


def test_two_processes_with_checkpointed_activations_train_the_branch_as_one(toy_model_dir: Path) -> None:
    first, second = on_two(worker, str(toy_model_dir))
    policy = open_policy(str(toy_model_dir), checkpointing=False)
    expected = gradients(policy, policy.model, slice(0, 2))
    assert expected.keys() == first.keys() == policy.trainable().keys()
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-12, rtol=1e-9)
        assert value.abs().sum() > 0
