"""The memory estimate against what torch holds, and against numbers that can be counted by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt.bundled import ensure_bundled
from phasegpt.config import Config
from phasegpt.config_io import load_config, track_config
from phasegpt.models import LoraSettings, attach_policy, load_base
from tests.live_memory import peak_of_step, tokens_of
from tests.tune.conftest import ToyRequest
from tune.memory import adapter_parameters, estimate
from tune.plan import make_plan
from tune.shapes import KNOWN, Shape, read_shape

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = ("model.lora_config.layers_to_transform=null", "model.lora_config.lora_dropout=0.0", "training.method=dpo")
CASES: dict[str, tuple[str, ...]] = {
    "dpo": (),
    "kto": ("training.method=kto", "training.kto_lambda=0.1"),
    "upper layers": ("model.lora_config.layers_to_transform=[2, 3]",),
    "dropout": ("model.lora_config.lora_dropout=0.1",),
    "activations computed twice": ("model.use_gradient_checkpointing=true",),
}


def config_of(*sets: str) -> Config:
    return load_config(track_config("a"), "laptop", [*PLAIN, *sets])


def measured_and_estimated(folder: Path, config: Config, pairs: int, length: int) -> tuple[float, float]:
    model, lora = config.model, config.model.lora_config
    layers = lora.layers_to_transform
    settings = LoraSettings(lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules, layers)
    policy = attach_policy(
        load_base(str(folder), Path("/")), settings, seed=0, gradient_checkpointing=model.use_gradient_checkpointing
    )
    found = peak_of_step(policy, pairs, length, with_divergence=config.training.method == "kto")
    policy.detach()
    return found, estimate(config, read_shape(folder / "config.json"), *tokens_of(pairs, length)).live


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_15_percent_of_what_torch_holds(toy_model_dir: Path, name: str) -> None:
    found, estimated = measured_and_estimated(toy_model_dir, config_of(*CASES[name]), pairs=8, length=160)
    assert estimated == pytest.approx(found, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "kto", "activations computed twice"])
def test_the_estimate_is_within_15_percent_on_the_bundled_model(name: str) -> None:
    torch.set_num_threads(2)
    found, estimated = measured_and_estimated(ensure_bundled(), config_of(*CASES[name]), pairs=2, length=128)
    assert estimated == pytest.approx(found, rel=0.15)


KTO = ("training.method=kto", "training.kto_lambda=0.1")
UPPER = "model.lora_config.layers_to_transform=upper_third"


@pytest.mark.parametrize(
    ("sets", "measured"),
    [
        (("experiment.device=cuda",), 2.89),
        (("training.bf16=true",), 1.65),
        (("training.bf16=true", *KTO), 2.00),
        (("training.bf16=true", *KTO, UPPER), 1.19),
    ],
)
def test_the_estimate_of_a_run_on_a_gpu_is_at_most_a_fifth_over_what_an_h200_took(
    sets: tuple[str, ...], measured: float
) -> None:
    """SmolLM2-135M, the four longest pairs of the shipped data at once; GB that torch had allocated at the most."""
    shape = Shape(30, 576, 49_152, 3_538_944, 1536, 192)
    estimated = estimate(config_of("model.lora_config.lora_dropout=0.05", *sets), shape, 1633, 1441).live / 1e9
    assert measured <= estimated <= 1.2 * measured


def test_adapters_are_counted_by_their_modules(toy_model_dir: Path) -> None:
    """r = 16, hidden 64, keys 32: q and o 16 · 128 each, k and v 16 · 96 each, in 4 layers."""
    shape = read_shape(toy_model_dir / "config.json")
    assert adapter_parameters(config_of(), shape) == 4 * 16 * (128 + 96 + 96 + 128)
    upper = config_of("model.lora_config.layers_to_transform=[3]", "model.lora_config.target_modules=[down_proj]")
    assert adapter_parameters(upper, shape) == 16 * (128 + 64)


@pytest.mark.parametrize(
    ("sets", "part", "change"),
    [
        ("training.batch_size=4", "activations", lambda was: 2 * was),
        ("training.distributed={enabled: true, num_gpus: 2}", "activations", lambda was: was),
        ("training.distributed={enabled: true, num_gpus: 2}", "weights", lambda was: was),
    ],
)
def test_workers_have_a_batch_each_and_the_weights_whole(
    toy_request: ToyRequest, sets: str, part: str, change: Callable[[float], float]
) -> None:
    plain, changed = make_plan(toy_request()).memory, make_plan(toy_request(sets)).memory
    assert plain is not None
    assert changed is not None
    assert getattr(changed, part) == pytest.approx(change(getattr(plain, part)))


def test_strategies_share_out_what_they_say(toy_model_dir: Path) -> None:
    shape = read_shape(toy_model_dir / "config.json")

    def memory(strategy: str) -> Any:
        return estimate(
            config_of(f"training.distributed={{enabled: true, num_gpus: 2, strategy: {strategy}}}"), shape, 1, 1
        )

    ddp, zero, fsdp = memory("ddp"), memory("deepspeed"), memory("fsdp")
    assert zero.weights == ddp.weights
    assert zero.adapters == pytest.approx(ddp.adapters * (4 + 12 / 2) / 16)
    layers = shape.layers * shape.layer_parameters * 4
    assert ddp.weights - fsdp.weights == pytest.approx(layers / 2)


def test_the_tracks_own_models_are_estimated_before_they_are_fetched() -> None:
    """0.49 and 1.54 billion parameters, as their names round them."""
    small, large = KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], KNOWN["Qwen/Qwen2.5-1.5B-Instruct"]
    assert small.parameters / 1e9 == pytest.approx(0.494, abs=0.001)
    assert large.parameters / 1e9 == pytest.approx(1.543, abs=0.001)
