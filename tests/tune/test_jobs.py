"""Jobs as plain values that travel to the actors and back."""

import json

import pytest

from tune.jobs import Job, as_config, baseline_job, final_job, from_config, trial_job

VALUES = {"training.beta": 0.1, "model.lora_config.r": 8, "model.lora_config.layers_to_transform": None}


@pytest.mark.parametrize(
    "job", [baseline_job("search"), baseline_job("final"), trial_job(3, VALUES, "sampler"), final_job(3, VALUES, 1, 42)]
)
def test_a_job_comes_back_from_json_as_it_went(job: Job) -> None:
    spec = {"name": "toy", "threads": 1.0}
    travelled = json.loads(json.dumps(as_config(job, spec)))
    assert from_config(travelled) == (job, spec)


def test_trials_and_the_first_baseline_are_judged_on_the_search_half() -> None:
    assert trial_job(7, VALUES, "config") == Job("trial", 7, "trial-007", VALUES, "search", "config")
    assert baseline_job("search") == Job("baseline", 0, "baseline-search", {}, "search", "untuned model")


def test_finals_take_fresh_seeds_and_the_final_half() -> None:
    finals = [final_job(3, VALUES, replicate, base_seed=42) for replicate in range(3)]
    assert [job.values["experiment.seed"] for job in finals] == [1042, 1043, 1044]
    assert [job.name for job in finals] == ["final-003-seed-1042", "final-003-seed-1043", "final-003-seed-1044"]
    assert {job.half for job in finals} == {"final"}
    assert all(VALUES.items() <= job.values.items() for job in finals)


def test_final_jobs_leave_the_trial_values_as_they_were() -> None:
    before = dict(VALUES)
    final_job(3, VALUES, 0, 42)
    assert before == VALUES
