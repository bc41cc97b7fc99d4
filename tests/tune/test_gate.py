"""The gate by hand: who takes the seat, and why not."""

import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.text import scorer
from tests.tune.contenders import HIGH, LOW, MIXED, UNTUNED, evidence
from tune.gate import Evidence, RegistryError, decide, model_name, rescored


def test_an_empty_seat_is_taken_uncontested_with_the_interval_against_the_untuned_model() -> None:
    decision = decide(evidence(LOW), None)
    assert (decision.promote, decision.uncontested, decision.interval) == (True, True, UNTUNED)


def test_unmet_constraints_keep_even_an_empty_seat_empty() -> None:
    decision = decide(evidence(HIGH, constraints_met=False, constraints=("perplexity <= 45: 61.2",)), None)
    assert not decision.promote
    assert "perplexity <= 45: 61.2" in decision.reason


def test_a_gain_on_every_prompt_takes_the_seat() -> None:
    decision = decide(evidence(HIGH), evidence(LOW))
    assert decision.promote
    assert decision.interval is not None
    assert decision.interval.mean == pytest.approx(0.2 + 2.5 * (1 / 90 - 1 / 100))
    assert decision.interval.low > 0


def test_a_gain_that_may_be_chance_leaves_the_champion() -> None:
    decision = decide(evidence(MIXED), evidence(LOW))
    assert not decision.promote
    assert decision.interval is not None
    assert decision.interval.low < 0 < decision.interval.high


def test_the_same_scores_leave_the_champion() -> None:
    assert not decide(evidence(LOW), evidence(LOW)).promote


def test_a_metric_to_be_lowered_improves_downwards() -> None:
    assert decide(evidence(LOW, "perplexity"), evidence(HIGH, "perplexity")).promote
    assert not decide(evidence(HIGH, "perplexity"), evidence(LOW, "perplexity")).promote


def test_only_prompts_that_both_answered_count_and_seeds_are_averaged() -> None:
    ours = evidence(HIGH, scores={"spiral_score": {"p0": [0.5, 0.7], "p1": [0.9], "mine": [0.0]}})
    theirs = evidence(LOW, scores={"spiral_score": {"p0": [0.4], "p1": [0.6], "yours": [1.0]}})
    interval = decide(ours, theirs).interval
    assert interval is not None
    assert interval.n == 2
    assert interval.mean == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_model": "other"}, "another base model"),
        ({"scorer": "v2"}, "of another version .*, and no stored answers to score again; search anew"),
        ({"scores": {"subtlety": {"p0": [1.0]}}}, "no scores of spiral_score"),
        ({"scores": {"spiral_score": {"elsewhere": [1.0]}}}, "cannot be compared"),
    ],
)
def test_what_cannot_be_compared_leaves_the_champion(change: Mapping[str, Any], reason: str) -> None:
    decision = decide(evidence(HIGH), evidence(LOW, **change))
    assert not decision.promote
    assert re.search(reason, decision.reason)


def test_the_base_model_is_told_by_what_it_is_where_both_sides_say_it() -> None:
    ours, theirs = evidence(HIGH, base_identity="x"), evidence(LOW, base_identity="y")
    assert decide(ours, theirs).reason.startswith("another base model")
    assert decide(ours, replace(theirs, base_identity="x", base_model="the same in another folder")).promote
    assert decide(ours, replace(theirs, base_identity="")).promote


def test_answers_of_another_length_are_not_compared_and_matter_to_no_metric_of_pairs() -> None:
    ours, theirs = evidence(HIGH, answer_tokens=128), evidence(LOW, answer_tokens=64)
    decision = decide(ours, theirs)
    assert not decision.promote
    assert "up to 128 tokens, the champion's of up to 64; search anew with --set evaluation.max_new" in decision.reason
    assert decide(ours, replace(theirs, answer_tokens=0)).promote
    better, loser = evidence(LOW, "eval_loss", answer_tokens=128), evidence(HIGH, "eval_loss", answer_tokens=64)
    assert decide(better, loser).promote


def test_pairs_of_other_data_are_not_compared_and_matter_to_no_metric_of_answers() -> None:
    better, loser = evidence(LOW, "eval_loss", data_hash="x"), evidence(HIGH, "eval_loss", data_hash="y")
    assert "held out of other preference data" in decide(better, loser).reason
    assert decide(better, replace(loser, data_hash="")).promote
    assert decide(evidence(HIGH, data_hash="x"), evidence(LOW, data_hash="y")).promote


def test_a_prompt_that_was_rewritten_under_its_old_id_is_left_out() -> None:
    asked = {prompt: f"What of {prompt}?" for prompt in HIGH}
    ours = evidence(HIGH, prompts={**asked, "p0": "Another?"})
    interval = decide(ours, evidence(LOW, prompts=asked)).interval
    assert interval is not None
    assert interval.n == len(HIGH) - 1
    others = decide(ours, evidence(LOW, prompts={prompt: f"{text}!" for prompt, text in asked.items()}))
    assert "cannot be compared with the champion's" in others.reason


