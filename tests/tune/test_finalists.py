"""Who goes to the finals, what their scores say, and who wins: pure functions with answers known by hand."""

from collections.abc import Mapping
from typing import Any

import pytest

from phasegpt.config_search import Search
from phasegpt.metrics.text import TEXT_METRICS, scorer
from phasegpt.statistics import Gain, Wins
from tune.finalists import (
    Candidate,
    Finalist,
    choose,
    judge,
    most_finals,
    prompt_scores,
    rank,
    scored_now,
    verdict,
    violations,
    winner,
    with_p_best,
)

BETA = "training.beta"


def search(count: int = 2, **settings: Any) -> Search:
    given = {
        "objectives": {"spiral_score": "max", "perplexity": "min"},
        "constraints": {"kl_divergence": "<= 2.0", "perplexity": "<= 1.5 * baseline"},
        "finalists": {"count": count, "seeds": 2},
        **settings,
    }
    return Search.model_validate(given)


def candidate(number: int, spiral: float, perplexity: float = 40.0, broken: float = -1.0) -> Candidate:
    metrics = {"spiral_score": spiral, "perplexity": perplexity}
    return Candidate(number, {BETA: number / 10}, metrics, {"kl_divergence": broken})


def numbers(candidates: list[Candidate]) -> list[int]:
    return [c.number for c in candidates]


def result(scores: Mapping[str, float], **metrics: float) -> dict[str, Any]:
    """A run with one answer a prompt."""
    mean = sum(scores.values()) / len(scores)
    rows = [{"id": name, "answer": "so", "spiral_score": score} for name, score in scores.items()]
    means = {"spiral_score": mean, "perplexity": 40.0, "kl_divergence": 1.0, **metrics}
    return {"metrics": means, "answers": rows, "pairs": [{"id": "pair", "eval_loss": 0.5}]}


BASELINE = result({"p1": 0.1, "p2": 0.3, "p3": 0.2})
OWN = [{"p1": 0.2, "p2": 0.3, "p3": 0.4}, {"p1": 0.4, "p2": 0.5, "p3": 0.6}]


def test_violations_are_distances_beyond_each_limit() -> None:
    found = violations(search(), {"kl_divergence": 2.5, "perplexity": 50.0}, {"perplexity": 40.0})
    assert found == {"kl_divergence": 0.5, "perplexity": -10.0}
    assert violations(search(), {"kl_divergence": 0.0}, {"perplexity": 40.0})["perplexity"] == float("inf")


def test_feasible_candidates_rank_first_then_by_the_objectives_in_order() -> None:
    mixed = [candidate(1, 0.9, broken=0.5), candidate(2, 0.5), candidate(3, 0.7), candidate(4, 0.95, broken=0.1)]
    assert numbers(rank(search(), mixed)) == [3, 2, 4, 1]
    tied = [candidate(2, 0.5, 41.0), candidate(1, 0.5, 40.0), candidate(0, 0.5, 40.0)]
    assert numbers(rank(search(), tied)) == [0, 1, 2]


def test_the_pick_says_which_of_several_objectives_ranks() -> None:
    front = [candidate(1, 0.9, 60.0), candidate(2, 0.8, 42.0), candidate(3, 0.5, 40.0), candidate(4, 0.5, 59.0)]
    assert numbers(rank(search(), front)) == [1, 2, 3, 4]
    assert numbers(rank(search(pick="knee"), front)) == [2, 1, 3, 4]
    fluent = search(pick="weights", weights={"spiral_score": 1.0, "perplexity": 9.0})
    assert numbers(rank(fluent, front)) == [3, 2, 1, 4]


def test_a_minimised_objective_ranks_the_smallest_first() -> None:
    falling = search(objectives={"perplexity": "min"})
    assert numbers(rank(falling, [candidate(1, 0.5, 50.0), candidate(2, 0.5, 30.0)])) == [2, 1]


def test_the_own_values_are_always_a_finalist() -> None:
    field = [candidate(0, 0.1), candidate(1, 0.5), candidate(2, 0.9), candidate(3, 0.7)]
    assert numbers(choose(search(count=3), field)) == [2, 3, 0]
    assert numbers(choose(search(count=1), field)) == [2, 0]
    assert numbers(choose(search(count=4), field)) == [2, 3, 1, 0]
    assert numbers(choose(search(count=2), field[1:])) == [2, 3]
    assert numbers(choose(search(count=1), [candidate(0, 0.9), candidate(1, 0.5)])) == [0]
    assert numbers(choose(search(count=2), field[1:], own=candidate(0, 0.0))) == [2, 0]


@pytest.mark.parametrize(("count", "trials"), [(1, 1), (1, 4), (2, 1), (2, 8), (3, 2), (5, 8)])
def test_no_more_finals_than_were_announced(count: int, trials: int) -> None:
    field = [candidate(number, number / 10) for number in range(trials)]
    assert len(choose(search(count), field)) * 2 == most_finals(search(count), trials)


