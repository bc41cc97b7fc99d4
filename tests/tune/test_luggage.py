"""A job on machines of their own that share nothing but an S3 server: the toy fit, cut here and gone on with there."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phasegpt import object_store
from phasegpt.checkpoint_files import ADAPTER
from phasegpt.config_io import project_root
from phasegpt.files import file_sha256, read_json
from phasegpt.mirror import mirror_folder
from phasegpt.object_store import ObjectStore
from phasegpt.runs import RunPaths
from phasegpt.shared_store import _Entry
from tests.object_server import Bucket
from tests.tune.conftest import ToyRequest
from tune.jobs import Job, as_config, trial_job
from tune.luggage import ADDRESS, job_paths
from tune.reports import ERROR_KEY, FINISHED_KEY
from tune.trial import run_job

pytestmark = pytest.mark.usefixtures("one_thread")
VALUES = {"training.learning_rate": 1e-3}
SETS = (
    "training.batch_size=4",
    "evaluation.metrics=[eval_loss, kl_divergence]",
    "evaluation.metric_for_best_model=eval_loss",
    "evaluation.save_best_only=false",
    "evaluation.save_total_limit=1",
)
JOB = trial_job(3, VALUES, "sampler")
OnMachine = Callable[..., tuple[RunPaths, list[dict[str, Any]]]]


class Cut(BaseException):
    """The machine is gone."""


@pytest.fixture
def on_machine(toy_request: ToyRequest, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnMachine:
    """Run a job on a machine: where it wrote there, and what it reported."""
    config = toy_request(*SETS).config.dump()

    def run(
        machine: str, job: Job = JOB, cut: int | None = None, below: str = ""
    ) -> tuple[RunPaths, list[dict[str, Any]]]:
        monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / machine))
        monkeypatch.setattr("tune.trial._warm", {})
        reports: list[dict[str, Any]] = []

        def report(values: dict[str, Any]) -> None:
            reports.append(values)
            if cut is not None and values["step"] == cut and "eval_loss" in values:
                raise Cut

        monkeypatch.setattr("ray.tune.report", report)
        address = bucket.address + below
        spec = {
            "root": str(project_root()),
            "storage": "/of/the/driver",
            ADDRESS: address,
            "track": "b",
            "name": "toy",
            "config": config,
            "objective": "eval_loss",
            "crew": {"count": 1, "cpus": 1.0, "gpus": 0.0},
        }
        with suppress(Cut):
            run_job(as_config(job, spec))
        return job_paths(job, {**spec, "storage": str(mirror_folder(address))}), reports

    return run


def weights(paths: RunPaths) -> str:
    return file_sha256(paths.checkpoints / ADAPTER / "adapter_model.safetensors")


def test_a_fit_that_was_cut_goes_on_on_another_machine_to_the_same_bits(on_machine: OnMachine) -> None:
    cut, reports = on_machine("one", cut=2)
    assert (reports[-1]["step"], cut.results.exists()) == (2, False)
    paths, reports = on_machine("two")
    assert paths.checkpoints != cut.checkpoints
    assert [row["step"] for row in reports if "eval_loss" in row] == [2, 4]
    whole, _ = on_machine("three", below="/whole")
    assert weights(paths) == weights(whole)
    found, expected = read_json(paths.results), read_json(whole.results)
    for part in ("metrics", "curve", "training_log", "pairs", "hashes"):
        assert found[part] == expected[part]


def test_shared_work_is_made_by_one_machine_and_fetched_by_the_other(
    on_machine: OnMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    compute = _Entry._compute

    def noted(entry: _Entry, *given: Any) -> None:
        made.append(entry.folder.name)
        compute(entry, *given)

    monkeypatch.setattr(_Entry, "_compute", noted)
    first, _ = on_machine("one")
    number = len(made)
    second, reports = on_machine("two", trial_job(4, VALUES, "sampler"))
    assert reports[-1][FINISHED_KEY]
    assert len(made) == number > 0
    entries = [sorted(path.name for path in paths.shared_work.iterdir() if path.is_dir()) for paths in (first, second)]
    assert entries[0] == entries[1]


def test_a_clone_begins_with_weights_that_another_machine_made(on_machine: OnMachine) -> None:
    on_machine("one")
    clone = replace(trial_job(4, VALUES, "clone of trial 3", warm=3), name="trial-004")
    on_machine("two", clone, cut=2)
    paths, reports = on_machine("three", clone)
    assert reports[-1][FINISHED_KEY]
    assert read_json(paths.results)["hashes"]["start"]


def test_what_a_job_removed_is_gone_from_the_storage_and_the_base_model_never_was_there(
    on_machine: OnMachine, bucket: Bucket
) -> None:
    on_machine("one", cut=2)
    on_machine("two")
    stored = ObjectStore(bucket.address).list("checkpoints")
    there = {part for name in stored for part in name.split("/") if part.startswith("checkpoint-")}
    assert there == {"checkpoint-4"}
    largest = max(found.size for name, found in stored.items() if "shared_work" not in name)
    assert largest < 500_000  # the toy has 4 layers and 1k tokens: 1 MB
    assert not [name for name in stored if name.endswith("model.safetensors") and "adapter_model" not in name]


def test_a_storage_that_went_away_fails_the_job_with_the_reason(
    on_machine: OnMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PAUSES", ())

    def away(*_: Any) -> None:
        raise OSError("the storage is away")

    monkeypatch.setattr(ObjectStore, "upload", away)
    _, reports = on_machine("one")
    assert "the storage is away" in reports[-1][ERROR_KEY]
    assert reports[-1][FINISHED_KEY] is False
