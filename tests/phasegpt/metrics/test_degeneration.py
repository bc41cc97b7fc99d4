"""Broken text, counted by hand."""

import pytest

from phasegpt.metrics.degeneration import distinct_2, repetition

SENTENCE = "The river stays where the bridge was built. "


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("no no no", 0),
        ("no no no no", 0),
        ("no no no no no", 4 / 5),
        ("we go on and we go on and stop", 4 / 9),
        ("one two three four, one two three", 0),
        ("One two three four. ONE TWO THREE FOUR!", 4 / 8),
        (SENTENCE, 0),
        (SENTENCE * 2, 8 / 16),
        (SENTENCE * 10, 72 / 80),
    ],
)
def test_repetition_is_the_share_of_words_in_four_words_that_came_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("word", 0),
        ("two words", 1),
        ("to be or not to be", 4 / 5),
        ("no no no no", 1 / 3),
        ("To be, to be", 2 / 3),
    ],
)
def test_distinct_2_is_the_share_of_different_word_pairs(text: str, share: float) -> None:
    assert distinct_2(text) == pytest.approx(share)


def test_a_phrase_that_returns_once_costs_little_and_a_loop_costs_nearly_all() -> None:
    prose = "A garden left alone grows nettles, since one strong plant does what the gardener refused to do. "
    echo = prose + "What the gardener refused to do, the nettle does."
    assert repetition(echo) < 0.3
    assert repetition(prose * 6) > 0.8
    assert distinct_2(prose * 6) < 0.2
