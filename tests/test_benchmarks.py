"""The benchmark scripts run on the toy model and print what scripts rely on. Their figures there mean nothing.

What they reckon from figures is held against numbers worked by hand.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.fluency_at_kl import factors, fitted, points_of, sides
from tests.benchmarks.scaling import QWEN, exponent, random_model
from tests.benchmarks.search_runs import (
    Evaluation,
    Run,
    Trial,
    all_evaluated,
    evaluated,
    leads_for_good,
    ratio,
    training_only,
    warm_service,
)
from tune.shapes import KNOWN

ROOT = Path(__file__).parents[1]


def trial(seconds: float, training: float = 0.0, evaluation: float = 0.0, *evaluations: Evaluation) -> Trial:
    return Trial(seconds, training, evaluation, evaluations)


OURS = Run((trial(10.0, 6.0, 3.0), trial(8.0, 6.0, 1.5)), before=20.0, after=4.0, evaluation=6.0)
THEIRS = Run((trial(50.0, 30.0, 10.0), trial(70.0, 30.0, 10.0)), before=1.0, after=5.0)


def test_a_search_takes_what_its_trials_take_and_what_lies_before_and_after() -> None:
    assert evaluated(OURS, (0, 1)) == 20 + 10 + 8 + 4
    assert training_only(OURS, (0, 1)) == 42 - 6 - 3 - 1.5
    assert evaluated(THEIRS, (1, 1)) == 1 + 70 + 70 + 5  # as a bootstrap may draw them


def test_service_is_what_lies_outside_steps_and_evaluations_once_warm() -> None:
    assert warm_service([OURS, THEIRS]) == [8 - 6 - 1.5, 70 - 30 - 10]


def tuned(number: int, kto_lambda: float, factor: float) -> dict[str, Any]:
    """A trial whose perplexity rises over 30 by `factor` times 10 · KL^0.8; its best evaluation is its second one."""
    spent = [0.0004, 0.002 * (number + 1), 0.01 * (number + 1)]
    rows = [{"kl_divergence": kl, "perplexity": 30 + factor * 10 * kl**0.8} for kl in spent]
    curve = {str(step): row for step, row in enumerate(rows)}
    return {"params": {"training.kto_lambda": kto_lambda}, "curve": curve, "metrics": rows[1]}


def test_the_price_of_movement_with_lambda_is_held_against_that_without_at_equal_kl() -> None:
    trials = [*(tuned(n, 0.0, 1.0) for n in range(4)), *(tuned(n, 0.3, 0.8) for n in range(1, 6))]
    without, with_lambda = sides({"baseline": {"metrics": {"perplexity": 30.0}}, "trials": trials})
    assert (len(without), len(with_lambda)) == (4, 5)
    assert [kl for kl, _ in points_of(trials[0], 30.0)] == [0.002, 0.01]
    assert [rise for _, rise in points_of(trials[0], 30.0)] == pytest.approx([10 * 0.002**0.8, 10 * 0.01**0.8])
    assert fitted(without, with_lambda) == pytest.approx((0.8, 0.8))
    assert factors(without, with_lambda)[:20] == pytest.approx([0.8] * 20)


def test_a_ratio_of_searches_has_a_range_that_its_trials_give() -> None:
    median, low, high = ratio([THEIRS], [OURS], evaluated)
    assert median == 126 / 42
    assert (low, high) == (106 / 44, 146 / 40)  # the first trial drawn twice, the second drawn twice
    same = Run((trial(50.0), trial(50.0)))
    assert ratio([same], [same], evaluated) == (1, 1, 1)
    assert ratio([same, THEIRS, THEIRS], [same, OURS, OURS], evaluated)[0] == 3  # the median of rounds


def test_the_last_trial_to_be_evaluated_first_says_when_every_trial_was() -> None:
    run = Run(
        (
            trial(10.0, 0, 0, Evaluation(6, 4.0, 0.7), Evaluation(12, 9.0, 0.6)),
            trial(5.0, 0, 0, Evaluation(6, 4.0, 0.69)),
            trial(10.0, 0, 0, Evaluation(6, 4.0, 0.5), Evaluation(12, 9.5, 0.55)),
        ),
        before=100.0,
    )
    assert all_evaluated(run) == 100 + 10 + 5 + 4
    assert leads_for_good(run, 12) == (100 + 10 + 5 + 9.5, 2)


def test_a_trial_that_was_stopped_does_not_lead_whatever_it_lost() -> None:
    run = Run((trial(10.0, 0, 0, Evaluation(12, 9.0, 0.6)), trial(5.0, 0, 0, Evaluation(6, 4.0, 0.1))))
    assert leads_for_good(run, 12) == (9.0, 0)


def test_the_exponent_of_a_cost_is_its_slope_between_logarithms() -> None:
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([100, 1000, 10_000], [0.5, 0.5, 0.5]) == pytest.approx(0)
    assert exponent([100], [0.5]) is None
    assert exponent([100, 1000], [0.0, 1.0]) is None


def left(file: Path, at: float, **content: Any) -> None:
    """A file of our search, last written `at`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    os.utime(file, (at, at))


