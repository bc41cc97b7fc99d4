"""Fixtures that every test may use. Heavy imports stay inside them, so that tests of config and data start at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toy import build_toy_model, toy_pairs, toy_prompts, write_jsonl

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: bit-equal reruns, and two workers do not fight for two cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
