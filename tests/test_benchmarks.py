"""The benchmark scripts run on the toy model and print what scripts rely on. Their figures there mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


@pytest.mark.slow
def test_the_overhead_benchmark_prints_the_agreed_object_with_bare_ray_beside_it() -> None:
    command = [sys.executable, "tests/benchmarks/overhead.py", "--trials", "3", "5", "--json"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["trials"] == [3, 5]
    for columns in (found, found["bare_ray"]):
        for name in ("seconds_per_trial", "driver_cpu_s", "last_over_first", "driver_mib", "driver_growth_mib"):
            assert len(columns[name]) == 2
        assert all(value > 0 for name in ("seconds_per_trial", "driver_mib") for value in columns[name])
