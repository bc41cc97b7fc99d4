"""Our step and TRL's on the same batch with the same adapters, for the benchmarks: what each does between two updates.

Both run where the base model lies and in its precision, half precision under autocast as their trainers do. They start
from a policy that has moved (a seeded draw for every adapter weight), so that their losses can be held against each
other.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phasegpt.base_model import resolve_base
from phasegpt.encoding import encode_pair
from phasegpt.forward import PairModel
from phasegpt.models import Base, LoraSettings, adapter_layers, attach_policy
from phasegpt.objectives import Dpo
from phasegpt.pairs import Pair
from phasegpt.shared_store import Lengths, SharedStore, prepare

BETA = 0.1
LENGTHS = Lengths(512, 128)
LORA = LoraSettings(16, 32, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"))
Step = Callable[[], float]
"""Forward, loss and backward on the batch, from gradients that are None; gives the loss."""


@dataclass(frozen=True)
class Batch:
    """The pairs of one batch, and how many tokens they have: with each prompt once, in completions, with padding."""

    pairs: Sequence[Pair]
    packed_tokens: int
    completion_tokens: int
    padded_tokens: int


def batch_of(base: Base, pairs: Sequence[Pair]) -> Batch:
    """What a batch of these pairs is made of."""
    encoded = [encode_pair(base.tokenizer, p, LENGTHS.max_length, LENGTHS.max_prompt_length) for p in pairs]
    longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in encoded)
    completions = sum(len(p.chosen) + len(p.rejected) for p in encoded)
    prompts = sum(len(p.prompt) for p in encoded)
    return Batch(pairs, prompts + completions, completions, 2 * len(encoded) * longest)


def moved(trainable: Mapping[str, Tensor]) -> None:
    """Every adapter weight drawn anew, the same on both sides: in the order of the names, which agree but for one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(trainable, key=lambda n: n.replace(".default.", ".policy.")):
            drawn = torch.randn(trainable[name].shape, generator=generator) * 0.02
            trainable[name].copy_(drawn)


def precision_of(base: Base) -> torch.autocast:
    """What a trainer wraps around its forward pass."""
    dtype = base.model.dtype
    return torch.autocast(base.model.device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def our_step(base: Base, layers: str | None, batch: Batch, store: Path) -> Iterator[Step]:
    """Our step: what the reference says, and the trunk where there is one, from shared work."""
    policy = attach_policy(base, _lora(layers), seed=0)
    shared = prepare(SharedStore(store), policy, batch.pairs, LENGTHS, with_hidden=False)
    tensors = {
        name: value.to(base.model.device)
        for name, value in shared.batch([pair.id for pair in batch.pairs], with_hidden=False).items()
    }
    model, objective = PairModel(policy).train(), Dpo(BETA)
    moved(policy.trainable())

    def step() -> float:
        policy.model.zero_grad(set_to_none=True)
        with precision_of(base):
            loss = objective.losses(model(tensors)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    try:
        yield step
    finally:
        policy.detach()


@contextmanager
def trl_step(base: Base, layers: str | None, batch: Batch, *, precomputed: bool) -> Iterator[Step]:
    """The step of TRL's DPOTrainer on a model of its own, its reference live (adapters off) or precomputed."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(base, layers, batch, Path(folder), precomputed)
        inputs = next(iter(trainer.get_train_dataloader()))
        moved({name: p for name, p in trainer.model.named_parameters() if p.requires_grad})
        trainer.model.train()

        def step() -> float:
            trainer.model.zero_grad(set_to_none=True)
            with precision_of(base):
                loss = trainer.compute_loss(trainer.model, inputs)
            loss.backward()
            return float(loss.item())

        yield step


def _trainer(base: Base, layers: str | None, batch: Batch, folder: Path, precomputed: bool) -> Any:
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()
    lora = _lora(layers)
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            resolve_base(base.name, Path()), attn_implementation="sdpa", dtype=base.model.dtype
        ),
        args=DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(batch.pairs),
            beta=BETA,
            max_length=LENGTHS.max_length,
            precompute_ref_log_probs=precomputed,
            use_cpu=base.model.device.type == "cpu",
            bf16=base.model.dtype == torch.bfloat16,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list([_row(pair) for pair in batch.pairs]),
        processing_class=base.tokenizer,
        peft_config=LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            layers_to_transform=_indices(base, layers),
            task_type="CAUSAL_LM",
        ),
    )


def _lora(layers: str | None) -> LoraSettings:
    return LoraSettings(LORA.r, LORA.alpha, LORA.dropout, LORA.target_modules, layers)


def _indices(base: Base, layers: str | None) -> list[int] | None:
    found = adapter_layers(layers, base.model.config.num_hidden_layers)
    return None if found is None else list(found)


def _row(pair: Pair) -> dict[str, Any]:
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {
        "prompt": [{"role": "user", "content": pair.prompt}],
        **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()},
    }
