"""fit: everything in its place, a cut run equal to a whole one, and no folder that passes for another run's."""

import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phasegpt import material, train
from phasegpt.base_model import ModelError
from phasegpt.checkpoint_files import ADAPTER, checkpoint_step
from phasegpt.config import Config, stages
from phasegpt.config_io import load_config, track_config
from phasegpt.evaluate import Evaluation
from phasegpt.files import read_json, write_json
from phasegpt.metrics.declared import GUARDS
from phasegpt.metrics.own import OwnMetricError
from phasegpt.metrics.text import scorer
from phasegpt.models import load_base, load_policy
from phasegpt.objectives import Dpo, Kto, PenalisedDpo, Sft
from phasegpt.pairs import PairsError
from phasegpt.parts import RunError, Workbench, device_of, objective_of, trainer_settings
from phasegpt.ranks import joined
from phasegpt.runs import RunPaths, RunResult, run_paths
from phasegpt.shared_store import prepare
from phasegpt.train import Paused, fit
from phasegpt.trainer import NonFiniteLossError, ReferenceMismatchError

pytestmark = pytest.mark.usefixtures("one_thread")


class Cut(Exception):  # noqa: N818 - stands for a crash, not for an error
    """A crash in the middle of a run."""


@pytest.fixture(scope="module")
def toy_overrides(
    toy_model_dir: Path, toy_pairs_file: Path, toy_prompts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    text = tmp_path_factory.mktemp("prose") / "fluency.txt"
    text.write_text("People say the river stays. " * 20)
    return [
        f"model.base_model={toy_model_dir}",
        f"training.preference_dataset={toy_pairs_file}",
        f"evaluation.prompts={toy_prompts_file}",
        f"evaluation.fluency_text={text}",
        "evaluation.max_new_tokens=6",
        "evaluation.eval_interval=3",
        "model.lora_config.lora_dropout=0.1",
        "model.lora_config.layers_to_transform=null",
        "training.batch_size=4",
    ]


LOOP = {
    "b": ("training.max_steps=6", "training.learning_rate=1e-2"),
    "c": (
        "training.phase_a.max_steps=4",
        "training.phase_b.max_steps=2",
        "training.phase_a.learning_rate=1e-2",
        "training.phase_b.learning_rate=1e-2",
    ),
}


def config_of(toy_overrides: list[str], *more: str, track: str = "b") -> Config:
    return load_config(track_config(track), "laptop", [*toy_overrides, *LOOP[track], *more])


def paths_of(folder: Path, name: str = "run", track: str = "b") -> RunPaths:
    return run_paths(folder, track, name)


def weights(paths: RunPaths, step: int) -> Mapping[str, torch.Tensor]:
    found: Mapping[str, torch.Tensor] = load_file(paths.checkpoints / f"checkpoint-{step}" / "trainable.safetensors")
    return found


def comparable(result: RunResult) -> dict[str, Any]:
    """A result without what a clock or a folder's name decides."""
    return {key: value for key, value in asdict(result).items() if key not in ("seconds", "clock", "adapter")}


def assert_same_run(one: RunPaths, other: RunPaths, step: int) -> None:
    assert comparable(RunResult.read(one.results)) == comparable(RunResult.read(other.results))
    own, others = weights(one, step), weights(other, step)
    assert own.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in own.items())


# --- a run and its files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(toy_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, RunResult, list[Any]]:
    """One finished run of 6 steps, evaluated at 3 and 6, and what it told on the way."""
    torch.set_num_threads(1)
    paths = paths_of(tmp_path_factory.mktemp("whole"))
    told: list[Any] = []
    result = fit(
        config_of(toy_overrides),
        lambda evaluation, checkpoint: told.append((evaluation.step, evaluation.steps, checkpoint.is_dir())),
        paths=paths,
        on_step=lambda step, values: told.append((step, values["loss"])),
    )
    return paths, result, told