def test_what_our_search_took_is_read_from_the_files_that_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    from search_sides import our_run

    results, jobs = (tmp_path / top / "v14" / "track_a" / "bench" for top in ("results", "checkpoints"))
    left(results / "baseline-search.json", 1010, seconds={"pairs": 1.0, "answers": 2.0})
    left(results / "baseline-final.json", 1020, seconds={"pairs": 1.0})
    judged = {"seconds": {"pairs": 0.5, "answers": 1.5}, "summary": {"eval_loss": 0.6}}
    left(jobs / "trial-000" / "evaluations" / "step-00000006.json", 1025, step=6, **judged)
    left(jobs / "trial-000" / "evaluations" / "step-00000012.json", 1034, step=12, **judged)
    left(results / "trial-000.json", 1035, clock={"step_seconds": 9.0})
    left(jobs / "trial-001" / "evaluations" / "step-00000006.json", 1040, step=6, **judged)  # it was stopped there
    left(results / "final-000-seed-1042.json", 1060)
    left(tmp_path / "checkpoints" / "v14" / "shared_work" / "entry" / "answers.json", 1005, seconds=4.0)
    run = our_run(tmp_path, 2, begun=1000, ended=1063)
    assert (run.before, run.after, run.evaluation) == (20, 3, 4)
    assert run.parts == {"baseline_evaluations": 4, "shared_work": 4, "finals": 20, "ending": 3}
    assert [trial.seconds for trial in run.trials] == [15, 5]
    assert [trial.evaluation for trial in run.trials] == [4, 2]
    assert run.trials[0].service == 15 - 9 - 4
    assert [(each.step, each.at) for each in run.trials[0].evaluations] == [(6, 5), (12, 14)]
    assert evaluated(run, (0, 1)) == 63 - 20  # its finals are not in it


