"""The disk of a search against what a run leaves, and against numbers counted by hand."""

from pathlib import Path

import pytest

from phasegpt.runs import run_paths
from phasegpt.train import fit
from tests.tune.conftest import ToyRequest
from tune.disk import CHECKPOINT_FILES, JOB_FILES, Jobs, disk_of
from tune.duration import SharedParts
from tune.memory import adapter_parameters
from tune.shapes import shape_of

NOTHING = SharedParts({}, ())


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("one_thread")
def test_a_run_leaves_about_what_was_said(toy_request: ToyRequest, tmp_path: Path) -> None:
    """Two checkpoints and the chosen adapter, all of rank 128 so that adapters outweigh the small files."""
    metrics = ("evaluation.metrics=[eval_loss, kl_divergence]", "evaluation.metric_for_best_model=eval_loss")
    config = toy_request(
        *metrics, "model.lora_config.r=128", "training.max_steps=2", "evaluation.eval_interval=1"
    ).config
    shape = shape_of(config)
    assert shape is not None
    paths = run_paths(tmp_path, "b", "run")
    fit(config, paths=paths)
    found = written(paths.checkpoints) + adapter_parameters(config, shape) * 4  # and a copy in MLflow
    said = disk_of(config, shape, NOTHING, Jobs(1, 0, at_once=1), steps=2, free=1e12)
    assert said.checkpoints + said.adapters - adapter_parameters(config, shape) * 4 == pytest.approx(found, rel=0.15)


def test_checkpoints_are_kept_up_to_the_limit_and_two_at_least(toy_request: ToyRequest) -> None:
    request = toy_request("evaluation.eval_interval=1", "evaluation.save_total_limit=3", "search.keep=all")
    shape = shape_of(request.config)
    assert shape is not None
    trained = adapter_parameters(request.config, shape)
    each = trained * 16 + CHECKPOINT_FILES
    five = Jobs(5, 0, at_once=1)
    kept = {steps: disk_of(request.config, shape, NOTHING, five, steps, 1e12).checkpoints for steps in (1, 2, 3, 9)}
    assert kept == pytest.approx({steps: 5 * (min(steps, 3) * each + JOB_FILES) for steps in kept})
    one = toy_request("evaluation.eval_interval=1", "evaluation.save_total_limit=1").config
    assert disk_of(one, shape, NOTHING, Jobs(1, 0, 1), 9, 1e12).checkpoints == pytest.approx(2 * each + JOB_FILES)


def test_checkpoints_of_those_that_run_count_and_in_the_end_the_adapters_of_finalists(toy_request: ToyRequest) -> None:
    """20 trials, 2 finalists on 2 seeds: 24 copies and one version, and adapters of 4 finals and their 2 trials."""
    config = toy_request("evaluation.eval_interval=1", "search.finalists={count: 2, seeds: 2}").config
    shape = shape_of(config)
    assert shape is not None
    adapter = adapter_parameters(config, shape) * 4
    disk = disk_of(config, shape, NOTHING, Jobs(20, 4, at_once=2), 2, 1e12)
    assert disk.checkpoints == pytest.approx(2 * 2 * (4 * adapter + CHECKPOINT_FILES) + 24 * JOB_FILES)
    assert disk.adapters == pytest.approx((24 + 24 + 1) * adapter)
    assert disk.stays == pytest.approx((24 + 1 + 4 + 2) * adapter + 24 * JOB_FILES)
    everything = toy_request("evaluation.eval_interval=1", "search.keep=all", name="all").config
    assert disk_of(everything, shape, NOTHING, Jobs(20, 4, 2), 2, 1e12).stays == pytest.approx(
        24 * (2 * (4 * adapter + CHECKPOINT_FILES) + JOB_FILES) + 49 * adapter
    )


def test_shared_work_counts_as_far_as_it_is_kept_and_all_must_fit(toy_request: ToyRequest) -> None:
    config = toy_request().config
    shape = shape_of(config)
    assert shape is not None
    shared = SharedParts({"hidden": 5e9, "trunk": 7e9}, ("hidden",))
    disk = disk_of(config, shape, shared, Jobs(1, 0, 1), 4, free=4e9)
    assert disk.shared == 5e9
    assert not disk.fits
    assert disk_of(config, shape, shared, Jobs(1, 0, 1), 4, free=6e9).fits
