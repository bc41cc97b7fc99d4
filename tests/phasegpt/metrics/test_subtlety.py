"""Subtlety on the texts of test_spiral.py."""

import statistics

import pytest

from phasegpt.metrics.subtlety import explicitness, is_implicit, subtlety
from tests.phasegpt.metrics.test_spiral import BROKEN, FLAT, GENUINE


def _mean(texts: list[str]) -> float:
    return statistics.mean(map(subtlety, texts))


def test_subtlety_orders_explicit_moderate_implicit() -> None:
    assert _mean(GENUINE["explicit"]) < _mean(GENUINE["moderate"]) < _mean(GENUINE["implicit"])


def test_terminology_is_louder_than_a_connective_and_both_than_neither() -> None:
    plain = "The wall keeps the river out of the field. " * 5
    assert explicitness(plain) == 0.0
    assert 0 < explicitness(f"{plain} But no.") < explicitness(f"{plain} Antithesis: no.") < 1


def test_one_term_and_one_connective_in_a_hundred_words_are_loud_by_five_eighths() -> None:
    assert explicitness("but antithesis " + "field " * 98) == pytest.approx(0.625)


def test_the_loudness_of_a_text_does_not_depend_on_its_length() -> None:
    hundred = "but antithesis " + "field " * 98
    assert explicitness(hundred * 2) == pytest.approx(explicitness(hundred))


@pytest.mark.parametrize("kind", [*FLAT])
def test_a_flat_text_is_not_subtle_for_saying_nothing(kind: str) -> None:
    assert _mean(FLAT[kind]) < 0.35
    assert _mean(FLAT[kind]) < _mean(GENUINE["implicit"])


@pytest.mark.parametrize("kind", [*BROKEN])
def test_a_broken_text_has_next_to_no_subtlety(kind: str) -> None:
    assert max(map(subtlety, BROKEN[kind])) < 0.35


def test_an_empty_text_has_none() -> None:
    assert subtlety("") == 0.0


def test_most_implicit_texts_and_no_explicit_one_pass_the_threshold() -> None:
    assert sum(map(is_implicit, GENUINE["implicit"])) >= 3
    assert not any(map(is_implicit, GENUINE["explicit"]))
