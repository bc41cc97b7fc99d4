"""A job in its actor on the toy model: what it reports at a pause, and after running out of memory."""

import errno
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt import train
from phasegpt.files import read_json
from phasegpt.trainer import TrainerSettings
from tests.tune.conftest import ToyRequest
from tune.jobs import as_config, trial_job
from tune.reports import ERROR_KEY, FINISHED_KEY, FULL_KEY, NOTE_KEY, PAUSED_KEY
from tune.smaller import ACCUMULATION, BATCH
from tune.trial import attempted, run_job

pytestmark = pytest.mark.usefixtures("one_thread")
VALUES = {"training.learning_rate": 1e-3}


class Told:
    """Takes what a job reports to Ray, and runs jobs of one request."""

    def __init__(self, request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request, self.reports = request, []
        monkeypatch.setattr("ray.tune.report", self.reports.append)
        monkeypatch.setattr("tune.trial._warm", {})

    def run(self, until: int | None = None, **values: Any) -> dict[str, Any]:
        from phasegpt.config_io import project_root

        places = self.request.places
        spec = {
            "root": str(project_root()),
            "storage": str(places.storage),
            "track": "b",
            "name": "toy",
            "config": self.request.config.dump(),
            "objective": "eval_loss",
            "crew": {"count": 1, "cpus": 1.0, "gpus": 0.0},
        }
        run_job(as_config(trial_job(3, {**VALUES, **values}, "sampler", until), spec))
        return self.reports[-1]

    @property
    def result(self) -> Any:
        return read_json(self.request.places.results / "trial-003.json")


@pytest.fixture
def told(toy_request: ToyRequest, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(
        toy_request("training.batch_size=4", "evaluation.metrics=[eval_loss, spiral_score, kl_divergence]"), monkeypatch
    )


def test_what_the_imports_made_is_left_out_of_garbage_collections(told: Told) -> None:
    gc.unfreeze()
    told.run(until=2)
    frozen = gc.get_freeze_count()
    told.run()
    assert frozen > 100_000
    assert gc.get_freeze_count() <= frozen, "once a process: nothing of a later job"
    gc.unfreeze()


def test_a_job_pauses_where_it_is_asked_to_and_goes_on_to_its_end(told: Told) -> None:
    paused = told.run(until=2)
    assert (paused["step"], paused[PAUSED_KEY], paused[FINISHED_KEY]) == (2, True, False)
    assert paused["eval_loss"] == paused["metric/eval_loss"]
    ended = told.run()
    assert (ended["step"], ended[FINISHED_KEY]) == (4, True)
    assert told.result["curve"][0]["eval_loss"] == paused["eval_loss"]


def too_large(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """Training with micro-batches of more than so many pairs asks for more memory than any machine has."""
    whole = train.train

    def short_of_memory(*arguments: Any, settings: TrainerSettings, **rest: Any) -> int:
        if settings.batch_size > pairs:
            torch.empty(1 << 60, dtype=torch.uint8)
        return whole(*arguments, settings=settings, **rest)

    monkeypatch.setattr(train, "train", short_of_memory)


def test_a_job_that_runs_out_of_memory_runs_again_in_smaller_bites(
    told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    too_large(monkeypatch, pairs=2)
    ended = told.run()
    assert ended[FINISHED_KEY]
    assert ended[NOTE_KEY] == f"oom: ran again with {BATCH} 2 and {ACCUMULATION} 2"
    training = told.result["config"]["training"]
    assert (training["batch_size"], training["gradient_accumulation_steps"]) == (2, 2)
    smaller = told.result["training_log"]
    again = told.run()  # as after a crash: it finds its choice and its result
    assert again["eval_loss"] == ended["eval_loss"]
    assert told.result["training_log"] == smaller


def test_a_job_that_does_not_fit_in_smaller_bites_either_fails_with_the_reason(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(monkeypatch, pairs=1)
    failed = told.run()
    assert failed[ERROR_KEY].startswith("oom: RuntimeError: ")
    assert not failed[FINISHED_KEY]
    assert failed[NOTE_KEY].startswith("oom: ran again")
    assert not (told.request.places.results / "trial-003.json").exists()


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL_KEY),
        (OSError(errno.EROFS, "Read-only file system"), FULL_KEY),
        (RuntimeError("I/O error: No space left on device (os error 28)"), FULL_KEY),
        (FileNotFoundError(errno.ENOENT, "No such file"), ERROR_KEY),
        (ValueError("bad"), ERROR_KEY),
    ],
)
def test_a_full_disk_is_told_from_a_failure_of_the_job(tmp_path: Path, error: Exception, key: str) -> None:
    def work() -> None:
        raise error

    told = attempted(trial_job(0, {}, ""), {"storage": str(tmp_path), "track": "b", "name": "toy"}, work)
    assert told.keys() == {key, "step"}
