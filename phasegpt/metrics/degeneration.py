"""Whether an answer is broken: repetition and distinct word pairs. A low perplexity cannot hide such text.

Counts over words, deterministic, standard library only. Knows nothing of models, nor of how an answer ended.
"""

from itertools import pairwise

from phasegpt.metrics.words import words_of

SPAN = 4


def repetition(text: str) -> float:
    """Share of words inside a 4-gram that occurred before in the same text: 0 (none) to below 1; lower is better.

    The first occurrence does not count. "we go on and we go on and stop" has nine words, of which the second "we go on
    and" makes four: 4/9. Five times the same word: 4/5. Fewer than five words cannot repeat one: 0.
    """
    words = words_of(text)
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for begin in range(len(words) - SPAN + 1):
        gram = words[begin : begin + SPAN]
        if gram in seen:
            repeated.update(range(begin, begin + SPAN))
        seen.add(gram)
    return len(repeated) / max(1, len(words))


def distinct_2(text: str) -> float:
    """Different word pairs over all word pairs (arXiv 1510.03055): 0 to 1; higher is better.

    "to be or not to be" has five pairs, of which "to be" comes twice: 4/5. A text of fewer than two words has no pair
    and gets 0, so that saying nothing is not a way to look unbroken. Falls with length: compare at one max_new_tokens.
    """
    words = words_of(text)
    pairs = list(pairwise(words))
    return len(set(pairs)) / max(1, len(pairs))
