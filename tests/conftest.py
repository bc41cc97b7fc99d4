"""Fixtures that every test may use. Heavy imports stay inside them, so that tests of config and data start at once."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.object_server import bucket, object_server  # noqa: F401 - fixtures
from tests.postgres import postgres  # noqa: F401 - a fixture
from tests.ray_cluster import ray_cluster  # noqa: F401 - a fixture
from tests.toy import build_toy_model, toy_pairs, toy_prompts, write_jsonl
from tune import environment

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on the toy a second thread costs more than it does
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it in the background, and then all that we start
    signal.signal(signal.SIGINT, signal.default_int_handler)
environment.prepare(own_cluster=True)  # Ray reads it when it is first imported, which any test may do


@pytest.fixture(scope="session")
def toy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy Qwen2 and its tokenizer."""
    return build_toy_model(tmp_path_factory.mktemp("toy-model"))


@pytest.fixture(scope="session")
def toy_pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 36 toy pairs, one for each stratum."""
    return write_jsonl(tmp_path_factory.mktemp("toy-data") / "pairs.jsonl", toy_pairs())


@pytest.fixture(scope="session")
def toy_prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 8 evaluation prompts, half of them for the finals."""
    return write_jsonl(tmp_path_factory.mktemp("toy-prompts") / "prompts.jsonl", toy_prompts())


@pytest.fixture(scope="session")
def toy_sets(
    toy_model_dir: Path, toy_pairs_file: Path, toy_prompts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """`key=value` overrides that make track B under the laptop profile a search of seconds; eval_loss judges."""
    prose = tmp_path_factory.mktemp("toy-prose") / "prose.txt"
    prose.write_text("People say the river stays. " * 40, encoding="utf-8")
    return [
        f"model.base_model={toy_model_dir}",
        "model.lora_config.layers_to_transform=null",
        f"training.preference_dataset={toy_pairs_file}",
        "training.max_steps=4",
        f"evaluation.prompts={toy_prompts_file}",
        f"evaluation.fluency_text={prose}",
        "evaluation.fluency_tokens=100",
        "evaluation.max_new_tokens=8",
        "evaluation.eval_interval=2",
        "search.objectives={eval_loss: min}",
        "search.trials=3",
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: bit-equal reruns, and two workers do not fight for two cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms in the model's own precision: transformers computes them in float32, also in a float64 model."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(norm: Any, hidden: Any) -> Any:
        return norm.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    for kind in (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
        monkeypatch.setattr(kind, "forward", forward)
