"""The baseline of a search: the reference or a checkpoint, and one measurement for all that depend on the same."""

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from phasegpt import baseline
from phasegpt.base_model import ModelError
from phasegpt.baseline import depends_on, measure
from phasegpt.config import Config, stages
from phasegpt.config_io import load_config, track_config
from phasegpt.evaluate import Evaluation
from phasegpt.parts import RunError, Workbench
from phasegpt.runs import run_paths
from tests.phasegpt.trained import Trained, train_toy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_sets: list[str]) -> Trained:
    return train_toy(tmp_path_factory.mktemp("trained"), "one", toy_sets)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def config_of(toy_sets: list[str], *more: str, track: str = "b") -> Config:
    return load_config(track_config(track), "laptop", [*toy_sets, *more])


def measured(config: Config, folder: Path, bench: Workbench, half: str = "final") -> Evaluation:
    return measure(config, paths=run_paths(folder, "b", "s/baseline"), half=half, workbench=bench)


def test_the_baseline_is_the_reference_itself(toy_sets: list[str], tmp_path: Path, bench: Workbench) -> None:
    found = measured(config_of(toy_sets), tmp_path, bench)
    assert found.summary["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found.summary["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert found.summary["kl_divergence"] == pytest.approx(0, abs=1e-6)
    assert {row["id"] for row in found.answers} == {f"toy-prompt-{index:02d}" for index in (1, 3, 5, 7)}


@pytest.mark.parametrize("reference", [False, True], ids=["untuned reference", "adapter as reference"])
def test_a_baseline_of_ones_own_is_measured_against_the_searchs_reference(
    trained: Trained, toy_sets: list[str], tmp_path: Path, bench: Workbench, reference: bool
) -> None:
    sets = [f"evaluation.baseline_checkpoint={trained.paths.adapter}"]
    sets += [f"training.reference_model={trained.paths.adapter}"] if reference else []
    found, expected = measured(config_of(toy_sets, *sets), tmp_path, bench).summary, trained.result.metrics
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)
    assert found["spiral_score"] == pytest.approx(expected["spiral_score"])
    if reference:
        assert (found["kl_divergence"], found["reward_margin"]) == pytest.approx((0.0, 0.0), abs=1e-4)
    else:
        assert found["kl_divergence"] == pytest.approx(expected["kl_divergence"], rel=1e-4)
        assert found["reward_margin"] == pytest.approx(expected["reward_margin"], rel=1e-3)


def test_a_baselines_kl_on_its_answers_is_refused_where_the_search_has_another_reference(
    trained: Trained, toy_sets: list[str], tmp_path: Path, bench: Workbench
) -> None:
    adapter = trained.paths.adapter
    sets = [f"evaluation.baseline_checkpoint={adapter}", "evaluation.metrics=[eval_loss, kl_on_samples]"]
    sets += ["evaluation.metric_for_best_model=eval_loss", "search.constraints={}"]
    assert measured(config_of(toy_sets, *sets), tmp_path, bench).summary["kl_on_samples"] > 0
    with pytest.raises(RunError, match=r"evaluation\.baseline_checkpoint: its kl_on_samples would be .*; leave"):
        measured(config_of(toy_sets, *sets, f"training.reference_model={adapter}"), tmp_path, bench)


def test_a_baseline_that_is_no_adapter_is_named_by_its_key(
    toy_sets: list[str], tmp_path: Path, bench: Workbench
) -> None:
    with pytest.raises(ModelError, match=r"evaluation\.baseline_checkpoint: .*no adapter there"):
        measured(config_of(toy_sets, f"evaluation.baseline_checkpoint={tmp_path}"), tmp_path, bench)


def test_tracks_with_one_base_model_share_one_measurement_and_others_have_their_own(
    toy_sets: list[str], tmp_path: Path, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    plain = baseline._measured

    def counted(config: Config, paths: object, half: str, *rest: object) -> Evaluation:
        made.append(half)
        return plain(config, paths, half, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(baseline, "_measured", counted)
    first = measured(config_of(toy_sets), tmp_path, bench)
    searched = "search.trials=7"
    assert measured(config_of(toy_sets, "training.learning_rate=1e-5", searched), tmp_path, bench) == first
    assert measured(config_of(toy_sets, track="a"), tmp_path, bench).summary == first.summary
    assert made == ["final"]
    measured(config_of(toy_sets), tmp_path, bench, half="search")
    measured(config_of(toy_sets, "evaluation.max_new_tokens=7"), tmp_path, bench)
    measured(config_of(toy_sets, "experiment.seed=7"), tmp_path, bench)
    assert made == ["final", "search", "final", "final"]


def test_whatever_changes_the_numbers_of_a_baseline_makes_another_measurement(
    trained: Trained, toy_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files and adapters the content, under the same name."""
    given = dict(text.split("=", 1) for text in toy_sets)
    files = ("training.preference_dataset", "evaluation.prompts", "evaluation.fluency_text")
    copies = {key: Path(shutil.copy(given[key], tmp_path / key)) for key in files}
    base = Path(shutil.copytree(given["model.base_model"], tmp_path / "base"))
    adapter = Path(shutil.copytree(trained.paths.adapter, tmp_path / "adapter"))
    for file in adapter.glob("*.json"):
        file.write_text(file.read_text().replace(given["model.base_model"], str(base)))
    named = [f"model.base_model={base}", *(f"{key}={copy}" for key, copy in copies.items())]
    referred = [f"training.reference_model={adapter}"]
    seen: list[str] = []

    def key(*sets: str, half: str = "final") -> str:
        last = stages(config_of(toy_sets, *named, *sets))[-1]
        return repr(depends_on(last, run_paths(tmp_path, "b", "s/baseline"), half, Workbench()))

    def other(*sets: str, half: str = "final") -> None:
        seen.append(key(*sets, half=half))

    other()
    assert key("training.learning_rate=1e-5", "search.trials=7") == seen[0]
    other(half="search")
    for changed in ("training.beta=0.3", "training.max_length=200", "evaluation.max_new_tokens=7", "experiment.seed=7"):
        other(changed)
    other("data.val_split=0.3", "data.train_split=0.7")
    other("training.method=kto_unpaired", "training.batch_size=4", "search.parameters={}")
    other(*referred)
    other(f"evaluation.baseline_checkpoint={adapter}")
    shift(adapter / "adapter_model.safetensors")
    other(*referred)
    for copy in copies.values():
        copy.write_text(copy.read_text().replace("e", "a", 1))
        other()
    shift(base / "model.safetensors")
    other()
    monkeypatch.setattr(baseline, "scorer", lambda: "spiral 9")
    other()
    monkeypatch.setattr(baseline, "versions", lambda: {"torch": "9"})
    other()
    assert len(set(seen)) == len(seen)


def shift(file: Path) -> None:
    """Another number in a file of weights."""
    weights = load_file(file)
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, file, metadata={"format": "pt"})
