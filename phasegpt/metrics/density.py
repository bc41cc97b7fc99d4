"""Spiral density: dialectical moves per 100 words. Strata are made by it; it ranks nothing."""

from phasegpt.metrics.components import Reading


def spiral_density(text: str) -> float:
    """Moves per 100 words, from 0 up; per text.

    A move is a sentence that `spiral.explain` reads as pushback or as synthesis; the position is where they start, not
    a move. A text without words has none: 0. Two pushbacks and a synthesis in 60 words make 5.
    """
    reading = Reading.of(text)
    moves = len(reading.pushback) + (reading.synthesis[0] is not None)
    return 100 * moves / max(1, len(reading.words))
