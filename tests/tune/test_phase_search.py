"""A search over the phase branch: its layer, which is a list, and its constants; from the file to finished runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from phasegpt.config import Config
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import Tree, load_config, load_tree, track_config
from phasegpt.config_ranges import Distribution
from phasegpt.config_search import Search
from phasegpt.parts import Workbench
from phasegpt.runs import run_paths
from phasegpt.train import fit
from tune.space import as_optuna, contains, from_optuna, grid_points, to_optuna
from tune.study import Asked, Study

LAYERS = "model.phase_layer_idx"
SPACE = {
    LAYERS: {"choice": [[1], [2], ["0.5", 3]]},
    "model.num_oscillators": {"choice": [4, 8]},
    "model.coupling_strength": {"uniform": [0.0, 1.5]},
    "model.dt": {"loguniform": [0.05, 0.2]},
    "model.n_sync_steps": {"randint": [1, 4]},
}
OWN = {LAYERS: ["0.3"], "model.num_oscillators": 32, "model.coupling_strength": 1.0, "model.dt": 0.1}
OWN |= {"model.n_sync_steps": 5}


def study(folder: Path, seed: int = 3, **settings: object) -> Study:
    wanted = {"objectives": {"eval_loss": "min"}, "parameters": SPACE, "trials": 12, **settings}
    return Study("phase", folder / "study.journal", Search.model_validate(wanted), dict(OWN), seed)


def ask_all(of: Study) -> list[Asked]:
    """Ask and complete until the budget is spent; the later layer is the better one."""
    asked = []
    while (question := of.ask()) is not None:
        asked.append(question)
        of.complete(question.number, {"eval_loss": 1 / (1 + len(str(question.values[LAYERS])))}, {})
    return asked


def toy_tree(toy_sets: Sequence[str], *more: str) -> Tree:
    branch = [f"search.parameters={json.dumps(SPACE)}", "model.use_phase_attention=true", "training.max_steps=2"]
    return load_tree(track_config("b"), "laptop", [*toy_sets, *branch, *more])


# --- lists as choices ------------------------------------------------------------------------------------------------


def test_a_list_survives_optuna_and_everything_else_is_left_as_it_is() -> None:
    distribution = Distribution("choice", ((1,), ("0.5", 2), "upper_third", None, 7))
    optuna = to_optuna(distribution, own=["0.3"])
    assert optuna.choices == ("[1]", '["0.5", 2]', "upper_third", None, 7, '["0.3"]')
    for value in (*distribution.plain(), ["0.3"]):
        found = from_optuna(as_optuna(value), distribution, ["0.3"])
        assert (found, type(found)) == (value, type(value))
    assert from_optuna("[9]", Distribution("choice", ("[9]",)), "[9]") == "[9]"
    assert to_optuna(distribution, own=[1]).choices == optuna.choices[:-1]


def test_a_range_of_lists_holds_its_lists() -> None:
    distribution = Distribution.parse(SPACE[LAYERS])
    assert contains(distribution, ["0.5", 3])
    assert not contains(distribution, [3])


def test_a_grid_of_lists_asks_every_point_with_lists(tmp_path: Path) -> None:
    grid = {LAYERS: {"grid": [[1], ["0.5"]]}, "model.num_oscillators": {"grid": [4, 32]}}
    points = grid_points(
        Search.model_validate({"parameters": grid}).parameters, {LAYERS: [1], "model.num_oscillators": 7}
    )
    assert [point[LAYERS] for point in points[1:]] == [[1], [1], ["0.5"], ["0.5"]]
    asked = ask_all(study(tmp_path, parameters=grid, sampler="grid"))
    found = [(a.values[LAYERS], a.values["model.num_oscillators"]) for a in asked]
    assert found == [(["0.3"], 32), ([1], 4), ([1], 32), (["0.5"], 4), (["0.5"], 32)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_layers_are_sampled_as_lists_and_come_back_from_the_journal(tmp_path: Path, sampler: str) -> None:
    asked = ask_all(study(tmp_path, sampler=sampler))
    assert asked[0].values == OWN
    layers = [question.values[LAYERS] for question in asked]
    assert all(value in SPACE[LAYERS]["choice"] or value == OWN[LAYERS] for value in layers)
    assert len({str(value) for value in layers}) > 2
    reopened = study(tmp_path, sampler=sampler)
    assert [reopened.values(trial) for trial in reopened.trials()] == [question.values for question in asked]
    assert reopened.ask() is None


def test_a_trial_that_was_running_when_its_process_died_is_asked_again_with_its_layer(tmp_path: Path) -> None:
    before = study(tmp_path)
    asked = [before.ask() for _ in range(3)]
    again = study(tmp_path)
    assert [again.ask() for _ in range(3)] == asked


# --- from the file to finished runs ----------------------------------------------------------------------------------


def test_the_space_loads_and_comes_back_from_the_resolved_config(toy_sets: list[str]) -> None:
    config = toy_tree(toy_sets).typed()
    assert config.search.parameters[LAYERS].values == ((1,), (2,), ("0.5", 3))
    assert Config.model_validate(config.dump()) == config
    assert config.dump()["search"]["parameters"][LAYERS] == {"choice": [[1], [2], ["0.5", 3]]}


def test_a_layer_that_no_model_has_is_refused_with_its_place(toy_sets: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"its value \[-1\] is refused: model.phase_layer_idx.*expected a list of layer"
    ):
        toy_tree(toy_sets, f"search.parameters.{LAYERS}={{choice: [[1], [-1]]}}").typed()
    with pytest.raises(ConfigError, match=r"its value \[1\] is refused: training.beta"):
        toy_tree(toy_sets, "search.parameters.training.beta={choice: [0.1, [1]]}").typed()


def test_a_search_of_a_branch_that_is_off_is_refused_with_the_cure(toy_sets: list[str]) -> None:
    sets = [*toy_sets, f"search.parameters.{LAYERS}={{choice: [[1], [2]]}}"]
    with pytest.raises(ConfigError, match=f"{LAYERS}: unused while model.use_phase_attention is false"):
        load_config(track_config("b"), "laptop", sets)


@pytest.mark.usefixtures("one_thread")
def test_every_sampled_branch_trains_and_is_saved_with_its_own_constants(toy_sets: list[str], tmp_path: Path) -> None:
    tree, bench = toy_tree(toy_sets), Workbench()
    asking = study(tmp_path, seed=5, trials=4, sampler="random")
    while (asked := asking.ask()) is not None:
        config = tree.with_values(asked.values, origin=f"trial-{asked.number}").typed()
        result = fit(config, paths=run_paths(tmp_path, "b", f"trial-{asked.number}"), workbench=bench)
        saved = json.loads((Path(result.adapter) / "phase_branch.json").read_text())
        assert {f"model.{name}": saved[name] for name in saved if f"model.{name}" in SPACE} == {
            key: value for key, value in asked.values.items() if key != LAYERS
        }
        assert saved["layers"] == asked.values[LAYERS]
        asking.complete(asked.number, result.metrics, {})
    assert len({str(asking.values(trial)[LAYERS]) for trial in asking.trials()}) > 2
    assert all(trial.values for trial in asking.trials())
