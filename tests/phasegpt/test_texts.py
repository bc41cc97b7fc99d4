"""Fine-tuning on a plain text: its blocks, their loss, and a run from a config, cut and resumed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phasegpt.baseline import measure
from phasegpt.checkpoints import locate
from phasegpt.config import Config
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import load_config
from phasegpt.evaluate import Evaluation
from phasegpt.models import Base, LoraSettings, attach_policy, load_base
from phasegpt.parts import RunError, Workbench
from phasegpt.runs import RunPaths, run_paths
from phasegpt.terms import terms_for
from phasegpt.texts import TextError, TextExamples, block_rows, read_blocks
from phasegpt.train import fit
from tests.mlflow_store import migrated
from tests.toy import toy_pairs

pytestmark = pytest.mark.usefixtures("one_thread")
V12_LORA = Path(__file__).parents[2] / "configs" / "v14" / "v12_lora.yaml"


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle of a run."""


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a thousand tokens of prose."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("\n".join(pair["chosen"] for pair in toy_pairs()), encoding="utf-8")
    return path


def test_a_text_is_cut_into_whole_blocks_of_which_a_seeded_share_judges(base: Base, text: Path) -> None:
    ids = base.tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    blocks = read_blocks(text, base.tokenizer, 32, 0.15, seed=1)
    count = len(ids) // 32
    assert len(blocks.val) == round(0.15 * count)
    assert blocks.cut_tokens == len(ids) % 32
    in_order = sorted((*blocks.train, *blocks.val), key=lambda block: int(block.id.removeprefix("block-")))
    assert [token for block in in_order for token in block.tokens] == ids[: count * 32]
    assert read_blocks(text, base.tokenizer, 32, 0.15, seed=1) == blocks
    assert read_blocks(text, base.tokenizer, 32, 0.15, seed=2) != blocks
    assert len(read_blocks(text, base.tokenizer, 32, 0.0, seed=1).val) == 1


