"""The table of a search, its estimates, and the lines it prints where there is no terminal."""

from io import StringIO

import pytest
from rich.console import Console as RichConsole

from tune.console import Console, number, short_name

VALUES = {"training.kto_lambda": 0.0123456, "training.beta": 0.1, "training.learning_rate": 5e-5}
OBJECTIVES = {"spiral_score": "max", "perplexity": "min"}


def shown(console: Console) -> str:
    """The table as text."""
    text = StringIO()
    RichConsole(file=text, width=200).print(console.table())
    return text.getvalue()


def ended(console: Console, name: str, **metrics: float) -> None:
    console.start(name, VALUES)
    console.update(name, 8, metrics)
    console.end(name, "complete")


def test_numbers_are_shown_with_three_digits_and_the_rest_as_it_is() -> None:
    assert [number(v) for v in (0.0123456, 5e-5, 16, "cosine", None)] == ["0.0123", "5e-05", "16", "cosine", "None"]


def test_keys_are_shown_by_the_fields_own_letters_or_their_last_word() -> None:
    assert [short_name(key) for key in (*VALUES, "model.lora_config.r")] == ["λ", "β", "lr", "r"]
    assert short_name("training.curriculum_learning.enabled") == "curriculum_learning"


def test_the_table_shows_values_scores_the_best_so_far_and_the_time_left() -> None:
    console = Console("b-1: track b", OBJECTIVES, total=4, quiet=True)
    console.start("baseline-search", {})
    ended(console, "trial-000", spiral_score=0.5, perplexity=40.0)
    ended(console, "trial-001", spiral_score=0.75, perplexity=41.5)
    text = shown(console)
    header = next(line for line in text.splitlines() if "job" in line)
    assert [word for word in header.split() if word.isalnum() or "_" in word] == [
        "job", "state", "λ", "β", "lr", "step", "spiral_score", "perplexity", "time",
    ]  # fmt: skip
    row = next(line for line in text.splitlines() if "trial-001" in line and "complete" in line)
    for cell in ("0.0123", "0.1", "5e-05", "8", "0.75", "41.5"):
        assert cell in row.split()
    assert "2 of 4 done, about 0 s left; best so far trial-001: spiral_score 0.75 perplexity 41.5" in text


def test_the_best_follows_the_direction_and_counts_only_finished_trials() -> None:
    console = Console("t", {"perplexity": "min"}, total=9, quiet=True)
    assert console.best() == []
    ended(console, "trial-000", perplexity=40.0)
    ended(console, "trial-001", perplexity=39.0)
    ended(console, "baseline-search", perplexity=1.0)
    ended(console, "final-000-seed-1042", perplexity=2.0)
    console.start("trial-002", VALUES)
    console.update("trial-002", 1, {"perplexity": 3.0})
    assert [line.name for line in console.best()] == ["trial-001", "trial-000"]


def test_two_hundred_trials_are_a_table_of_the_best_and_the_last() -> None:
    console = Console("t", OBJECTIVES, total=206, quiet=True)
    for number_ in range(198):
        name = f"trial-{number_:03d}"
        console.start(name, VALUES)
        console.update(name, 8, {"spiral_score": number_ / 1000, "perplexity": 40.0})
        console.end(name, "complete" if number_ % 3 else "pruned")
    console.lines = dict(reversed(console.lines.items()))  # the best were the first to end
    console.start("trial-198", VALUES)
    console.start("trial-199", VALUES)
    best, last = console.shown()
    assert [line.name for line in best] == ["trial-197", "trial-196", "trial-194", "trial-193", "trial-191"]
    assert [line.name for line in last[-3:]] == ["trial-000", "trial-198", "trial-199"]
    assert len(best) + len(last) == 20
    text = shown(console)
    assert len(text.splitlines()) < 30
    assert "198 of 206 done (66 pruned)" in text


def test_the_time_of_a_paused_trial_goes_on_where_it_stopped() -> None:
    console = Console("t", OBJECTIVES, total=4, quiet=True)
    console.start("trial-000", VALUES)
    console.lines["trial-000"].begun -= 100
    console.end("trial-000", "paused", "at step 3, for its cohort")
    assert "0 of 4 done" in shown(console)
    console.start("trial-000", VALUES)
    console.end("trial-000", "complete")
    assert 100 <= console.lines["trial-000"].seconds < 110


def test_the_time_left_is_unknown_before_the_first_job_has_ended_and_nothing_at_the_end() -> None:
    console = Console("t", OBJECTIVES, total=1, quiet=True)
    console.start("trial-000", VALUES)
    assert console.time_left() == "estimating"
    console.end("trial-000", "failed", "no memory")
    assert console.time_left() == "about 0 s"


def test_the_time_left_is_by_the_mean_of_the_jobs_so_far() -> None:
    console = Console("t", OBJECTIVES, total=4, quiet=True)
    ended(console, "trial-000")
    console.begun -= 100
    assert console.time_left() == "about 5 min"


def test_a_job_that_is_busy_before_its_first_step_says_with_what() -> None:
    console = Console("t", OBJECTIVES, total=4, quiet=True)
    console.start("trial-000", VALUES)
    console.update("trial-000", 0, {}, "reference 12/36")
    assert "reference 12/36" in shown(console)


def test_without_a_terminal_each_event_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("t", OBJECTIVES, total=4)
    with console:
        console.say("b-1: profile laptop: no GPU here [none]")
        console.start("trial-000", VALUES)
        console.update("trial-000", 8, {"spiral_score": 0.5, "perplexity": 40.0, "subtlety": 0.1})
        console.end("trial-000", "pruned", "stopped by the scheduler")
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines() == [
        "b-1: profile laptop: no GPU here [none]",
        "trial-000 running λ=0.0123 β=0.1 lr=5e-05",
        "trial-000 pruned λ=0.0123 β=0.1 lr=5e-05 spiral_score=0.5 perplexity=40 0 s stopped by the scheduler",
    ]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("t", OBJECTIVES, total=4, quiet=True) as console:
        console.say("hello")
        ended(console, "trial-000", spiral_score=0.5)
    assert capsys.readouterr() == ("", "")


def test_a_job_that_failed_before_it_began_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Console("t", OBJECTIVES, total=4).end("trial-000", "failed", "the worker died")
    assert capsys.readouterr().err == "trial-000 failed 0 s the worker died\n"


def test_a_job_that_begins_again_begins_at_nothing() -> None:
    console = Console("t", OBJECTIVES, total=4, quiet=True)
    ended(console, "trial-000", spiral_score=0.5)
    console.start("trial-000", VALUES)
    assert (console.lines["trial-000"].state, console.lines["trial-000"].metrics) == ("running", {})