def test_every_output_is_in_its_place(whole: tuple[RunPaths, RunResult, list[Any]]) -> None:
    paths, result, _ = whole
    storage = paths.results.parents[3]
    assert paths.checkpoints == storage / "checkpoints" / "v14" / "track_b" / "run"
    assert sorted(path.name for path in paths.checkpoints.iterdir()) == [
        "adapter_model",
        "checkpoint-3",
        "checkpoint-6",
        "config.yaml",
        "evaluations",
        "run.json",
    ]
    assert paths.log == storage / "experiments" / "v14" / "track_b" / "run.log"
    log = paths.log.read_text()
    assert "run: step 6 " in log
    assert "run: evaluation at step 3 " in log
    assert "run: ended at step 6 " in log
    assert paths.results == storage / "results" / "v14" / "track_b" / "run.json"
    assert result == RunResult.read(paths.results)
    assert load_config(paths.checkpoints / "config.yaml") == Config.model_validate(result.config)


def test_the_result_says_what_ran_and_what_came_of_it(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str]
) -> None:
    _, result, _ = whole
    assert (result.name, result.step, result.steps, result.half) == ("run", 6, 6, "search")
    assert [row["step"] for row in result.training_log] == [1, 2, 3, 4, 5, 6]
    assert result.training_log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [row["step"] for row in result.curve] == [3, 6]
    assert result.metrics == {key: value for key, value in result.curve[-1].items() if key != "step"}
    assert set(result.metrics) == {*config_of(toy_overrides).evaluation.metrics, *GUARDS}
    assert len(result.answers) == 4
    assert result.data == {"train": 23, "val": 4, "cut_tokens": 0}
    assert result.parameters["adapter"] > 0
    assert result.parameters["phase_branch"] == 0
    assert len(result.pairs) == 4
    assert set(result.versions) >= {"torch", "transformers", "peft"}
    assert set(result.hashes) == {"data", "base_model", "reference_adapter", "scorer"}
    assert result.hashes["scorer"] == scorer()
    assert result.seconds["total"] > result.seconds["evaluation"] > 0


def test_steps_and_evaluations_are_told_in_order_once_the_checkpoint_is_safe(
    whole: tuple[RunPaths, RunResult, list[Any]],
) -> None:
    _, result, told = whole
    losses = [row["loss"] for row in result.training_log]
    steps: list[Any] = list(enumerate(losses, start=1))
    assert told == [*steps[:3], (3, 6, True), *steps[3:], (6, 6, True)]


def test_the_published_adapter_loads_and_is_the_chosen_checkpoints(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_model_dir: Path
) -> None:
    paths, result, _ = whole
    assert result.adapter == str(paths.adapter)
    chosen = paths.checkpoints / "checkpoint-6" / "adapter_model"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (paths.adapter / name).read_bytes() == (chosen / name).read_bytes()
    load_policy(load_base(str(toy_model_dir), Path("/")), paths.adapter).detach()


