"""The memory that torch really holds at the peak of a training step: each storage counted while it lives."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from phasegpt.forward import PairModel
from phasegpt.models import Policy
from phasegpt.objectives import Dpo, PenalisedDpo

PROMPT = 20


class Live(TorchDispatchMode):
    """Within the block `peak` is the most bytes at once of tensors that were made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return made

    def known(self, module: nn.Module) -> None:
        """What is there already, and does not count."""
        self.sizes |= {parameter.untyped_storage()._cdata: 0 for parameter in module.parameters()}

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += self.sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def peak_of_step(policy: Policy, pairs: int, length: int, *, with_divergence: bool) -> float:
    """Bytes: weights and adapters with their gradients and moments, and what a step on such pairs holds beside them."""
    model = PairModel(policy).train()
    trainable = list(policy.trainable().values())
    optimizer = torch.optim.AdamW(trainable)
    step = _step(model, optimizer, with_divergence)
    step(1, PROMPT + 4)
    live = Live()
    live.known(model)
    with live:
        step(pairs, length)
    held = sum(parameter.nbytes for parameter in {id(p): p for p in model.parameters()}.values())
    return held + 2 * sum(parameter.nbytes for parameter in trainable) + live.peak


def tokens_of(pairs: int, length: int) -> tuple[int, int]:
    """The tokens of a packed batch of pairs whose sequences have `length` tokens, and those of completions."""
    completions = 2 * pairs * (length - PROMPT)
    return pairs * PROMPT + completions, completions


def _step(model: PairModel, optimizer: torch.optim.Optimizer, with_divergence: bool) -> Callable[[int, int], None]:
    config = model.policy.base.model.config
    objective = PenalisedDpo(Dpo(0.1), 0.1) if with_divergence else Dpo(0.1)

    def step(pairs: int, length: int) -> None:
        completion = length - PROMPT
        tokens, completions = tokens_of(pairs, length)
        batch = {
            "input_ids": torch.randint(0, config.vocab_size, (tokens,)),
            "lengths": torch.tensor([[PROMPT, completion, completion]] * pairs),
            "reference_logps": torch.zeros(2 * pairs),
            "reference_hidden": torch.randn(completions, config.hidden_size),
            "trunk": torch.randn(tokens, config.hidden_size),
        }
        left_out = [] if with_divergence else ["reference_hidden"]
        left_out += [] if model.policy.trunk_depth else ["trunk"]
        for name in left_out:
            del batch[name]
        objective.losses(model(batch, with_divergence=with_divergence)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
