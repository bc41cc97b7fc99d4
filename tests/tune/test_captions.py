"""What people read of runs in MLflow: names that tell them apart, and descriptions."""

from tests.tune.conftest import ToyRequest
from tune.captions import NAME_LENGTH, found_text, job_note, run_name, search_note
from tune.jobs import baseline_job, final_job, trial_job

VALUES = {"training.kto_lambda": 0.004151, "training.beta": 0.07, "training.learning_rate": 4.33e-3}
FOUND = {
    "winner": {"trial": "trial-001", "params": VALUES},
    "verdict": "better than the config's own values",
    "objectives": {"eval_loss": "min"},
    "baseline_final": {"metrics": {"eval_loss": 0.69314}},
    "finalists": [{"trial": "trial-001", "metrics": {"eval_loss": 0.5, "repetition": 0.25}}],
    "champion": {"model": "phasegpt-track-b", "version": "3", "promoted": True, "reason": "the seat was empty"},
}


def test_a_name_begins_with_the_jobs_and_has_its_values() -> None:
    assert run_name(trial_job(3, VALUES, "sampler")) == "trial-003 λ=0.00415 β=0.07 lr=0.00433"
    assert run_name(final_job(3, VALUES, 0, 42)) == "final-003-seed-1042 λ=0.00415 β=0.07 lr=0.00433"
    assert run_name(baseline_job("final")) == "baseline-final"


def test_a_name_stays_short_whatever_is_searched() -> None:
    many = {f"training.key_{n}": ["a long", "list", "of", "many", "words"] for n in range(20)}
    name = run_name(trial_job(3, many, "sampler"))
    assert name.startswith("trial-003 key_0=")
    assert len(name) <= NAME_LENGTH


def test_of_a_long_path_the_end_is_shown() -> None:
    arm = {"training.preference_dataset": "data/preferences_v14_100pairs.jsonl"}
    assert run_name(trial_job(0, arm, "config")).endswith("100pairs.jsonl")


def test_a_jobs_description_says_what_it_is_and_how_it_ended() -> None:
    trial = trial_job(0, {"training.beta": 0.1}, "config")
    assert job_note(trial, "pruned", "by command") == (
        "Trial 0, the config's own values: β = 0.1; judged on the search half of the prompts; pruned (by command)."
    )
    assert job_note(baseline_job("final"), "running") == (
        "What gains are measured from: untuned model; judged on the final half of the prompts; running."
    )
    assert job_note(final_job(3, {"training.beta": 0.1}, 0, 42), "running").startswith(
        "Trial 3 on seed 1042: β = 0.1; judged on the final half"
    )


def test_a_searchs_description_says_what_it_wants_and_how_to_go_on(toy_request: ToyRequest) -> None:
    note = search_note(toy_request(), "Under way.")
    assert note.startswith("Track b, kto: eval_loss (min) over λ, β, lr.\n\nUnder way.")
    assert "`python -m tune.search --track b --resume toy`" in note
    assert "Views, `toy: trials`" in note


def test_at_the_end_it_names_winner_verdict_finalists_and_seat() -> None:
    note = found_text(FOUND)
    assert "**Winner: trial-001** with λ = 0.00415, β = 0.07, lr = 0.00433. better than the config's own values" in note
    assert "| final half | eval_loss | repetition |" in note
    assert "| untuned model | 0.693 | - |\n| trial-001 | 0.5 | 0.25 |" in note
    assert "**phasegpt-track-b** version 3 is now champion: the seat was empty" in note


def test_a_search_without_a_winner_says_so() -> None:
    nobody = {**FOUND, "winner": None, "verdict": "no trial came to a result"}
    assert found_text(nobody) == "**No winner**: no trial came to a result."
