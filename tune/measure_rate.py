"""Measuring how fast this machine is, for `--plan --measure`: products of a model's own sizes, and generation.

Takes up to a minute and all cores; whatever else runs meanwhile makes the machine look slower.
"""

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from phasegpt.config import Config
from phasegpt.config_io import project_root
from phasegpt.models import LoraSettings, attach_policy, load_base
from tune.machine import cores
from tune.rate import Decoding, Rate, described, keep_rate, rate_file
from tune.shapes import Shape, shape_folder, shape_of

TOKENS = 1024  # of a product, about those of a micro-batch
HEAD = 1024  # words of the vocabulary whose logits are made at a time, as in phasegpt/divergences.py
PATIENCE = 8.0  # seconds for each figure
ROUNDS = 5, 40  # at least, at most
FEW, MANY = 1, 16  # prompts at once
PROMPT = 24  # tokens
SHORT, LONG = 4, 20  # new tokens: their difference leaves out the prompt
REPEATS = 2, 5  # of that difference, at least, at most
WEIGHTS = 2**27  # numbers of weights that a step of generation reads at least, more than caches hold


def measure_rate(config: Config, shape: Shape) -> Rate:
    """The rate on the device that `experiment.device` asks for, with all cores; of generation on the model itself
    where it is here, else on products of its sizes.
    """
    device = "cuda" if torch.cuda.is_available() and config.experiment.device != "cpu" else "cpu"
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    torch.set_num_threads(cores())
    try:
        kinds = {"float32": torch.float32, **({"bfloat16": torch.bfloat16} if device == "cuda" else {})}
        found = {name: _products(shape, kind, device) for name, kind in kinds.items()}
        decoding = _decoding(config, shape, device)
    finally:
        torch.set_num_threads(threads)
    return Rate(
        products={name: middle for name, (middle, _) in found.items()},
        decoding=decoding,
        spread={name: spread for name, (_, spread) in found.items()},
        device=device if device == "cpu" else f"cuda: {torch.cuda.get_device_name()}",
        measured_at=time.strftime("%Y-%m-%d %H:%M"),
        host=socket.gethostname(),
        cores=cores(),
        threads=cores(),
        torch=torch.__version__,
        load=load,
    )


def measure_for(config: Config) -> str:
    """Measure for the model of a config, keep it, and say what was found or why nothing was kept."""
    shape = shape_of(config)
    if shape is None:
        return f"not measured: the sizes of {config.model.base_model} are unknown until it is here"
    rate = measure_rate(config, shape)
    try:
        keep_rate(rate)
    except OSError as error:
        return f"measured, but not kept ({error}); $PHASEGPT_CACHE may name another folder"
    return f"{described(rate)}; kept in {rate_file()}"


def _rounds(run: Callable[[], object], device: str) -> list[float]:
    """Seconds of each of several rounds, the first left out."""
    run()
    seconds: list[float] = []
    while len(seconds) < ROUNDS[1] and (len(seconds) < ROUNDS[0] or sum(seconds) < PATIENCE):
        _wait(device)
        begun = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _sizes(shape: Shape) -> Iterator[tuple[int, int]]:
    """The matrices of one layer, rows by columns."""
    yield from ((shape.hidden, shape.hidden), (shape.hidden, shape.hidden))
    yield from ((shape.hidden, shape.key_value), (shape.hidden, shape.key_value))
    yield from ((shape.hidden, shape.inner), (shape.hidden, shape.inner), (shape.inner, shape.hidden))


def _products(shape: Shape, kind: torch.dtype, device: str) -> tuple[float, tuple[float, float]]:
    """FLOP/s of a layer's products and a block of the head's, in the middle and between the quartiles."""
    sizes = [*_sizes(shape), (shape.hidden, HEAD)]
    weights = [torch.randn(size, device=device, dtype=kind) for size in sizes]
    inputs = {rows: torch.randn(TOKENS, rows, device=device, dtype=kind) for rows, _ in sizes}

    def layer() -> list[Tensor]:
        return [inputs[len(weight)] @ weight for weight in weights]

    operations = 2 * TOKENS * sum(weight.numel() for weight in weights)
    rates = [operations / seconds for seconds in _rounds(layer, device)]
    low, _, high = statistics.quantiles(rates, n=4)
    return statistics.median(rates), (low, high)


def _decoding(config: Config, shape: Shape, device: str) -> Decoding:
    """Steps of generation by the model where it is here, else products of its sizes."""
    numbers: float
    if os.path.isfile(shape_folder(config) / "config.json"):
        of, numbers, steps = f"{config.model.base_model} with adapters", shape.parameters, _model_steps(config, device)
    else:
        of, (numbers, steps) = "products of the model's sizes", _product_steps(shape, device)
    few, many = steps(FEW), steps(MANY)
    spread = tuple((min(seconds), max(seconds)) for seconds in (few, many))
    return Decoding(of, numbers, (FEW, statistics.median(few)), (MANY, statistics.median(many)), spread)


def _model_steps(config: Config, device: str) -> Callable[[int], list[float]]:
    """Seconds of steps of generation by the model with fresh adapters, whose products are not merged into its own."""
    lora = config.model.lora_config
    settings = LoraSettings(lora.r, lora.lora_alpha, 0.0, lora.target_modules, lora.layers_to_transform)
    half = torch.bfloat16 if config.training.bf16 else torch.float32
    base = load_base(config.model.base_model, project_root(), half if device == "cuda" else torch.float32, device)
    policy = attach_policy(base, settings, seed=0)

    def generate(prompts: int, tokens: int) -> float:
        ids = torch.full((prompts, PROMPT), 5, device=device)
        begun = time.perf_counter()
        policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, use_cache=True, pad_token_id=base.tokenizer.pad_token_id,
        )  # fmt: skip
        _wait(device)
        return time.perf_counter() - begun

    @torch.no_grad()
    def steps(prompts: int) -> list[float]:
        generate(prompts, SHORT)
        found: list[float] = []
        until = time.perf_counter() + PATIENCE
        while len(found) < REPEATS[0] or (len(found) < REPEATS[1] and time.perf_counter() < until):
            longer = generate(prompts, LONG) - generate(prompts, SHORT)
            found.append(max(longer, 1e-6) / (LONG - SHORT))
        return found

    return steps


def _product_steps(shape: Shape, device: str) -> tuple[float, Callable[[int], list[float]]]:
    """How many numbers the weights of some layers are, more than caches hold, and steps of bare products over them."""
    count = min(shape.layers, max(1, WEIGHTS // shape.layer_parameters))
    layers = [[torch.randn(size, device=device) for size in _sizes(shape)] for _ in range(count)]
    numbers = float(sum(weight.numel() for layer in layers for weight in layer))

    def steps(prompts: int) -> list[float]:
        inputs = {rows: torch.randn(prompts, rows, device=device) for rows, _ in _sizes(shape)}

        def whole() -> list[Tensor]:
            return [inputs[len(weight)] @ weight for layer in layers for weight in layer]

        return _rounds(whole, device)

    return numbers, steps