def test_a_text_without_two_blocks_is_an_error_that_says_how_many_tokens_it_has(base: Base, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("People say the river stays.")
    count = len(base.tokenizer(short.read_text(), add_special_tokens=False)["input_ids"])
    with pytest.raises(TextError, match=rf"short\.txt: {count} tokens; expected at least 128, a block of training.max"):
        read_blocks(short, base.tokenizer, 64, 0.15, seed=1)
    short.write_bytes(b"\xff\xfe")
    with pytest.raises(TextError, match="not UTF-8 at byte 0"):
        read_blocks(short, base.tokenizer, 64, 0.15, seed=1)


def test_the_loss_of_a_block_is_that_of_the_model_itself(base: Base, text: Path) -> None:
    policy = attach_policy(base, LoraSettings(4, 8, 0.0, ("q_proj",)), seed=0)
    blocks = read_blocks(text, base.tokenizer, 24, 0.5, seed=1).val[:3]
    rows = list(block_rows(policy, TextExamples(blocks), batch_size=2))
    assert [row["id"] for row in rows] == [block.id for block in blocks]
    for row, block in zip(rows, blocks, strict=True):
        ids = torch.tensor([block.tokens])
        with torch.no_grad():
            expected = policy.model(input_ids=ids, labels=ids).loss.item()
        assert row["eval_loss"] == pytest.approx(expected, abs=1e-5)
    policy.detach()


# --- a run from a config ---------------------------------------------------------------------------------------------


def config_of(toy_sets: list[str], text: Path, *sets: str) -> Config:
    own = [s for s in toy_sets if not s.startswith(("search.", "training.pref", "training.max_steps", "evaluation.ev"))]
    run = (
        f"training.preference_dataset={text}",
        "training.max_length=32",
        "training.max_prompt_length=16",
        "training.learning_rate=1e-2",
        "training.batch_size=4",
        "training.gradient_accumulation_steps=2",
        "training.max_steps=6",
        "evaluation.eval_interval=2",
        "model.lora_config.lora_dropout=0.1",
        "logging.output_dir=null",
    )
    return load_config(V12_LORA, "laptop", [*own, *run, *sets])


def paths_of(folder: Path) -> RunPaths:
    return run_paths(folder, "a", "run")


def test_a_run_on_a_text_learns_it_and_is_judged_by_its_held_out_blocks(
    toy_sets: list[str], text: Path, tmp_path: Path
) -> None:
    config = config_of(toy_sets, text)
    before = measure(config, paths=paths_of(tmp_path), half="search", workbench=Workbench())
    result = fit(config, paths=paths_of(tmp_path))
    assert before.summary["eval_loss"] == pytest.approx(math.log(1024), abs=1.5)  # an untrained model's guess
    assert result.metrics["eval_loss"] < before.summary["eval_loss"] - 0.1
    assert result.training_log[-1]["loss"] < result.training_log[0]["loss"] - 0.1
    assert set(result.training_log[0]) == {"step", "loss", "grad_norm", "learning_rate"}
    assert set(result.metrics) >= {"eval_loss", "spiral_score", "perplexity"}
    assert not {"kl_divergence", "reward_margin"} & set(result.metrics)
    assert [row["id"] for row in result.pairs] == [row["id"] for row in before.pairs]
    assert (result.data["val"], result.data["cut_tokens"] < 32) == (len(result.pairs), True)
    assert len(result.answers) == 4
    assert Path(result.adapter, "adapter_model.safetensors").is_file()
    assert not (tmp_path / "checkpoints" / "v14" / "shared_work").exists()
    terms = terms_for([locate(str(paths_of(tmp_path).checkpoints), tmp_path / "work", None)], "final")
    assert (terms.pairs, terms.data_hash) == ((), result.hashes["data"])  # judged by prompts and prose alone


def test_a_run_on_a_text_that_was_cut_goes_on_to_the_same_end(toy_sets: list[str], text: Path, tmp_path: Path) -> None:
    def stop(evaluation: Evaluation, _: Path) -> None:
        if evaluation.step == 4:
            raise Cut

    config = config_of(toy_sets, text)
    whole, cut = paths_of(tmp_path / "whole"), paths_of(tmp_path / "cut")
    with pytest.raises(Cut):
        fit(config, stop, paths=cut)
    results = fit(config, paths=whole), fit(config, paths=cut)
    assert results[0].training_log == results[1].training_log
    assert results[0].metrics == results[1].metrics
    weights = [load_file(p.checkpoints / "checkpoint-6" / "trainable.safetensors") for p in (whole, cut)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("training.method=dpo",), "a text holds no preferences; only method lora takes one, found dpo"),
        (
            (
                "training.curriculum_learning.enabled=true",
                "training.curriculum_learning.stages=[{name: a, epochs: 1, data_fraction: 1}]",
            ),
            "a text has no easy and hard pairs",
        ),
    ],
)
def test_what_only_preferences_can_do_is_refused(
    toy_sets: list[str], text: Path, sets: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(toy_sets, text, *sets)


def test_a_checkpoint_cannot_be_chosen_by_a_metric_of_pairs(toy_sets: list[str], text: Path, tmp_path: Path) -> None:
    config = config_of(toy_sets, text, "evaluation.metric_for_best_model=kl_divergence")
    with pytest.raises(RunError, match="kl_divergence is measured on pairs, and a text has none; take eval_loss"):
        fit(config, paths=paths_of(tmp_path))


def test_train_py_takes_a_text(
    toy_sets: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train import main

    config = config_of(toy_sets, text, "training.max_steps=2")
    file = tmp_path / "text.yaml"
    file.write_text(json.dumps(config.dump()))
    words: list[Any] = ["--config", file, "--profile", "none", "--name", "text", "--storage", tmp_path]
    assert main([*map(str, words), "--tracking-uri", migrated(tmp_path)]) == 0
    result = json.loads((tmp_path / "results/v14/track_a/text.json").read_text())
    assert result["steps"] == 2
    assert "eval_loss" in capsys.readouterr().out
