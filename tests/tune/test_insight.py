"""The numbers of an insight: each is computed of trials whose answer is known."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from phasegpt.config_search import Search
from tune.insight_budget import budget_curve
from tune.insight_importance import TOO_FEW, Importance, Share, as_trial, importance, verdict
from tune.insight_map import default_keys, parameter_map
from tune.insight_next import explained, spacing
from tune.insight_records import Record
from tune.insight_space import differences, distance, place, position, value_at
from tune.study import Asked

RATE, BETA, LAMBDA, RANK = "training.learning_rate", "training.beta", "training.kto_lambda", "model.lora_config.r"
BOX = {RATE: {"loguniform": [1e-6, 1e-4]}, BETA: {"loguniform": [0.01, 1.0]}, RANK: {"choice": [8, 16]}}
BOTH = {key: BOX[key] for key in (RATE, BETA)}
OWN = {RATE: 1e-5, BETA: 0.1, RANK: 8, LAMBDA: 0.1}
Loss = Callable[[Mapping[str, Any], random.Random], float]


def search(parameters: Mapping[str, Any] = BOX, **settings: Any) -> Search:
    return Search.model_validate({"objectives": {"eval_loss": "min"}, "parameters": parameters, **settings})


def tried(count: int, loss: Loss, seed: int = 0) -> list[Record]:
    """Trials at random points of the box, all of them finished."""
    rng, records = random.Random(seed), []  # noqa: S311 - trials, not secrets
    for number in range(count):
        values = {RATE: 10 ** rng.uniform(-6, -4), BETA: 10 ** rng.uniform(-2, 0), RANK: rng.choice([8, 16])}
        records.append(Record(number, values, metrics={"eval_loss": loss(values, rng)}, ended=float(number)))
    return records


def by_rate(values: Mapping[str, Any], rng: random.Random) -> float:
    """Least at lr = 1e-5; nothing else matters."""
    return (math.log10(values[RATE]) + 5) ** 2 + 0.01 * rng.gauss(0, 1)


def by_nothing(_: Mapping[str, Any], rng: random.Random) -> float:
    return rng.gauss(0, 1)


def what_mattered(
    records: Sequence[Record], settings: Search | None = None, better: str = "min", resamples: int = 60
) -> Importance:
    parameters = (settings or search()).parameters
    return importance(records, parameters, OWN, "eval_loss", better, seed=0, resamples=resamples)


# --- importance ------------------------------------------------------------------------------------------------------


def test_where_one_parameter_matters_its_interval_lies_above_the_others() -> None:
    found = what_mattered(tried(60, by_rate))
    first, *others = found.shares
    assert first.key == RATE
    assert first.low > max(other.high for other in others)
    assert found.verdict in ("lr matters more than β and r", "lr matters more than r and β")
    assert sum(share.share for share in found.shares) == pytest.approx(1)


def test_where_nothing_matters_no_parameter_is_told_from_the_others() -> None:
    found = what_mattered(tried(60, by_nothing))
    assert found.verdict == f"{TOO_FEW}: the intervals of all parameters overlap"
    assert len(found.shares) == 3


def test_nine_trials_are_too_few() -> None:
    assert what_mattered(tried(9, by_rate)) == Importance("eval_loss", 9, (), f"{TOO_FEW}: 9 finished, 10 are needed")


def test_an_objective_to_be_large_and_its_negative_to_be_small_have_the_same_shares() -> None:
    records = tried(20, by_rate)
    turned = [Record(r.number, r.values, metrics={"eval_loss": -r.metrics["eval_loss"]}) for r in records]
    assert what_mattered(turned, better="max", resamples=5) == what_mattered(records, resamples=5)


def test_trials_that_did_not_end_or_differ_in_more_than_searched_values_are_left_out() -> None:
    records = tried(14, by_rate)
    stopped = Record(14, records[0].values, state="pruned", curve={3: {"eval_loss": 0.1}})
    altered = Record(15, records[0].values, metrics={"eval_loss": -9.0}, altered=True)
    assert what_mattered([*records, stopped, altered], resamples=5) == what_mattered(records, resamples=5)


def test_the_two_draws_of_a_value_beside_a_range_count_as_one_parameter() -> None:
    settings = search({**BOTH, LAMBDA: {"loguniform": [0.001, 1.0], "or": [0]}})
    rng, records = random.Random(1), []  # noqa: S311 - trials, not secrets
    for record in tried(60, by_nothing):
        value = 0 if rng.random() < 0.25 else 10 ** rng.uniform(-3, 0)
        loss = float(value != 0) + 0.01 * rng.gauss(0, 1)
        records.append(Record(record.number, {**record.values, LAMBDA: value}, metrics={"eval_loss": loss}))
    found = what_mattered(records, settings)
    assert {share.key for share in found.shares} == {RATE, BETA, LAMBDA}
    assert found.shares[0].key == LAMBDA
    assert found.verdict.startswith("λ matters more than")


def test_a_parameter_under_a_condition_says_on_how_many_trials_it_rests() -> None:
    settings = search({RATE: BOX[RATE], RANK: BOX[RANK], BETA: {**BOX[BETA], "when": {RANK: [8]}}})
    records = [
        Record(r.number, {k: v for k, v in r.values.items() if k != BETA or r.values[RANK] == 8}, metrics=r.metrics)
        for r in tried(40, by_rate)
    ]
    had = sum(BETA in record.values for record in records)
    trials = {share.key: share.trials for share in what_mattered(records, settings, resamples=5).shares}
    assert 0 < had < 40
    assert trials == {RATE: 40, RANK: 40, BETA: had}


def test_a_config_value_outside_its_range_counts_as_the_nearest_inside() -> None:
    settings = search({RATE: BOX[RATE], "training.warmup_ratio": {"quniform": [0.0, 0.3, 0.1]}})
    trial = as_trial(
        {RATE: 0.5, "training.warmup_ratio": 0.14}, settings.parameters, OWN | {"training.warmup_ratio": 0}, 1.0
    )
    assert trial.params == {RATE: 1e-4, "training.warmup_ratio": pytest.approx(0.1)}


def share(key: str, low: float, high: float) -> Share:
    return Share(key, (low + high) / 2, low, high, 20)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            [share(RATE, 0.5, 0.9), share(BETA, 0.3, 0.6), share(RANK, 0.0, 0.2)],
            "lr matters more than r; β matters more than r",
        ),
        ([share(RATE, 0.5, 0.9), share(BETA, 0.2, 0.4), share(RANK, 0.0, 0.2)], "lr matters more than β and r"),
        ([share(RATE, 0.5, 0.9), share(BETA, 0.2, 0.5)], f"{TOO_FEW}: the intervals of all parameters overlap"),
        ([share(RATE, 1.0, 1.0)], "one parameter alone is searched: there is nothing to compare it with"),
    ],
)
def test_parameters_are_told_apart_by_intervals_that_do_not_touch(shares: list[Share], said: str) -> None:
    assert verdict(shares) == said


# --- space -----------------------------------------------------------------------------------------------------------


def test_positions_run_from_one_end_to_the_other_in_logarithms_where_the_range_does() -> None:
    parameters = search({RATE: BOX[RATE], "training.warmup_ratio": {"uniform": [0.1, 0.3]}}).parameters
    assert [position(parameters[RATE], v) for v in (1e-6, 1e-5, 1e-4, 1e-3)] == pytest.approx([0, 0.5, 1, 1.5])
    assert position(parameters["training.warmup_ratio"], 0.15) == pytest.approx(0.25)
    assert [value_at(parameters[RATE], w) for w in (0, 0.5, 1)] == pytest.approx([1e-6, 1e-5, 1e-4])


def test_what_stands_beside_a_range_has_no_place_in_it() -> None:
    parameters = search({**BOTH, LAMBDA: {"loguniform": [0.001, 1.0], "or": [0]}, RANK: BOX[RANK]}).parameters
    assert (position(parameters[LAMBDA], 0), position(parameters[LAMBDA], -1.0), position(parameters[RANK], 8)) == (
        None, None, None,
    )  # fmt: skip
    assert place(parameters, (LAMBDA, BETA), {LAMBDA: 0, BETA: 0.1}) is None
    assert place(parameters, (LAMBDA, BETA), {LAMBDA: 1.0, BETA: 0.1}) == pytest.approx((1.0, 0.5))


def test_a_distance_is_nothing_to_itself_and_one_to_the_opposite_corner() -> None:
    parameters = search().parameters
    corner, opposite = {RATE: 1e-6, BETA: 0.01, RANK: 8}, {RATE: 1e-4, BETA: 1.0, RANK: 16}
    assert distance(parameters, corner, corner) == 0
    assert distance(parameters, corner, opposite) == pytest.approx(1)
    assert distance(parameters, corner, {**corner, BETA: 0.1}) == pytest.approx(0.5 / math.sqrt(3))
    assert differences(parameters, {RATE: 1e-6}, {RATE: 1e-6, BETA: 0.5}) == {RATE: 0, BETA: 1}


# --- map -------------------------------------------------------------------------------------------------------------


def test_the_map_is_of_learning_rate_and_beta_or_else_of_the_most_important_two() -> None:
    epochs, warmup = "training.num_epochs", "training.warmup_ratio"
    without_rate = search({BETA: BOX[BETA], epochs: {"randint": [1, 5]}, warmup: {"uniform": [0, 1]}, RANK: BOX[RANK]})
    assert default_keys(search().parameters, [BETA, RATE]) == (RATE, BETA)
    assert default_keys(without_rate.parameters, [RANK, warmup, BETA, epochs]) == (warmup, BETA)
    assert default_keys(without_rate.parameters, []) == (BETA, epochs)
    assert default_keys(search({RATE: BOX[RATE], RANK: BOX[RANK]}).parameters, []) is None


def bowl(values: Mapping[str, Any], rng: random.Random) -> float:
    """Least at lr = 1e-5 and β = 0.03; one power of ten away it is one."""
    return (math.log10(values[RATE]) + 5) ** 2 + (math.log10(values[BETA]) + 1.5) ** 2 + 0.01 * rng.gauss(0, 1)


def test_the_surface_finds_the_ground_of_a_bowl() -> None:
    found = parameter_map(tried(30, bowl), search().parameters, (RATE, BETA), "eval_loss", "min", seed=0)
    assert found.surface is not None
    mean = found.surface.mean
    row, column = min(((r, c) for r in range(25) for c in range(25)), key=lambda at: mean[at[0]][at[1]])
    assert math.log10(found.surface.x[column]) == pytest.approx(-5, abs=0.15)
    assert math.log10(found.surface.y[row]) == pytest.approx(-1.5, abs=0.15)
    assert mean[row][column] == pytest.approx(0, abs=0.05)
    assert found.surface.explained > 0.98


def test_a_surface_through_noise_says_that_it_predicts_nothing() -> None:
    found = parameter_map(tried(25, by_nothing, seed=1), search().parameters, (RATE, BETA), "eval_loss", "min", seed=0)
    assert found.surface is not None
    assert found.surface.explained < 0.1


def test_equal_values_make_a_flat_surface() -> None:
    found = parameter_map(tried(10, lambda *_: 0.5), search().parameters, (RATE, BETA), "eval_loss", "min", seed=0)
    assert found.surface is not None
    assert {value for row in found.surface.mean for value in row} == {0.5}
    assert "no better than their mean" in found.note


def test_a_value_that_blew_up_is_drawn_as_the_limit_and_does_not_drown_the_others() -> None:
    records = tried(30, bowl)
    worst = max(record.metrics["eval_loss"] for record in records)
    records.append(Record(30, {**OWN, RATE: 1e-4, BETA: 1.0}, metrics={"eval_loss": 1e6}))
    found = parameter_map(records, search().parameters, (RATE, BETA), "eval_loss", "min", seed=0)
    assert worst < found.limit < 10
    assert found.drawn(1e6) == found.limit
    assert found.surface is not None
    assert found.surface.explained > 0.8


def test_trials_without_a_place_are_counted_and_too_few_give_no_surface() -> None:
    settings = search({**BOTH, LAMBDA: {"loguniform": [0.001, 1.0], "or": [0]}})
    records = [
        Record(r.number, {**r.values, LAMBDA: 0 if r.number < 3 else 0.1}, metrics=r.metrics) for r in tried(12, bowl)
    ]
    records.append(Record(12, {**OWN, LAMBDA: 0.5}, state="pruned"))
    found = parameter_map(records, settings.parameters, (LAMBDA, BETA), "eval_loss", "min", seed=0)
    assert (found.beside, len(found.points), found.surface) == (3, 10, None)
    assert found.note == "no surface: 9 trials came to a result, 10 are needed"
    assert [(point.state, point.value) for point in found.points][-1] == ("pruned", None)


# --- what comes next -------------------------------------------------------------------------------------------------


def of(asked: Asked, records: Sequence[Record], **settings: Any) -> str:
    found = search(**settings)
    return explained(asked, found, records, spacing(found.parameters, records)).why


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("config", "queued: the config's own values come first"),
        ("grid", "queued: the next point of the grid"),
        ("clone of trial 3", "queued by command: a clone of trial 3"),
        ("Zephyr QLoRA", "queued before the sampler begins: a published setting, Zephyr QLoRA"),
    ],
)
def test_a_queued_point_says_what_put_it_there(origin: str, said: str) -> None:
    assert of(Asked(5, OWN, origin), tried(8, bowl)) == said


@pytest.mark.parametrize(
    ("sampler", "trials", "said"),
    [
        ("random", 20, "drawn at random, as the sampler does always"),
        ("grid", 20, "drawn at random: every point of the grid has been asked"),
        ("tpe", 4, "drawn at random: TPE begins when 5 trials have ended, and 4 have"),
        ("nsga2", 0, "NSGA-II: no trial has ended"),
    ],
)
def test_a_point_without_regard_to_results_says_so(sampler: str, trials: int, said: str) -> None:
    assert of(Asked(30, OWN, "sampler"), tried(trials, bowl), sampler=sampler) == said


def row(*rates: float) -> list[Record]:
    """Trials a tenth of the range apart or more, the first of them the best."""
    return [
        Record(n, {RATE: 10 ** (-6 + 2 * at), BETA: 0.1, RANK: 8}, metrics={"eval_loss": float(n)})
        for n, at in enumerate(rates)
    ]


def test_a_sampled_point_is_told_by_its_neighbours() -> None:
    records = row(0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0, 0.7)  # gap 0.1 / √3 = 0.0577; the best quarter is trials 0 and 1
    near, away, far = (
        Asked(8, {RATE: 10 ** (-6 + 2 * at), BETA: beta, RANK: 8}, "sampler")
        for at, beta in ((0.51, 0.1), (0.21, 0.1), (1.0, 1.0))
    )
    assert (
        of(near, records)
        == "TPE stays near the best: trial-000, 0.00577 away, mostly in lr (1e-05 there, 1.05e-05 here)"
    )
    assert of(away, records) == (
        "TPE goes where others were: trial-004, 0.00577 away; the nearest of the best quarter is trial-000, 0.167 away"
    )
    assert of(far, records).startswith("TPE explores: nothing tried within 0.337 (usual gap 0.0577); the nearest of")


# --- budget ----------------------------------------------------------------------------------------------------------


def ended(number: int, loss: float | None, at: float, **changes: Any) -> Record:
    metrics = {} if loss is None else {"eval_loss": loss}
    state = "complete" if loss is not None else changes.pop("state", "failed")
    return Record(number, OWN, state=state, metrics=metrics, ended=at, **changes)


def test_the_best_so_far_follows_the_order_of_ends() -> None:
    records = [
        ended(0, 0.7, 2.0),
        ended(1, 0.5, 1.0),
        ended(2, None, 3.0),
        ended(3, 0.4, 4.0),
        Record(4, OWN, "running"),
    ]
    found = budget_curve(records, "eval_loss", "min", by_steps=False)
    assert [(point.trial, point.spent, point.best) for point in found.points] == [
        (1, 1, 0.5), (0, 2, 0.5), (2, 3, 0.5), (3, 4, 0.4),
    ]  # fmt: skip
    assert (found.own, found.best_trial, found.found_after, found.last) == (0.7, 3, 4, 1)
    assert found.gained == pytest.approx(0.1)
    assert found.sentence() == (
        "best 0.4 by trial-003, found after 4 of 4 fits (the config's own values: 0.7); "
        "the last quarter (1 of 4) gained 0.1"
    )


def test_steps_count_where_trials_are_stopped_early() -> None:
    records = [
        ended(0, 0.5, 1.0, steps=9),
        ended(1, None, 2.0, state="pruned", steps=3),
        ended(2, 0.6, 3.0, steps=9),
        ended(3, None, 4.0, state="pruned", steps=3),
    ]
    found = budget_curve(records, "eval_loss", "max", by_steps=True)
    assert [point.spent for point in found.points] == [9, 12, 21, 24]
    assert (found.best_trial, found.found_after, found.total, found.last, found.gained) == (
        2,
        21,
        24,
        12,
        pytest.approx(0.1),
    )


def test_what_breaks_a_constraint_is_never_the_best() -> None:
    records = [ended(0, 0.1, 1.0, violations={"kl": 0.5}), ended(1, 0.6, 2.0, violations={"kl": -0.5})]
    found = budget_curve(records, "eval_loss", "min", by_steps=False)
    assert [(point.value, point.feasible, point.best) for point in found.points] == [
        (0.1, False, None),
        (0.6, True, 0.6),
    ]
    assert found.sentence().endswith("before the last quarter (1 of 2) there was none")


def test_without_a_result_there_is_no_best() -> None:
    found = budget_curve([ended(0, None, 1.0)], "eval_loss", "min", by_steps=False)
    assert (found.best_trial, found.own, found.gained) == (None, None, None)
    assert found.sentence() == "no trial has come to a result that counts after 1 fits"