def test_intervals_reckon_with_how_many_were_judged() -> None:
    seeds = [result({"p1": 0.6, "p2": 0.9, "p3": 0.5}), result({"p1": 0.4, "p2": 0.5, "p3": 0.6})]

    def judged(challengers: int, finalists: int) -> Finalist:
        return judge(search(), candidate(3, 0.9), [1042, 1043], seeds, OWN, BASELINE, challengers, finalists)

    def widths(finalist: Finalist) -> tuple[float, float]:
        assert finalist.gain is not None
        assert finalist.over_baseline is not None
        return finalist.gain.high - finalist.gain.low, finalist.over_baseline.high - finalist.over_baseline.low

    (alone, over), (of_two, same), (still, of_three) = map(widths, (judged(1, 1), judged(2, 1), judged(1, 3)))
    assert of_two > alone == still
    assert of_three > over == same


def test_finalists_that_share_one_prompt_alone_have_no_probability_of_being_best() -> None:
    def finalist(number: int, scores: Mapping[str, float]) -> Finalist:
        return judge(search(), candidate(number, 0.9), [1042], [result(scores)], None, BASELINE)

    left, right = {"p1": 0.6, "p2": 0.7}, {"p2": 0.5, "p3": 0.6}
    found = with_p_best(search(), [finalist(1, left), finalist(2, right)])
    assert [each.p_best for each in found] == [None, None]
    first, second = with_p_best(search(), [finalist(1, left), finalist(2, {"p1": 0.1, "p2": 0.2})])
    assert first.p_best is not None
    assert second.p_best is not None
    assert first.p_best > 0.9 > second.p_best


def test_a_mean_is_of_what_every_seed_measured() -> None:
    seeds = [result({"p1": 0.6, "p2": 0.7}, subtlety=0.5), result({"p1": 0.4, "p2": 0.5})]
    judged = judge(search(), candidate(3, 0.9), [1042, 1043], seeds, None, BASELINE)
    assert judged.metrics.keys() == {"spiral_score", "perplexity", "kl_divergence"}


def test_scores_are_taken_from_answers_and_from_pairs() -> None:
    assert prompt_scores(BASELINE, "spiral_score") == {"p1": 0.1, "p2": 0.3, "p3": 0.2}
    assert prompt_scores(BASELINE, "eval_loss") == {"pair": 0.5}
    assert prompt_scores(BASELINE, "perplexity") == {}


def test_a_finalist_is_the_mean_of_its_seeds_paired_with_the_own_values_by_prompt() -> None:
    seeds = [result({"p1": 0.6, "p2": 0.7, "p3": 0.8}), result({"p1": 0.4, "p2": 0.5, "p3": 0.6}, perplexity=50.0)]
    judged = judge(search(), candidate(3, 0.9), [1042, 1043], seeds, OWN, BASELINE)
    assert judged.metrics == pytest.approx({"spiral_score": 0.6, "perplexity": 45.0, "kl_divergence": 1.0})
    assert (judged.seeds, judged.values) == ((1042, 1043), {BETA: 0.3})
    assert judged.feasible
    assert judged.interval is not None
    assert judged.interval.mean == pytest.approx(0.6)
    assert judged.gain is not None
    assert judged.gain.mean == pytest.approx(0.2)
    assert judged.gain.n == 3
    assert judged.gain.ratio == pytest.approx(0.6 / 0.4)
    assert judged.gain.wins is not None
    assert judged.gain.wins.rate == pytest.approx((3.5 / 4 + 3.5 / 4 + 3.5 / 4) / 3)
    assert judged.over_baseline is not None
    assert judged.over_baseline.mean == pytest.approx(0.4)
    assert judged.over_baseline.wins is not None
    assert judged.over_baseline.wins.rate == 1.0


def test_the_gain_over_the_untuned_model_reckons_with_all_finalists_that_over_the_own_values_with_challengers() -> None:
    seeds = [result({"p1": 0.5, "p2": 0.9, "p3": 0.6}), result({"p1": 0.6, "p2": 0.8, "p3": 0.7})]
    alone, of_two = (
        judge(search(), candidate(3, 0.9), [1042, 1043], seeds, OWN, BASELINE, 1, count) for count in (1, 2)
    )
    assert of_two.gain == alone.gain
    assert of_two.over_baseline is not None
    assert alone.over_baseline is not None
    assert of_two.over_baseline.low < alone.over_baseline.low


def test_answers_that_another_scorer_judged_are_scored_again() -> None:
    text = "At first it seems simple. Yet the more one looks, the less simple it is; and so one looks again."
    row = {"id": "p1", "answer": text, "spiral_lexical": 9.0, "eval_loss": 0.5}
    old = {"metrics": {"spiral_lexical": 9.0, "perplexity": 40.0}, "answers": [row], "pairs": []}
    now = scored_now({**old, "hashes": {"scorer": "spiral 0.1 0000", "data": "d"}})
    score = TEXT_METRICS["spiral_lexical"](text)
    assert now["answers"] == [{**row, "spiral_lexical": score}]
    assert now["metrics"] == {"spiral_lexical": score, "perplexity": 40.0}
    assert now["hashes"] == {"scorer": scorer(), "data": "d"}
    present = {**old, "hashes": {"scorer": scorer()}}
    assert scored_now(present) is present