def kept(file: Path, **asked: Any) -> list[str]:
    """A file of `--keep` in which two trials of all sides are measured, and the options that read it."""
    settings = {"trials": 2, "steps": 12, "sets": [], **asked}
    whole = {
        "ours": OURS,
        "ray_pattern": THEIRS,
        "trl_processes/0": THEIRS.trials[0],
        "trl_processes/1": THEIRS.trials[1],
    }
    rows = [
        {"unit": f"upper_third/0/{unit}", "asked": settings, "found": asdict(found)} for unit, found in whole.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["--trials", "2", "--placements", "upper_third", "--keep", str(file), "--json"]


def ran(script: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, f"tests/benchmarks/{script}.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_search_benchmark_reckons_with_what_it_has_kept_and_measures_nothing_twice(tmp_path: Path) -> None:
    shown = ran("search", *kept(tmp_path / "kept.jsonl"))
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""  # it says what it begins to measure
    found = json.loads(shown.stdout)
    row = found["upper_third"]
    assert row["vs_ray_pattern_evaluated"] == 126 / 42
    assert row["vs_trl_processes_evaluated"] == 120 / 42
    assert row["vs_trl_processes"] == 100 / 31.5
    assert found["service_seconds"] == {"ours": 0.5, "trl_processes": 30.0, "ray_pattern": 30.0}


def test_figures_of_another_search_are_refused(tmp_path: Path) -> None:
    shown = ran("search", *kept(tmp_path / "kept.jsonl", steps=6))
    assert shown.returncode == 2
    assert "kept.jsonl:1: measured with other options" in shown.stderr


@pytest.mark.slow
def test_the_step_benchmark_prints_the_agreed_object(toy_model_dir: Path, toy_pairs_file: Path) -> None:
    options = ["--model", str(toy_model_dir), "--data", str(toy_pairs_file), "--rounds", "1", "--json"]
    command = [sys.executable, "tests/benchmarks/step.py", *options]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found.keys() == {"all_layers", "upper_third", "gemm_share"}
    for placement in ("all_layers", "upper_third"):
        row = found[placement]
        assert {"ours_s", "trl_live_s", "trl_precomputed_s", "ratio_live", "ratio_precomputed"} <= row.keys()
        assert row["losses"]["ours"] == pytest.approx(row["losses"]["trl_live"], abs=1e-5)
        assert row["losses"]["ours"] == pytest.approx(row["losses"]["trl_precomputed"], abs=1e-5)
        assert row["losses"]["ours"] != pytest.approx(0.693147, abs=1e-4)
        assert 0 < row["gemm_share"] < 1


@pytest.fixture
def toy_sets_of_a_search(
    toy_model_dir: Path, toy_pairs_file: Path, toy_prompts_file: Path, tmp_path: Path
) -> list[str]:
    """`--set` options that make a search of the benchmark one of seconds."""
    prose = tmp_path / "prose.txt"
    prose.write_text("People say the river stays. " * 40, encoding="utf-8")
    sets = [
        f"model.base_model={toy_model_dir}",
        f"training.preference_dataset={toy_pairs_file}",
        f"evaluation.prompts={toy_prompts_file}",
        f"evaluation.fluency_text={prose}",
        "evaluation.fluency_tokens=100",
        "evaluation.max_new_tokens=8",
    ]
    return [word for value in sets for word in ("--set", value)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_search_benchmark_runs_the_same_trials_on_all_sides(toy_sets_of_a_search: list[str]) -> None:
    options = ["--trials", "2", "--steps", "2", "--placements", "upper_third", "--stopping", "--json"]
    shown = ran("search", *options, *toy_sets_of_a_search)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    row = found["upper_third"]
    assert {
        "vs_trl_processes",
        "vs_ray_pattern",
        "vs_trl_processes_evaluated",
        "vs_ray_pattern_evaluated",
    } <= row.keys()
    assert found["service_seconds"].keys() == {"ours", "trl_processes", "ray_pattern"}
    assert row["stopping"].keys() == {"ours_stopping", "trl_processes", "ray_pattern"}
    for side in ("ours", "trl_processes", "ray_pattern"):
        assert row["parts"][side]["training"] > 0
        assert row["seconds"][side]["evaluated"] > row["seconds"][side]["training_only"] > 0
    assert row["parts"]["ours"]["finals"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_scaling_benchmark_prints_every_axis(toy_model_dir: Path) -> None:
    axes = ["pairs", "length", "parameters", "slots"]  # the tracks' own forms take gigabytes
    shown = ran("scaling", "--axes", *axes, "--model", str(toy_model_dir), "--points", "2", "--rounds", "1", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["pairs"]["sizes"] == [100, 1000]
    assert found["pairs"]["exponents"]["shared_mib"] == pytest.approx(1, abs=0.05)
    assert found["length"]["exponents"]["shared_mib"] == pytest.approx(1, abs=0.1)
    assert [(row["slots"], row["threads"]) for row in found["slots"]] == [(1, 2), (1, 1), (2, 1)]


def test_the_page_has_the_ratios_of_what_was_measured() -> None:
    shown = ran("search", "--keep", "docs/measurements/search-2026-11-26.jsonl", "--stopping", "--json")
    assert shown.returncode == 0, shown.stderr
    page = (ROOT / "docs" / "performance.md").read_text()
    for row in (found for name, found in json.loads(shown.stdout).items() if name != "service_seconds"):
        for other in ("trl_processes", "ray_pattern"):
            for suffix, mark in (("", "**"), ("_evaluated", "")):
                low, high = row[f"vs_{other}{suffix}_spread"]
                assert f"{mark}{row[f'vs_{other}{suffix}']:.2f}{mark} [{low:.2f}, {high:.2f}]" in page
        for what in ("every_trial_evaluated_s", "winner_leads_s"):
            ours, trl, ray = (row["stopping"][side][what] for side in ("ours_stopping", "trl_processes", "ray_pattern"))
            assert re.search(rf"\| {ours:.0f}\b.*\| {trl:,.0f}\b.*\| {ray:,.0f}\b", page)


@pytest.mark.parametrize("name", sorted(QWEN))
def test_the_tracks_own_forms_have_as_many_parameters_as_a_plan_says(name: str) -> None:
    with torch.device("meta"):
        model = random_model(name, 0, {})
    layers = model.model.layers
    norms = 2 * model.config.hidden_size * len(layers) + model.config.hidden_size
    biases = sum(p.numel() for layer in layers for n, p in layer.named_parameters() if n.endswith("bias"))
    assert model.num_parameters() - norms - biases == KNOWN[f"Qwen/{name}-Instruct"].parameters


@pytest.mark.slow
def test_the_overhead_benchmark_prints_the_agreed_object_with_bare_ray_beside_it() -> None:
    shown = ran("overhead", "--trials", "3", "5", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["trials"] == [3, 5]
    for columns in (found, found["bare_ray"]):
        for name in ("seconds_per_trial", "driver_cpu_s", "last_over_first", "driver_mib", "driver_growth_mib"):
            assert len(columns[name]) == 2
        assert all(value > 0 for name in ("seconds_per_trial", "driver_mib") for value in columns[name])
