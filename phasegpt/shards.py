"""FSDP2 on the decoder's layers: each worker holds a part of every layer's weights, and all of the embedding and norm.

A layer is put together while it works. For what workers do apart from each other (answers of different lengths) and for
what is written, `whole` puts all layers together for a while: no worker then waits for another. Checkpoints are the
same as without shards, so that a run goes on with another strategy or another number of workers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from phasegpt import ranks
from phasegpt.models import Policy


def shard_layers(policy: Policy) -> None:
    """Cut every decoder layer's weights, adapters included, into a part a worker. Every worker must call it."""
    decoder: Any = policy.decoder
    # of the model's own device: torch would take the GPUs of a machine also for a run on its CPUs
    mesh = init_device_mesh(policy.head.device.type, (ranks.size(),))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)


def _sharded(policy: Policy) -> list[FSDPModule]:
    decoder: Any = policy.decoder
    return [layer for layer in decoder.layers if isinstance(layer, FSDPModule)]


@contextmanager
def whole(policy: Policy) -> Iterator[None]:
    """Within the block every worker holds all layers, if they are sharded; every worker must come here."""
    layers = _sharded(policy)
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True)
            layer.reshard()


def whole_state(state: Any) -> Any:
    """An optimizer's state with the workers' parts put together; every worker must ask."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, Mapping):
        return {key: whole_state(value) for key, value in state.items()}
    return [whole_state(value) for value in state] if isinstance(state, list) else state


def part_of_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The inverse: of each whole tensor this worker's part, cut as its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    cut = {
        number: {name: part(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": cut}
