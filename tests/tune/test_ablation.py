"""Arms, what they are compared by, and one real ablation on the toy model."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from phasegpt.config_errors import ConfigError
from phasegpt.config_io import Tree, load_tree, track_config
from phasegpt.files import read_json
from tests.mlflow_store import migrated
from tests.ray_cluster import Cluster
from tune.ablated import put_together
from tune.ablation import Ablation, common_kl, compared, last_shared_step, scores_at_kl
from tune.arms import Arm, parse_arms
from tune.report_pictures_finals import ablation_picture
from tune.report_svg import report_style, save_png
from tune.request import Request, RequestError, new_request

LAMBDA, BETA = "training.kto_lambda", "training.beta"


@pytest.fixture
def tree() -> Tree:
    return load_tree(track_config("b"), "laptop", [("search.parameters", {}, "test")])


# --- arms ------------------------------------------------------------------------------------------------------------


def test_a_lambda_ablation_is_dpo_the_penalised_sums_and_true_kto(tree: Tree) -> None:
    arms, remarks = parse_arms([f"{LAMBDA}=0,0.01,0.5"], tree)
    assert [arm.label for arm in arms] == [
        "DPO (λ = 0)", "DPO + λ·KL, λ = 0.01", "DPO + λ·KL, λ = 0.5", "KTO, unpaired labels",
    ]  # fmt: skip
    assert [arm.values.get(LAMBDA) for arm in arms] == [0, 0.01, 0.5, None]
    assert arms[3].values == {
        "training.method": "kto_unpaired", "training.batch_size": 4, "training.gradient_accumulation_steps": 1,
    }  # fmt: skip
    assert remarks == []


def test_several_ablations_add_their_arms_one_factor_at_a_time(tree: Tree) -> None:
    arms, _ = parse_arms([f"{BETA}=0.1,5e-2", "training.method=dpo,kto_unpaired"], tree)
    assert [arm.values for arm in arms] == [
        {BETA: 0.1}, {BETA: 0.05}, {"training.method": "dpo"}, {"training.method": "kto_unpaired"},
    ]  # fmt: skip
    assert [arm.label for arm in arms] == ["β = 0.1", "β = 0.05", "method = dpo", "KTO, unpaired labels"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"{LAMBDA}", "expected key.path=value,value"),
        (f"{LAMBDA}=", "expected key.path=value,value"),
        (f"{BETA}=0.1,-1", "training.beta: expected a number > 0.0, found -1"),
        ("training.bta=1", "no such key"),
    ],
)
def test_an_arm_that_the_config_refuses_is_named(tree: Tree, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_arms([word], tree)


# --- what they are compared by ---------------------------------------------------------------------------------------


def evaluation(step: int, kl: float, *scores: float) -> dict[str, Any]:
    rows = [{"id": f"p{n}", "spiral_score": score} for n, score in enumerate(scores)]
    summary = {"kl_divergence": kl, "spiral_score": fmean(scores)}
    return {"step": step, "summary": summary, "answers": rows, "pairs": []}


UNTUNED = {"metrics": {"spiral_score": 0.2}, **evaluation(0, 0.0, 0.1, 0.3)}
RUN = [evaluation(2, 0.2, 0.3, 0.3), evaluation(4, 0.1, 0.0, 0.0), evaluation(6, 0.6, 0.7, 0.1)]


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.1, {"p0": 0.2, "p1": 0.3}),  # half way from the untuned model to step 2
        (0.2, {"p0": 0.3, "p1": 0.3}),
        (0.4, {"p0": 0.35, "p1": 0.05}),  # from step 4 on: the run had been at 0.2 before
        (0.6, {"p0": 0.7, "p1": 0.1}),
        (0.9, {"p0": 0.7, "p1": 0.1}),  # it never got there
    ],
)
def test_scores_at_a_kl_lie_between_the_evaluations_around_it(kl: float, expected: Mapping[str, float]) -> None:
    assert scores_at_kl(RUN, UNTUNED, "spiral_score", kl) == pytest.approx(expected)


def test_pairs_of_another_split_stand_at_the_references_mean() -> None:
    fresh = [{**RUN[0], "answers": [{"id": "other", "spiral_score": 0.6}]}]
    assert scores_at_kl(fresh, UNTUNED, "spiral_score", 0.05) == pytest.approx({"other": 0.3})


def test_arms_meet_at_the_last_step_of_all_and_at_the_kl_that_all_have_spent() -> None:
    short = RUN[:2]
    assert last_shared_step([RUN, short]) == 4
    assert common_kl([[RUN, RUN], [short, RUN]], step=6) == pytest.approx((0.1 + 0.6) / 2)


def draw(found: Ablation, folder: Path) -> None:
    with report_style():
        save_png([ablation_picture(found.as_dict(), "arms", found.better)], folder)


def test_arms_that_share_no_step_meet_where_each_ended(toy_sets: list[str], tmp_path: Path) -> None:
    assert last_shared_step([RUN[:1], RUN[1:]]) is None
    found = put_together(arms_of(toy_sets, tmp_path), [0, 1], [[RUN[:1]], [RUN[1:]]], UNTUNED)
    assert (found.step, found.where) == (None, "at the end of each run")
    assert [arm.scores for arm in found.at_steps] == [[{"p0": 0.3, "p1": 0.3}], [{"p0": 0.7, "p1": 0.1}]]
    assert found.kl == 0.2
    assert found.as_dict()["step"] is None
    draw(found, tmp_path)


def test_without_the_control_there_are_no_gains_and_who_is_left_out_is_named(
    toy_sets: list[str], tmp_path: Path
) -> None:
    found = put_together(arms_of(toy_sets, tmp_path), [1, 2], [[RUN], [RUN]], UNTUNED)
    assert [arm.gain for arm in (*found.at_steps, *found.at_kl)] == [None] * 4
    assert [arm.best for arm in found.at_steps] == [0.5, 0.5]
    assert found.as_text().splitlines()[-1] == "left out, without a result on every seed: β = 0.1"
    assert found.as_dict()["left_out"] == ["β = 0.1"]


def test_arms_that_share_fewer_than_two_prompts_have_intervals_and_no_gains() -> None:
    scores = [[{"a": 0.1, "b": 0.2}], [{"b": 0.3, "c": 0.4}]]
    first, second = compared(["x", "y"], [{}, {}], scores, [0.0] * 2, [None] * 2, "max")
    assert (second.gain, first.best, first.mean) == (None, None, pytest.approx(0.15))
    assert None not in (first.interval, second.interval)


def test_what_arms_are_compared_by_has_to_be_measured(toy_sets: list[str], tmp_path: Path) -> None:
    sets = ["evaluation.metrics=[perplexity]", "evaluation.metric_for_best_model=perplexity"]
    with pytest.raises(RequestError, match="by spiral_score, which is not measured; add it to evaluation"):
        arms_of([*toy_sets, *sets], tmp_path)


def arms_of(toy_sets: list[str], folder: Path) -> Request:
    sets = [*toy_sets, "search.objectives={spiral_score: max}"]
    return new_request(
        "b", profile="laptop", overrides=sets, name="arms", storage=str(folder), ablate=[f"{BETA}=0.1,0.2,0.3"]
    )


def runs(shift: float, seeds: Sequence[float]) -> list[dict[str, float]]:
    return [{f"p{n:02d}": 0.3 + n / 40 + shift + seed for n in range(12)} for seed in seeds]


def measured() -> list[Any]:
    arms = [Arm("DPO (λ = 0)", {LAMBDA: 0}), Arm("λ = 0.1", {LAMBDA: 0.1}), Arm("λ = 0.5", {LAMBDA: 0.5})]
    scores = [runs(0.0, (0, 0.01, -0.01)), runs(0.2, (0, 0.02, 0.01)), runs(-0.001, (0.01, 0, -0.02))]
    labels, values = [arm.label for arm in arms], [arm.values for arm in arms]
    return compared(labels, values, scores, [0.0] * 3, [0.5, 0.4, 0.2], "max")


def test_each_arm_has_an_interval_and_all_but_the_first_a_gain_over_it() -> None:
    control, better, same = measured()
    assert control.gain is None
    assert better.gain.mean == pytest.approx(0.21)
    assert better.gain.low > 0
    assert same.gain.low < 0 < same.gain.high
    assert better.interval.low < better.mean < better.interval.high
    assert sum(arm.best for arm in (control, better, same)) == pytest.approx(1)
    assert better.best > 0.95


def test_the_text_says_of_each_arm_whether_it_can_be_told_from_the_first(tmp_path: Path) -> None:
    found = Ablation("spiral_score", "max", 6, 3, 0.25, measured(), 0.2, measured())
    lines = found.as_text().splitlines()
    assert lines[0] == "spiral_score at equal steps (6):"
    assert lines[1].startswith("  DPO (λ = 0)")
    assert lines[2].endswith(": better")
    assert lines[3].endswith(": not distinguishable")
    assert "at equal KL (0.2 nats a token; 3 evaluations a run)" in lines[4]
    draw(found, tmp_path)
    assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")


# --- a real one ------------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_ablation_runs_every_arm_on_every_seed_and_compares_them(
    ray_cluster: Cluster, toy_sets: list[str], tmp_path: Path
) -> None:
    sets = [*toy_sets, "training.learning_rate=1e-3", "evaluation.metrics=[eval_loss, spiral_score, kl_divergence]"]
    words = ["--track", "b", "--profile", "laptop", "--storage", str(tmp_path), "--name", "arms", "--json"]
    words += ["--tracking-uri", migrated(tmp_path), "--address", ray_cluster.address]
    words += ["--ablate", f"{LAMBDA}=0,5", "--seeds", "2", *[w for value in sets for w in ("--set", value)]]
    done = subprocess.run(
        [sys.executable, "-m", "tune.search", *words],
        cwd=Path(__file__).parents[2], env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [arm["arm"] for arm in found["equal_steps"]] == [
        "DPO (λ = 0)", "DPO + λ·KL, λ = 5", "KTO, unpaired labels",
    ]  # fmt: skip
    assert (found["step"], found["evaluations_a_run"]) == (4, 2)
    free, bound, _ = (arm["kl_divergence"] for arm in found["equal_steps"])
    assert 0 < bound < free
    assert found["kl"] == pytest.approx(min(arm["kl_divergence"] for arm in found["equal_steps"]))
    at_kl = [arm["mean"] for arm in found["equal_kl"]]
    assert all(0.5 < loss < 0.6931 for loss in at_kl)
    assert found["baseline"] == pytest.approx(0.6931, abs=1e-3)
    results = sorted(path.stem for path in (tmp_path / "results/v14/track_b/arms").glob("*.json"))
    assert results == ["arm-00-seed-1042", "arm-00-seed-1043", "arm-01-seed-1042", "arm-01-seed-1043",
                       "arm-02-seed-1042", "arm-02-seed-1043", "baseline-final"]  # fmt: skip
    splits = [read_json(tmp_path / f"results/v14/track_b/arms/arm-0{n}-seed-1042.json")["pairs"] for n in (0, 1)]
    assert [row["id"] for row in splits[0]] == [row["id"] for row in splits[1]]
    assert (tmp_path / "results/v14/track_b/arms.png").is_file()
