"""The gate by hand: who takes the seat, and why not."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tune.contenders import HIGH, LOW, MIXED, UNTUNED, evidence
from tune.gate import RegistryError, decide, model_name


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
        ({"scorer": "v2"}, "of another version"),
        ({"scores": {"subtlety": {"p0": [1.0]}}}, "no scores of spiral_score"),
        ({"scores": {"spiral_score": {"elsewhere": [1.0]}}}, "cannot be compared"),
    ],
)
def test_what_cannot_be_compared_leaves_the_champion(change: Mapping[str, Any], reason: str) -> None:
    decision = decide(evidence(HIGH), evidence(LOW, **change))
    assert not decision.promote
    assert reason in decision.reason


def test_a_track_is_a_b_or_c() -> None:
    with pytest.raises(RegistryError, match="a, b, c"):
        model_name("d")