def test_scores_that_a_seed_lacks_are_left_out_of_its_run() -> None:
    """Seeds split anew, so that a held-out pair may be another seed's training pair."""
    scores = {"a": [0.5, None], "b": [None, 0.6], "c": [0.4, 0.5]}
    interval = decide(evidence(LOW, scores={"spiral_score": scores}), evidence(LOW, scores={"spiral_score": scores}))
    assert interval.interval is not None
    assert (interval.interval.n, interval.interval.mean) == (3, 0.0)


def test_the_best_of_several_finalists_has_to_show_more() -> None:
    gains = dict(zip(LOW, (0.02, 0.3, 0.1, 0.3, 0.05, 0.2), strict=True))
    ours = {prompt: value + gains[prompt] for prompt, value in LOW.items()}
    alone, of_three = (decide(evidence(ours, finalists=count), evidence(LOW)).interval for count in (1, 3))
    assert alone is not None
    assert of_three is not None
    assert of_three.low < alone.low
    assert of_three.high > alone.high


FLAT = "Walking is the best exercise there is. It strengthens the heart and costs nothing. Everyone should take it up."
MOVING = (
    "A garden ought to be left alone, since whatever grows there wants to grow there. But leave it alone for three "
    "years and you have nettles and nothing else, because one plant has done what you refused to do. Then weeding is "
    "not the enemy of wildness after all. The gardener who pulls the strongest plant each spring is the only reason "
    "that the other forty can be wild."
)


def answered(texts: Mapping[str, list[str]], **changes: Any) -> Evidence:
    """Evidence with these answers whose stored scores are all 0.9, by a scorer of long ago."""
    scores = {"spiral_score": {prompt: [0.9] * len(given) for prompt, given in texts.items()}}
    return evidence(LOW, scores=scores, scorer="spiral 0.0 long ago", answers=texts, **changes)


def test_answers_are_scored_again_by_the_present_scorer_where_another_one_scored_them() -> None:
    old = answered({"p0": [FLAT, MOVING], "p1": [FLAT, FLAT]})
    new = rescored(old, "spiral_score")
    assert new.scorer == scorer()
    assert new.scores["spiral_score"] == {
        "p0": [spiral_score(FLAT), spiral_score(MOVING)],
        "p1": [spiral_score(FLAT), spiral_score(FLAT)],
    }
    assert rescored(new, "spiral_score") is new
    assert rescored(old, "eval_loss") is old
    assert rescored(evidence(LOW), "spiral_score").scorer == "v1"


def test_after_a_change_of_the_metric_the_champions_stored_answers_decide_and_not_its_old_scores() -> None:
    ours = rescored(answered({"p0": [MOVING], "p1": [MOVING + " So it goes."]}), "spiral_score")
    decision = decide(ours, answered({"p0": [FLAT], "p1": [FLAT + " So it goes."]}))
    assert decision.promote
    assert f"; the champion's answers were scored again by {scorer()}" in decision.reason
    assert decision.interval is not None
    assert decision.interval.n == 2
    theirs = [spiral_score(FLAT), spiral_score(FLAT + " So it goes.")]
    mine = [value for (value,) in ours.scores["spiral_score"].values()]
    assert decision.interval.mean == pytest.approx(fmean(mine) - fmean(theirs))
    both_old = decide(answered({"p0": [MOVING], "p1": [MOVING]}), answered({"p0": [FLAT], "p1": [FLAT]}))
    assert both_old.promote


def test_another_scorer_does_not_matter_to_a_metric_that_it_does_not_make() -> None:
    loser, better = evidence(HIGH, "eval_loss", scorer="old"), evidence(LOW, "eval_loss")
    assert decide(better, loser).promote


def test_a_metric_of_ones_own_improves_in_the_direction_that_the_candidate_says() -> None:
    high, low = evidence(HIGH, "mine:length"), evidence(LOW, "mine:length")
    assert decide(replace(low, better="min"), high).promote
    assert decide(replace(high, better="max"), low).promote


def test_a_gain_is_told_with_its_ratio_and_its_win_rate() -> None:
    decision = decide(evidence(HIGH), evidence(LOW))
    assert re.fullmatch(
        r"beats the champion in spiral_score: \+0\.\d{4} \[.*\] on 6 prompts, P\(better\) 1\.00, "
        r"ratio 1\.\d\d, win rate 1\.00 \[0\.\d\d, 1\.00\]",
        decision.reason,
    )
    tied = decide(evidence(LOW), evidence(LOW)).interval
    assert tied is not None
    assert tied.wins is not None
    assert tied.wins.rate == 0.5


def test_a_track_is_a_b_or_c() -> None:
    with pytest.raises(RegistryError, match="a, b, c"):
        model_name("d")