def test_a_rerun_of_a_finished_run_trains_and_evaluates_nothing_and_gives_the_same_result(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, result, _ = whole
    before = (paths.checkpoints / "checkpoint-6").stat().st_mtime_ns

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(train, "evaluate", never)
    monkeypatch.setattr("phasegpt.trainer._Trainer", never)
    told: list[int] = []
    again = fit(
        config_of(toy_overrides), lambda evaluation, _: told.append(evaluation.step), paths=paths, on_step=never
    )
    assert again == result
    assert told == [3]
    assert (paths.checkpoints / "checkpoint-6").stat().st_mtime_ns == before


def test_a_deterministic_rerun_elsewhere_is_bit_equal(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    paths = paths_of(tmp_path)
    fit(config_of(toy_overrides), paths=paths)
    assert_same_run(paths, whole[0], step=6)


def test_a_warm_base_gives_the_same_run_as_a_fresh_one(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    bench = Workbench()
    other = config_of(toy_overrides, "model.lora_config.r=2", "experiment.seed=5", "training.max_steps=1")
    fit(other, paths=paths_of(tmp_path, "other"), workbench=bench)
    first = bench.base(other)
    fit(config_of(toy_overrides), paths=paths_of(tmp_path), workbench=bench)
    assert bench.base(other) is first
    assert_same_run(paths_of(tmp_path), whole[0], step=6)


# --- a run that was cut ----------------------------------------------------------------------------------------------


def cut_at(step: int) -> Any:
    def on_evaluation(evaluation: Evaluation, _: Path) -> None:
        if evaluation.step == step:
            raise Cut

    return on_evaluation


def test_a_run_cut_at_an_evaluation_goes_on_to_the_same_end(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    paths = paths_of(tmp_path)
    with pytest.raises(Cut):
        fit(config_of(toy_overrides), cut_at(3), paths=paths)
    assert not paths.results.exists()
    steps: list[int] = []
    fit(config_of(toy_overrides), paths=paths, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6]
    assert_same_run(paths, whole[0], step=6)


def test_a_cut_run_counts_the_seconds_of_before(toy_overrides: list[str], tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    with pytest.raises(Cut):
        fit(config_of(toy_overrides), cut_at(3), paths=paths)
    [kept] = (paths.checkpoints / "evaluations").glob("step-*.json")
    evaluation = read_json(kept)
    assert evaluation["worked"] > sum(evaluation["seconds"].values())
    write_json(kept, {**evaluation, "worked": 5000.0})
    result = fit(config_of(toy_overrides), paths=paths)
    assert 5000 < result.seconds["total"] < 5100


def test_a_run_that_goes_on_tells_all_its_evaluations_again_in_their_order(
    toy_overrides: list[str], tmp_path: Path
) -> None:
    config = config_of(toy_overrides, "evaluation.eval_interval=1", "training.max_steps=4")
    with pytest.raises(Cut):
        fit(config, cut_at(3), paths=paths_of(tmp_path))
    told: list[int] = []
    fit(config, lambda evaluation, _: told.append(evaluation.step), paths=paths_of(tmp_path))
    assert told == [1, 2, 3, 4]


def test_a_run_that_pauses_tells_its_evaluation_and_goes_on_to_the_same_end(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    paths, steps, told = paths_of(tmp_path), [], []
    for until in (2, 3):  # the first evaluation after step 2 is that of step 3, and it is there the second time
        with pytest.raises(Paused) as caught:
            fit(
                config_of(toy_overrides),
                lambda evaluation, _: told.append(evaluation.step),
                paths=paths,
                until=until,
                on_step=lambda step, _: steps.append(step),
            )
        assert {"step": 3, **caught.value.evaluation.summary} == pytest.approx(whole[1].curve[0])
    assert (steps, told, paths.results.exists()) == ([1, 2, 3], [], False)
    fit(config_of(toy_overrides), paths=paths, until=6, on_step=lambda step, _: steps.append(step))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert_same_run(paths, whole[0], step=6)


def test_a_run_may_begin_with_the_weights_of_another(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    paths, losses = paths_of(tmp_path), []
    start = whole[0].checkpoints / "checkpoint-6" / ADAPTER
    config = config_of(toy_overrides, "training.max_steps=3", "training.learning_rate=1e-9")
    result = fit(config, paths=paths, start=start, on_step=lambda _, values: losses.append(values["loss"]))
    assert losses[0] < math.log(2) - 0.1  # a run from the reference begins at ln 2
    assert result.metrics["eval_loss"] == pytest.approx(whole[1].curve[1]["eval_loss"], abs=1e-4)
    assert result.hashes["start"]
    with pytest.raises(RunError, match="holds another run"):
        fit(config, paths=paths)


def test_a_run_cut_between_save_and_evaluation_makes_up_for_the_evaluation(
    whole: tuple[RunPaths, RunResult, list[Any]],
    toy_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = paths_of(tmp_path)

    def crash(*_: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", crash)
        with pytest.raises(Cut):
            fit(config_of(toy_overrides), paths=paths)
    told: list[int] = []
    fit(config_of(toy_overrides), lambda evaluation, _: told.append(evaluation.step), paths=paths)
    assert told == [3, 6]
    assert_same_run(paths, whole[0], step=6)


def test_a_run_cut_in_the_middle_of_a_later_epoch_goes_on_to_the_same_end(
    toy_overrides: list[str], tmp_path: Path
) -> None:
    # 23 pairs in steps of 2 · 4: three steps an epoch, cut after the first of the second
    config = config_of(
        toy_overrides,
        "training.gradient_accumulation_steps=2",
        "evaluation.eval_interval=4",
        "training.lr_scheduler=linear",
    )
    one, cut = paths_of(tmp_path / "one"), paths_of(tmp_path / "cut")
    fit(config, paths=one)
    with pytest.raises(Cut):
        fit(config, cut_at(4), paths=cut)
    fit(config, paths=cut)
    assert_same_run(cut, one, step=6)


def test_half_a_checkpoint_and_what_was_evaluated_from_it_are_passed_over(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path, caplog: Any
) -> None:
    paths = paths_of(tmp_path)
    shutil.copytree(whole[0].checkpoints, paths.checkpoints)
    (paths.checkpoints / "checkpoint-6" / "complete.json").unlink()
    (paths.checkpoints / "checkpoint-6" / "trainable.safetensors").write_bytes(b"half")
    told: list[int] = []
    with caplog.at_level(logging.WARNING, "phasegpt"):
        fit(config_of(toy_overrides), lambda evaluation, _: told.append(evaluation.step), paths=paths)
    assert "checkpoint-6 is not whole and is passed over" in caplog.text
    assert told == [3, 6]  # nobody knows whether the one at the cut had been told
    assert_same_run(paths, whole[0], step=6)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("trainable.safetensors", flip),
        ("trainable.safetensors", truncate),
        ("optimizer.pt", truncate),
        ("trainer_state.json", truncate),
        ("adapter_model/adapter_model.safetensors", flip),
    ],
)
def test_a_newest_checkpoint_with_damaged_bytes_falls_back_to_the_one_before_and_ends_the_same(
    whole: tuple[RunPaths, RunResult, list[Any]],
    toy_overrides: list[str],
    tmp_path: Path,
    caplog: Any,
    name: str,
    spoil: Callable[[Path], None],
) -> None:
    paths = paths_of(tmp_path)
    shutil.copytree(whole[0].checkpoints, paths.checkpoints)
    spoil(paths.checkpoints / "checkpoint-6" / name)
    steps: list[int] = []
    with caplog.at_level(logging.WARNING, "phasegpt"):
        fit(config_of(toy_overrides), paths=paths, on_step=lambda step, _: steps.append(step))
    assert f"checkpoint-6 is damaged ({name}) and is passed over" in caplog.text
    assert steps == [4, 5, 6]
    assert_same_run(paths, whole[0], step=6)


def test_a_damaged_best_checkpoint_is_an_error_and_never_published(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    paths = paths_of(tmp_path)
    shutil.copytree(whole[0].checkpoints, paths.checkpoints)
    shutil.rmtree(paths.adapter)
    evaluation = paths.checkpoints / "evaluations" / "step-00000003.json"
    stored = json.loads(evaluation.read_text())
    stored["summary"]["spiral_score"] = 2.0  # so that step 3 is the best
    evaluation.write_text(json.dumps(stored))
    flip(paths.checkpoints / "checkpoint-3" / "adapter_model" / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"checkpoint-3, the best of the run, is damaged .*; remove .* and run again"):
        fit(config_of(toy_overrides), paths=paths)
    assert not paths.adapter.exists()


# --- the folder belongs to one run -----------------------------------------------------------------------------------


def test_a_folder_of_another_config_or_half_is_refused(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str]
) -> None:
    with pytest.raises(RunError, match=r"run holds another run, .*; give this one another name"):
        fit(config_of(toy_overrides, "training.beta=0.3"), paths=whole[0])
    with pytest.raises(RunError, match="holds another run"):
        fit(config_of(toy_overrides), paths=whole[0], half="final")


def with_pairs_in(folder: Path, toy_overrides: list[str], toy_pairs_file: Path) -> tuple[Path, Config]:
    """A config on a copy of the pairs, which may change."""
    file = Path(shutil.copy(toy_pairs_file, folder / "own_pairs.jsonl"))
    return file, config_of(toy_overrides, f"training.preference_dataset={file}")


def test_a_cut_run_goes_on_with_no_other_data_than_it_was_begun_with(
    toy_overrides: list[str], toy_pairs_file: Path, tmp_path: Path
) -> None:
    file, config = with_pairs_in(tmp_path, toy_overrides, toy_pairs_file)
    paths, text = paths_of(tmp_path), file.read_text()
    with pytest.raises(Paused):
        fit(config, paths=paths, until=3)
    file.write_text(text.replace("It always stays", "It never stays"))
    with pytest.raises(
        RunError, match=r"v14/track_b/run: the data \(training.preference_dataset\) changed .*; put back"
    ):
        fit(config, paths=paths)
    file.write_text(text)
    claim = paths.checkpoints / "run.json"
    claimed = json.loads(claim.read_text())
    assert set(claimed["hashes"]) == {"data", "base_model", "reference_adapter"}
    claim.write_text(json.dumps({**claimed, "hashes": {**claimed["hashes"], "base_model": "another"}}))
    with pytest.raises(RunError, match=r"the base model \(model.base_model\) changed"):
        fit(config, paths=paths)
    del claimed["hashes"]  # as a run of before has it
    claim.write_text(json.dumps(claimed))
    assert fit(config, paths=paths).step == 6
    assert "hashes" in json.loads(claim.read_text())


def test_the_search_around_a_run_may_change(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str]
) -> None:
    again = fit(config_of(toy_overrides, "search.trials=3"), paths=whole[0])
    assert again.metrics == whole[1].metrics
    fit(config_of(toy_overrides), paths=whole[0])


# --- which checkpoint is the run's -----------------------------------------------------------------------------------


def scripted(values: Mapping[int, float], name: str) -> Any:
    """An evaluation that gives `name` the value of its step."""

    def evaluate(model: Any, shared: Any, suite: Any, step: int = 0, steps: int = 0) -> Evaluation:
        return Evaluation(step, steps, {name: values[step], "perplexity": 1.0})

    return evaluate


@pytest.mark.parametrize(
    ("metric", "values", "best_only", "chosen", "left"),
    [
        ("spiral_score", {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2}, True, 2, [2, 4]),
        ("eval_loss", {1: 0.6, 2: 0.9, 3: 0.5, 4: 0.8}, True, 3, [3, 4]),
        ("spiral_score", {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.1}, True, 3, [3, 4]),
        ("spiral_score", {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2}, False, 4, [3, 4]),
    ],
    ids=["max", "min", "a tie takes the later", "the last"],
)
def test_the_chosen_checkpoint_is_the_best_by_the_metric_or_else_the_last(
    toy_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    values: Mapping[int, float],
    best_only: bool,
    chosen: int,
    left: list[int],
) -> None:
    monkeypatch.setattr(train, "evaluate", scripted(values, metric))
    config = config_of(
        toy_overrides,
        "training.max_steps=4",
        "evaluation.eval_interval=1",
        "evaluation.save_total_limit=2",
        f"evaluation.metric_for_best_model={metric}",
        f"evaluation.save_best_only={json.dumps(best_only)}",
    )
    paths = paths_of(tmp_path)
    result = fit(config, paths=paths)
    assert (result.step, result.steps, result.metrics[metric]) == (chosen, 4, values[chosen])
    assert sorted(map(checkpoint_step, paths.checkpoints.glob("checkpoint-*"))) == left
    published = (paths.adapter / "adapter_model.safetensors").read_bytes()
    source = paths.checkpoints / f"checkpoint-{chosen}" / "adapter_model" / "adapter_model.safetensors"
    assert published == source.read_bytes()


NO_SEARCH = ("search.parameters={}", "search.objectives={spiral_score: max}", "search.constraints={}")
OWN_SOURCE = """
def rising(text):
    calls.append(text)
    return float(len(calls))

def broken(prompt, text):
    raise KeyError(prompt)

calls = []
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's own on the path, by its name."""
    (tmp_path / "mine_in_a_run.py").write_text(OWN_SOURCE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "mine_in_a_run"
    sys.modules.pop("mine_in_a_run", None)


@pytest.mark.parametrize(("better", "chosen"), [("min", 3), ("max", 6)])
def test_a_metric_of_ones_own_chooses_the_checkpoint_by_the_direction_of_the_objective(
    toy_overrides: list[str], tmp_path: Path, own_module: str, better: str, chosen: int
) -> None:
    name = f"{own_module}:rising"
    config = config_of(
        toy_overrides,
        f'evaluation.metrics=["{name}"]',
        f"evaluation.metric_for_best_model={name}",
        f'search.objectives={{"{name}": {better}}}',
        "search.constraints={}",
    )
    result = fit(config, paths=paths_of(tmp_path))
    assert result.step == chosen
    assert [row[name] for row in result.answers] == [4 * (chosen / 3 - 1) + n for n in (1, 2, 3, 4)]


def test_a_metric_of_ones_own_without_a_direction_cannot_choose_the_checkpoint(
    toy_overrides: list[str], tmp_path: Path, own_module: str
) -> None:
    name = f"{own_module}:rising"
    sets = (f'evaluation.metrics=[spiral_score, "{name}"]', f"evaluation.metric_for_best_model={name}")
    with pytest.raises(RunError, match=f"{name} does not say which way is better; give the function an attribute dir"):
        fit(config_of(toy_overrides, *sets, *NO_SEARCH), paths=paths_of(tmp_path))


def test_a_metric_of_ones_own_that_raises_ends_the_run_with_its_name_and_the_prompts(
    toy_overrides: list[str], tmp_path: Path, own_module: str
) -> None:
    config = config_of(toy_overrides, f'evaluation.metrics=[spiral_score, "{own_module}:broken"]', *NO_SEARCH)
    with pytest.raises(OwnMetricError, match=rf"{own_module}:broken on prompt toy-prompt-\d+: KeyError: 'Tell of"):
        fit(config, paths=paths_of(tmp_path))


def test_a_metric_of_ones_own_that_is_not_there_is_found_out_before_any_work(
    toy_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "prepare", lambda *_: pytest.fail("shared work was begun"))
    config = config_of(toy_overrides, 'evaluation.metrics=[spiral_score, "mine_of_nowhere:f"]', *NO_SEARCH)
    with pytest.raises(OwnMetricError, match="mine_of_nowhere:f: there is no module mine_of_nowhere; install it"):
        fit(config, paths=paths_of(tmp_path))


# --- runs that cannot be ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_without_a_result(toy_overrides: list[str], tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    with pytest.raises(NonFiniteLossError, match="at step 2"):
        fit(config_of(toy_overrides, "training.learning_rate=1e30"), paths=paths)
    assert not paths.results.exists()
    assert not list(paths.checkpoints.glob("checkpoint-*"))


def test_a_failed_run_leaves_the_warm_base_fit_for_the_next(
    whole: tuple[RunPaths, RunResult, list[Any]], toy_overrides: list[str], tmp_path: Path
) -> None:
    bench = Workbench()
    with pytest.raises(NonFiniteLossError):
        fit(config_of(toy_overrides, "training.learning_rate=1e30"), paths=paths_of(tmp_path, "bad"), workbench=bench)
    targets = config_of(toy_overrides, "model.lora_config.target_modules=[q_proj, nothing]")
    with pytest.raises(ModelError):
        fit(targets, paths=paths_of(tmp_path, "worse"), workbench=bench)
    fit(config_of(toy_overrides), paths=paths_of(tmp_path), workbench=bench)
    assert_same_run(paths_of(tmp_path), whole[0], step=6)


def test_shared_work_that_is_not_this_models_ends_the_run(
    toy_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(*arguments: Any, **options: Any) -> Any:
        shared = prepare(*arguments, **options)
        shared._logps += 1.0
        return shared

    monkeypatch.setattr(material, "prepare", tampered)
    with pytest.raises(ReferenceMismatchError, match="answer of pair toy-"):
        fit(config_of(toy_overrides), paths=paths_of(tmp_path))


def test_nothing_left_to_train_on_is_an_error(toy_overrides: list[str], tmp_path: Path) -> None:
    held_out = "evaluation.held_out_domains=[philosophy, science, social, artistic]"
    with pytest.raises(PairsError, match="no pair is left to train on"):
        fit(config_of(toy_overrides, held_out), paths=paths_of(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what this machine has")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment.device=cuda", "this machine has no GPU"),
        ("training.bf16=true", "half precision needs a GPU"),
        ("training.fp16=true", "half precision needs a GPU"),
    ],
)
def test_what_only_a_gpu_can_do_is_an_error_without_one(toy_overrides: list[str], override: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        device_of(config_of(toy_overrides, override))


def test_a_missing_reference_adapter_is_an_error_with_kto_and_the_base_with_dpo(
    toy_overrides: list[str], tmp_path: Path
) -> None:
    kto = config_of(toy_overrides, "training.max_steps=1")
    missing = {"reference_model": str(tmp_path / "absent")}
    with pytest.raises(ModelError, match="no adapter there"):
        fit(kto.model_copy(update={"training": kto.training.model_copy(update=missing)}), paths=paths_of(tmp_path))
    dpo = kto.training.model_copy(update={**missing, "method": "dpo", "kto_lambda": None})
    result = fit(kto.model_copy(update={"training": dpo}), paths=paths_of(tmp_path, "dpo"))
    assert result.hashes["reference_adapter"] == ""


# --- the baseline and the two stages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [False, True], ids=["adapters", "adapters and branch"])
def test_the_supervised_stage_is_trained_once_and_the_preference_stage_starts_from_it(
    toy_overrides: list[str], tmp_path: Path, phase: bool
) -> None:
    branch = ["model.use_phase_attention=true", "model.phase_layer_idx=[1]", "model.num_oscillators=8"]
    more = ["evaluation.eval_interval=2", *(branch if phase else [])]
    first = fit(config_of(toy_overrides, *more, track="c"), paths=paths_of(tmp_path, "one", "c"))
    [stage] = [path for path in (tmp_path / "checkpoints" / "v14" / "stages").iterdir() if path.is_dir()]
    stamp = (stage / "result.json").stat().st_mtime_ns
    supervised = RunResult.read(stage / "result.json")
    assert supervised.training_log[-1]["loss"] < supervised.training_log[0]["loss"]
    assert first.training_log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert len(first.training_log) == 2
    assert first.hashes["reference_adapter"]
    assert (Path(first.adapter) / "phase_branch.safetensors").is_file() == phase
    assert (first.parameters["phase_branch"] > 0) == phase

    other = config_of(toy_overrides, *more, "training.beta=0.5", track="c")
    second = fit(other, paths=paths_of(tmp_path, "two", "c"))
    assert (stage / "result.json").stat().st_mtime_ns == stamp
    assert len([path for path in stage.parent.iterdir() if path.is_dir()]) == 1
    assert second.hashes == first.hashes
    assert second.metrics["eval_loss"] != first.metrics["eval_loss"]
    shared_folder = tmp_path / "checkpoints" / "v14" / "shared_work"
    assert len([path for path in shared_folder.iterdir() if path.is_dir()]) == 2  # the base, the supervised adapter


def test_all_that_chooses_a_supervised_stages_checkpoint_makes_another_stage(
    toy_overrides: list[str],
    toy_prompts_file: Path,
    whole: tuple[RunPaths, RunResult, list[Any]],
    tmp_path: Path,
    own_module: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts, prose = tmp_path / "prompts.jsonl", tmp_path / "prose.txt"
    adapter = tmp_path / "reference"
    shutil.copy(toy_prompts_file, prompts)
    shutil.copytree(whole[0].adapter, adapter)
    prose.write_text("People say the river stays. " * 20)
    sets = [
        f"evaluation.prompts={prompts}",
        f"evaluation.fluency_text={prose}",
        f"training.reference_model={adapter}",
        f'evaluation.metrics=[perplexity, eval_loss, "{own_module}:rising"]',
        "evaluation.metric_for_best_model=eval_loss",
        *NO_SEARCH,
    ]
    config, _ = stages(config_of(toy_overrides, *sets, track="c"))
    paths, bench = paths_of(tmp_path, track="c"), Workbench()
    seen = [train.stage_content(config, paths, bench)]
    assert train.stage_content(config, paths, bench) == seen[0]
    for file in (prompts, prose, tmp_path / f"{own_module}.py", adapter / "adapter_config.json"):
        file.write_text(file.read_text() + "\n")
        seen.append(train.stage_content(config, paths, bench))
    monkeypatch.setattr(train, "scorer", lambda: "spiral of tomorrow")
    seen.append(train.stage_content(config, paths, bench))
    assert len(set(seen)) == len(seen)


def test_other_pairs_make_another_supervised_stage(toy_overrides: list[str], tmp_path: Path) -> None:
    config, _ = stages(config_of(toy_overrides, track="c"))
    paths = paths_of(tmp_path, track="c")
    one, same, other = (train.stage_paths(config, paths, (content, "base")) for content in ("a", "a", "b"))
    assert one == same
    assert one.checkpoints != other.checkpoints


# --- from a config ---------------------------------------------------------------------------------------------------


def test_the_method_names_the_objective(toy_overrides: list[str]) -> None:
    config = config_of(toy_overrides, "training.beta=0.2", "training.kto_lambda=0.3")

    def with_method(**changes: Any) -> Config:
        return config.model_copy(update={"training": config.training.model_copy(update=changes)})

    assert objective_of(config) == PenalisedDpo(Dpo(0.2), 0.3)
    assert objective_of(with_method(method="dpo", label_smoothing=0.1)) == Dpo(0.2, 0.1)
    assert objective_of(with_method(method="lora")) == Sft()
    unpaired = {"method": "kto_unpaired", "desirable_weight": 1.5, "undesirable_weight": 0.5}
    assert objective_of(with_method(**unpaired)) == Kto(0.2, 1.5, 0.5, joined)


def test_the_loops_numbers_are_the_configs(toy_overrides: list[str]) -> None:
    config = config_of(toy_overrides, "experiment.seed=7", "training.warmup_ratio=0.25")
    settings = trainer_settings(config, "cpu")
    assert (settings.seed, settings.warmup_ratio, settings.max_steps, settings.device) == (7, 0.25, 6, "cpu")
    assert settings == replace(settings, eval_interval=3, learning_rate=1e-2, batch_size=4)


def test_an_output_folder_replaces_the_checkpoints_place_alone(tmp_path: Path) -> None:
    plain, moved = run_paths(tmp_path, "a", "x"), run_paths(tmp_path, "a", "x", "elsewhere")
    assert moved == replace(plain, checkpoints=tmp_path / "elsewhere")
    assert moved.adapter == tmp_path / "elsewhere" / "adapter_model"
