"""Tiny decoders of each family that takes a phase branch, and what tests of the branch do with them."""

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from phasegpt.phase_attention import PhaseHandles

FAMILIES = ("llama", "qwen2", "qwen3")
IDS = torch.tensor([[5, 9, 200, 31, 77, 12, 8], [40, 41, 42, 43, 44, 45, 46]])
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def tiny(family: str) -> nn.Module:
    """A tiny float64 model in evaluation mode, drawn from torch's global generator."""
    if family == "llama":
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**SIZES))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))
    return model.double().eval()


def open_gates(handles: PhaseHandles) -> None:
    """Give every gate non-zero values, as after some training."""
    for branch in handles.branches.values():
        nn.init.normal_(branch.gate, std=0.5)


def logits(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    output: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return output
