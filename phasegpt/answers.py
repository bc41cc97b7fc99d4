"""Answers with their own label: made of pairs or read as such, split, and put side by side again to be judged.

Knows which source holds pairs and which holds unpaired answers, and which method trains on which; nothing of tokens.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path

from phasegpt.config import Config
from phasegpt.config_io import resolve
from phasegpt.pairs import (
    STRATA,
    AnswerSplit,
    Pair,
    PairsError,
    Split,
    UnpairedRow,
    read_pairs,
    read_unpaired,
    split_answers,
    split_pairs,
)
from phasegpt.readers import read_rows

UNPAIRED_METHOD = "kto_unpaired"
Preferences = tuple[Pair, ...] | tuple[UnpairedRow, ...]
Couples = Mapping[str, tuple[str, str]]
"""{name: (id of a desirable answer, id of an undesirable one)}; of a pair the name is its own id."""


def read_preferences(
    source: Path | str, method: str, domains: Sequence[str], strata: Sequence[str] = STRATA
) -> Preferences:
    """The pairs of a source or, where its first row has a `completion`, its unpaired answers.

    Raises PairsError with every problem, and where `method` needs pairs and finds answers.
    """
    if not holds_answers(source):
        return read_pairs(source, domains, strata)
    if method != UNPAIRED_METHOD:
        problem = f"expected pairs for method {method}, found unpaired answers, which only {UNPAIRED_METHOD} takes"
        raise PairsError([f"{source}:1: {problem}"])
    return read_unpaired(source, domains, strata)


def preferences_of(config: Config) -> Preferences:
    """The rows that a config trains on and is judged by. Raises PairsError as `read_preferences` does."""
    training, data = config.training, config.data
    return read_preferences(resolve(training.preference_dataset), training.method, data.domains, data.stratify_by)


def holds_answers(source: Path | str) -> bool:
    """Whether the first row that can be read has a `completion`."""
    first = next((row.values for row in read_rows(source) if row.values is not None), {})
    return "completion" in first


def split_preferences(
    preferences: Preferences,
    val_split: float,
    stratify_by: Sequence[str],
    held_out_domains: Sequence[str],
    seed: int,
) -> Split | AnswerSplit:
    """`split_pairs` or `split_answers`, as the rows are."""
    answers = [row for row in preferences if isinstance(row, UnpairedRow)]
    if answers:
        return split_answers(answers, val_split, stratify_by, held_out_domains, seed)
    pairs = [row for row in preferences if isinstance(row, Pair)]
    return split_pairs(pairs, val_split, stratify_by, held_out_domains, seed)


def split_of(preferences: Preferences, config: Config) -> Split | AnswerSplit:
    """The rows of a config, split as it says."""
    data, held_out = config.data, config.evaluation.held_out_domains
    return split_preferences(preferences, data.val_split, data.stratify_by, held_out, config.experiment.seed)


def examples_of(preferences: Preferences, method: str) -> Preferences:
    """What `method` takes one at a time: kto_unpaired answers, every other method pairs."""
    return answers_of(preferences) if method == UNPAIRED_METHOD else preferences


def answers_of(preferences: Sequence[Pair | UnpairedRow]) -> tuple[UnpairedRow, ...]:
    """Each answer with its label, in order: a pair's chosen one is desirable, its rejected one undesirable."""
    return tuple(answer for row in preferences for answer in _answers(row))


def _answers(row: Pair | UnpairedRow) -> tuple[UnpairedRow, ...]:
    if isinstance(row, UnpairedRow):
        return (row,)
    strata = (row.domain, row.complexity, row.subtlety, row.line)
    chosen, rejected = couple_of(row.id)
    return (
        UnpairedRow(chosen, row.prompt, row.chosen, True, *strata),
        UnpairedRow(rejected, row.prompt, row.rejected, False, *strata),
    )


def couple_of(pair_id: str) -> tuple[str, str]:
    """The ids of a pair's two answers."""
    return f"{pair_id}-chosen", f"{pair_id}-rejected"


def couples_of(preferences: Sequence[Pair | UnpairedRow]) -> Couples:
    """What is judged side by side: the two answers of each pair, or couples made of unpaired answers.

    Each answer of the more frequent label gets one of the other label: to the same prompt in turn where there is one,
    else any in turn. The couple has the first one's id. Without both labels there are no couples. In a file that was
    made of pairs with a prompt each the couples are those pairs.
    """
    pairs = {row.id: couple_of(row.id) for row in preferences if isinstance(row, Pair)}
    return pairs or _made_couples([row for row in preferences if isinstance(row, UnpairedRow)])


def _made_couples(answers: Sequence[UnpairedRow]) -> Couples:
    order = sorted(answers, key=lambda row: (row.prompt, row.id))
    desirable, undesirable = [row for row in order if row.label], [row for row in order if not row.label]
    frequent, rare = sorted((desirable, undesirable), key=len, reverse=True)
    if not rare:
        return {}
    of_prompt = {prompt: cycle(list(rows)) for prompt, rows in groupby(rare, key=lambda row: row.prompt)}
    any_prompt = cycle(rare)
    partners = {row: next(of_prompt.get(row.prompt, any_prompt)) for row in frequent}
    return {row.id: (row.id, other.id) if row.label else (other.id, row.id) for row, other in partners.items()}