def test_a_difference_by_rounding_alone_is_a_tie_which_the_next_objective_or_the_earlier_trial_decides() -> None:
    close = [candidate(0, 0.7, 41.0), candidate(1, 0.7 + 2e-9, 41.0), candidate(2, 0.7 - 2e-9, 40.0)]
    assert numbers(rank(search(), close)) == [2, 0, 1]


def test_the_interval_of_a_mean_stays_inside_the_range_of_its_metric() -> None:
    apart = [result({"p1": 0.1, "p2": 0.0, "p3": 0.2}), result({"p1": 0.9, "p2": 0.8, "p3": 1.0})]
    judged = judge(search(), candidate(3, 0.9), [1042, 1043], apart, OWN, BASELINE)
    assert judged.interval is not None
    assert (judged.interval.low, judged.interval.high) == (0.0, 1.0)


def test_the_gain_of_a_minimised_objective_is_positive_when_it_falls() -> None:
    falling = search(objectives={"spiral_score": "min"})
    judged = judge(falling, candidate(3, 0.9), [1], [result({"p1": 0.1, "p2": 0.1, "p3": 0.3})], OWN, BASELINE)
    assert judged.gain is not None
    assert judged.gain.mean == pytest.approx(0.7 / 3)
    assert judged.gain.ratio == pytest.approx(0.5 / 1.2)
    assert judged.gain.wins is not None
    assert judged.gain.wins.rate == 1.0


def test_a_finalist_over_a_limit_is_not_feasible() -> None:
    judged = judge(search(), candidate(3, 0.9), [1], [result({"p1": 1.0, "p2": 1.0}, kl_divergence=2.1)], OWN, BASELINE)
    assert not judged.feasible


def test_an_objective_with_one_number_a_run_has_no_intervals() -> None:
    falling = search(objectives={"perplexity": "min"})
    judged = judge(falling, candidate(3, 0.9), [1], [BASELINE], [{}], BASELINE)
    assert (judged.interval, judged.gain, judged.over_baseline) == (None, None, None)
    assert judged.metrics["perplexity"] == 40.0


def finalist(number: int, spiral: float, broken: float = -1.0, gain: Gain | None = None) -> Finalist:
    metrics = {"spiral_score": spiral, "perplexity": 40.0}
    return Finalist(number, {}, (1,), [], metrics, {"kl_divergence": broken}, None, gain, None)


def test_the_winner_is_feasible_before_it_is_best_and_ties_go_to_the_earlier_trial() -> None:
    assert winner(search(), [finalist(1, 0.9, broken=0.1), finalist(2, 0.5), finalist(3, 0.7)]).number == 3
    assert winner(search(), [finalist(4, 0.7), finalist(2, 0.7)]).number == 2
    assert winner(search(), [finalist(1, 0.5, broken=1.0), finalist(2, 0.6, broken=2.0)]).number == 1
    assert winner(search(objectives={"perplexity": "min"}), [finalist(1, 0.9), finalist(0, 0.1)]).number == 0


def gain(mean: float, low: float, high: float) -> Gain:
    return Gain(mean, low, high, p_positive=0.9, n=12, ratio=1.25, wins=Wins(0.75, 0.5, 0.9, 12))


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        (finalist(0, 0.9), "the config's own values won: no other setting was better"),
        (
            finalist(3, 0.9, gain=gain(0.1, 0.02, 0.2)),
            "better than the config's own values: +0.100 [+0.020, +0.200] over 12 prompts, ratio 1.25, "
            "win rate 0.75 [0.50, 0.90]",
        ),
        (
            finalist(3, 0.9, gain=gain(0.1, -0.02, 0.2)),
            "not distinguishable from the config's own values: +0.100 [-0.020, +0.200] over 12 prompts, ratio 1.25, "
            "win rate 0.75 [0.50, 0.90]",
        ),
        (
            finalist(3, 0.9, gain=gain(-0.1, -0.2, -0.02)),
            "worse than the config's own values: -0.100 [-0.200, -0.020] over 12 prompts, ratio 1.25, "
            "win rate 0.75 [0.50, 0.90]",
        ),
        (
            finalist(3, 0.9, gain=gain(0.1, 0.0, 0.2)),
            "not distinguishable from the config's own values: +0.100 [+0.000, +0.200] over 12 prompts, ratio 1.25, "
            "win rate 0.75 [0.50, 0.90]",
        ),
        (
            finalist(3, 0.9),
            "not comparable with the config's own values: fewer than two prompts or pairs were scored with both",
        ),
    ],
)
def test_the_verdict_is_one_sentence_on_the_own_values(judged: Finalist, sentence: str) -> None:
    assert verdict(judged) == sentence
