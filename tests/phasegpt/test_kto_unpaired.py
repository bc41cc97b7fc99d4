"""kto_unpaired from a config to a result: on pairs, on unpaired answers, cut and resumed, and as a user types it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phasegpt.answers import answers_of
from phasegpt.config import Config
from phasegpt.config_io import load_config, track_config
from phasegpt.evaluate import Evaluation
from phasegpt.pairs import PairsError, read_pairs
from phasegpt.runs import RunPaths, RunResult, run_paths
from phasegpt.train import fit
from tests.mlflow_store import migrated
from tests.toy import DOMAINS, write_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")
SETS = (
    "training.method=kto_unpaired",
    "training.gradient_accumulation_steps=1",
    "training.batch_size=8",
    "training.learning_rate=1e-2",
    "training.max_steps=6",
    "evaluation.eval_interval=3",
)


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle of a run."""


@pytest.fixture(scope="module")
def unpaired_file(toy_pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pairs as unpaired answers, with the same ids as `answers_of` gives them."""
    rows = [
        {name: value for name, value in vars(row).items() if name != "line"}
        for row in answers_of(read_pairs(toy_pairs_file, DOMAINS))
    ]
    return write_jsonl(tmp_path_factory.mktemp("unpaired") / "answers.jsonl", rows)


def config_of(toy_sets: list[str], *sets: str) -> Config:
    own = [text for text in toy_sets if not text.startswith(("search.", "training.max_steps", "evaluation.eval_i"))]
    return load_config(track_config("a"), "laptop", [*own, *SETS, *sets])


def paths_of(folder: Path) -> RunPaths:
    return run_paths(folder, "a", "run")


def weights(paths: RunPaths) -> Mapping[str, torch.Tensor]:
    found: Mapping[str, torch.Tensor] = load_file(paths.checkpoints / "checkpoint-6" / "trainable.safetensors")
    return found


def assert_same_training(one: RunResult, other: RunResult, places: tuple[RunPaths, RunPaths]) -> None:
    assert one.training_log == other.training_log
    own, others = (weights(paths) for paths in places)
    assert all(torch.equal(value, others[name]) for name, value in own.items())


@pytest.fixture(scope="module")
def by_pairs(toy_sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, RunResult]:
    torch.set_num_threads(1)
    paths = paths_of(tmp_path_factory.mktemp("pairs"))
    return paths, fit(config_of(toy_sets), paths=paths)


def test_a_run_on_pairs_learns_from_each_answer_and_is_judged_by_pairs(by_pairs: tuple[RunPaths, RunResult]) -> None:
    _, result = by_pairs
    assert result.data == {"train": 23, "val": 4, "cut_tokens": 0}
    first, last = result.training_log[0], result.training_log[-1]
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)
    assert max(row["kl_baseline"] for row in result.training_log) > 0
    assert last["rewards_margin"] > first["rewards_margin"] + 0.1
    assert len(result.pairs) == 4
    assert all(row["id"].startswith("toy-") and "chosen" not in row["id"] for row in result.pairs)
    assert result.curve[-1]["reward_margin"] > 0
    assert set(result.metrics) >= {"eval_loss", "reward_margin", "reward_accuracy", "kl_divergence", "spiral_score"}


def test_a_run_that_was_cut_goes_on_to_the_same_end(
    by_pairs: tuple[RunPaths, RunResult], toy_sets: list[str], tmp_path: Path
) -> None:
    def crash(evaluation: Evaluation, _: Path) -> None:
        if evaluation.step == 3:
            raise Cut

    paths = paths_of(tmp_path)
    with pytest.raises(Cut):
        fit(config_of(toy_sets), crash, paths=paths)
    assert_same_training(fit(config_of(toy_sets), paths=paths), by_pairs[1], (paths, by_pairs[0]))


def test_a_file_of_the_same_answers_unpaired_gives_the_same_training_and_the_same_couples(
    by_pairs: tuple[RunPaths, RunResult], toy_sets: list[str], unpaired_file: Path, tmp_path: Path
) -> None:
    paths = paths_of(tmp_path)
    result = fit(config_of(toy_sets, f"training.preference_dataset={unpaired_file}"), paths=paths)
    assert result.data == {"train": 46, "val": 8, "cut_tokens": 0}
    own, others = result.training_log, by_pairs[1].training_log
    for row, other in zip(own, others, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert [row["id"] for row in result.pairs] == [f"{row['id']}-chosen" for row in by_pairs[1].pairs]
    for metric in ("eval_loss", "reward_margin", "kl_divergence"):
        assert result.metrics[metric] == pytest.approx(by_pairs[1].metrics[metric], rel=1e-2, abs=1e-4)


def test_prompts_with_one_answer_each_are_judged_across_prompts(
    toy_sets: list[str], toy_pairs_file: Path, tmp_path: Path
) -> None:
    rows = answers_of(read_pairs(toy_pairs_file, DOMAINS))
    single = [vars(row) for place, row in enumerate(rows) if place % 4 in (0, 3)]  # chosen and rejected in turn
    file = write_jsonl(tmp_path / "single.jsonl", [{k: v for k, v in row.items() if k != "line"} for row in single])
    sets = (f"training.preference_dataset={file}", "data.train_split=0.6", "data.val_split=0.4")
    result = fit(config_of(toy_sets, *sets), paths=paths_of(tmp_path))
    labels = {row.id: row.label for row in rows}
    judged = [labels[row["id"]] for row in result.pairs]
    assert len(judged) >= 4
    assert len(set(judged)) == 1  # a couple carries the id of its answer of the more frequent label
    assert result.metrics["eval_loss"] == pytest.approx(sum(row["eval_loss"] for row in result.pairs) / len(judged))


def test_another_method_does_not_take_unpaired_answers(
    toy_sets: list[str], unpaired_file: Path, tmp_path: Path
) -> None:
    config = config_of(toy_sets, f"training.preference_dataset={unpaired_file}")
    dpo = config.model_copy(update={"training": config.training.model_copy(update={"method": "dpo"})})
    with pytest.raises(PairsError, match="expected pairs for method dpo"):
        fit(dpo, paths=paths_of(tmp_path))


def test_the_weights_reach_the_loss(by_pairs: tuple[RunPaths, RunResult], toy_sets: list[str], tmp_path: Path) -> None:
    sets = ("training.desirable_weight=2.0", "training.undesirable_weight=2", "training.max_steps=1")
    result = fit(config_of(toy_sets, *sets), paths=paths_of(tmp_path))
    assert result.training_log[0]["loss"] == pytest.approx(2 * by_pairs[1].training_log[0]["loss"], rel=1e-6)


def test_train_py_takes_the_method_with_the_shipped_pairs(
    toy_sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train import main

    shipped = [text for text in toy_sets if not text.startswith(("training.preference_dataset", "search."))]
    sets = ["training.method=kto_unpaired", *shipped, "training.max_steps=2"]
    words = ["--config", str(track_config("a")), "--profile", "laptop", "--name", "kto", "--storage", str(tmp_path)]
    words += ["--tracking-uri", migrated(tmp_path)]
    assert main([*words, *(word for text in sets for word in ("--set", text))]) == 0
    result = json.loads((tmp_path / "results/v14/track_a/kto.json").read_text())
    assert result["config"]["training"]["method"] == "kto_unpaired"
    assert result["config"]["training"]["preference_dataset"] == "data/preferences_v14_100pairs.jsonl"
    assert result["training_log"][0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert "kl_baseline" in result["training_log"][0]
    assert "reward_margin" in capsys.readouterr().out
