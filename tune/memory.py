"""How much memory a run needs: what is live at the peak of a training step, part by part. Imports no torch.

Counted are the tensors that torch holds, which on a GPU is what `memory_usage` reads. On CPUs the process itself comes
on top (PROCESS), and the C library's heap keeps what tensors leave between them: see docs/operations.md.

All constants stand here. They were counted from the code of transformers 5.23 and PEFT 0.21 and then measured by
`tests/benchmarks/memory_estimate.py` on SmolLM2-135M and on a Qwen2 of 0.5B shape, float32, on a CPU. On an H200 runs
of SmolLM2 took 0.84 to 0.91 of the estimate.
"""

from dataclasses import dataclass
from fractions import Fraction

from phasegpt.answers import UNPAIRED_METHOD
from phasegpt.config import Config
from phasegpt.metrics.declared import DECLARED
from tune.shapes import Shape

HIDDEN_KEPT, KEY_VALUE_KEPT, INNER_KEPT = 6.5, 3, 3
"""What a layer with adapters keeps of a token for its backward pass, in widths: of the hidden size its input, the
normed input, the queries, the attention's output apart and joined, the middle of the residual; keys and values; gate,
its activation and up; and half as much again of queries, keys and values, which the second answer to a prompt copies.
Measured on SmolLM2: 9,121 to 9,202 numbers a token and layer, all else included, by this count 8,928."""

DROPOUT_KEPT = 2  # of each adapter's input, where dropout is on: the mask and what it leaves
CHECKPOINTED = 1  # with gradient checkpointing a layer keeps its input alone
BACKWARD = 2  # of hidden and inner: gradients and products while a layer goes backward
BLOCK, GPU_BLOCK = (512, 1024), (512, 65_536)
"""Tokens by vocabulary whose logits are made at a time, as in phasegpt/divergences.py."""

BLOCKS, BLOCKS_WITH_DIVERGENCE = 3, 6  # of that many logits, alive at once
TRAINED = 4 * 4  # bytes of a parameter under training: itself, its gradient, two moments; float32 also under bf16
PROCESS = 0.6e9  # Python with torch, transformers and Ray, on a CPU; measured 0.56 to 0.62 GB
JUDGE = 0.37e9  # 18 layers and the embedding of SmolLM2, where a metric asks it
INPUTS = {"down_proj": "inner"}
OUTPUTS = {"k_proj": "key_value", "v_proj": "key_value", "gate_proj": "inner", "up_proj": "inner"}


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker, by part.

    `activations` are kept from the forward to the backward pass, `working` is the larger of the blocks of logits
    between the two and of what one layer needs to go backward, `reference` the reference's states of a micro-batch.
    """

    weights: float
    adapters: float
    activations: float
    working: float
    reference: float
    process: float

    @property
    def live(self) -> float:
        """What torch holds at the peak."""
        return self.weights + self.adapters + self.activations + self.working + self.reference

    @property
    def total(self) -> float:
        """With the process around it."""
        return self.live + self.process


def estimate(config: Config, shape: Shape, tokens: float, completion_tokens: float) -> Memory:
    """The memory of a worker whose largest micro-batch has so many tokens, a prompt once for its answers."""
    training, workers = config.training, config.training.distributed
    number = 2 if training.bf16 or training.fp16 else 4
    shards = workers.workers if workers.enabled else 1
    layers = shape.layers * shape.layer_parameters
    head = shape.vocabulary * shape.hidden
    of_layers = layers / shards if workers.strategy == "fsdp" else layers
    trained = adapter_parameters(config, shape)
    adapters = trained * (TRAINED if workers.strategy == "ddp" else 4 + (TRAINED - 4) / shards)
    kept = kept_of_layer(config, shape)
    again = kept if config.model.use_gradient_checkpointing else 0.0
    one_backward = (again + BACKWARD * (shape.hidden + shape.inner)) * tokens * number
    each = CHECKPOINTED * shape.hidden if config.model.use_gradient_checkpointing else kept
    return Memory(
        weights=(of_layers + head) * number,
        adapters=adapters,
        activations=each * above_trunk(config, shape) * tokens * number,
        working=max(_logits(config, shape, completion_tokens), one_backward),
        reference=_reference(config, shape, tokens, completion_tokens),
        process=PROCESS + (JUDGE if _is_judged(config) else 0.0),
    )


def adapted_layers(config: Config, shape: Shape) -> int:
    """How many layers carry adapters."""
    layers = config.model.lora_config.layers_to_transform
    if layers == "upper_third":
        return max(1, shape.layers // 3)
    return len(layers) if isinstance(layers, tuple) else shape.layers


def above_trunk(config: Config, shape: Shape) -> int:
    """The layers from the lowest adapter or phase branch up: those below are computed once for all trials."""
    layers = config.model.lora_config.layers_to_transform
    adapted = shape.layers - min(layers) if isinstance(layers, tuple) else adapted_layers(config, shape)
    if not config.model.use_phase_attention:
        return adapted
    branches = (i if isinstance(i, int) else int(Fraction(i) * shape.layers) for i in config.model.phase_layer_idx)
    return max(adapted, shape.layers - min(branches))


def adapter_parameters(config: Config, shape: Shape) -> int:
    """The numbers of A and B over all adapted layers; a phase branch adds next to nothing."""
    lora = config.model.lora_config
    widths = {"hidden": shape.hidden, "inner": shape.inner, "key_value": shape.key_value}
    one = sum(widths[INPUTS.get(name, "hidden")] + widths[OUTPUTS.get(name, "hidden")] for name in lora.target_modules)
    return lora.r * one * adapted_layers(config, shape)


def kept_of_layer(config: Config, shape: Shape) -> float:
    """How many numbers a layer keeps of each token for its backward pass."""
    lora = config.model.lora_config
    kept = HIDDEN_KEPT * shape.hidden + KEY_VALUE_KEPT * shape.key_value + INNER_KEPT * shape.inner
    kept += lora.r * len(lora.target_modules)
    if lora.lora_dropout:
        kept += (DROPOUT_KEPT * len(lora.target_modules) - 1) * shape.hidden
    return kept


def _logits(config: Config, shape: Shape, completion_tokens: float) -> float:
    training = config.training
    on_gpu = training.bf16 or training.fp16 or config.experiment.device == "cuda"  # float32 may run on either
    tokens, vocabulary = GPU_BLOCK if on_gpu else BLOCK
    block = min(tokens, completion_tokens) * min(vocabulary, shape.vocabulary) * 4
    return block * (BLOCKS_WITH_DIVERGENCE if config.training.method == "kto" else BLOCKS)


def _reference(config: Config, shape: Shape, tokens: float, completion_tokens: float) -> float:
    """The reference's hidden states of the completions, their gradients, and the trunk's output."""
    states = 2 * completion_tokens if config.training.method == "kto" else completion_tokens
    trunk = tokens if above_trunk(config, shape) < shape.layers else 0.0
    return (states + trunk) * shape.hidden * 4


def _is_judged(config: Config) -> bool:
    metrics = config.evaluation.metrics
    return any(name in DECLARED and DECLARED[name].cost == "answers + judge" for name in metrics)


def micro_batch(config: Config, prompt: float, answer: float) -> tuple[float, float]:
    """A worker's tokens and completion tokens at once: of pairs both answers, of kto_unpaired an answer each.

    The mismatched pairs of kto_unpaired pass without gradient.
    """
    answers = 1 if config.training.method == UNPAIRED_METHOD else 2
    completions = config.training.batch_size * answers * answer
    return config.training.batch_size * prompt + completions, completions
