"""The shipped data keeps what data/README.md promises of it, and what is made by a script is what the script makes."""

import runpy
from collections import defaultdict
from pathlib import Path

import pytest

from phasegpt.config_sections import Data
from phasegpt.data_report import check_file
from phasegpt.metrics.words import MARKERS, words_of
from phasegpt.near_duplicates import ngrams
from phasegpt.pairs import Pair, read_pairs, read_prompts, read_unpaired
from phasegpt.shortcuts import Answer, auc, length_auc, marker_aucs

DATA = Path(__file__).parents[1] / "data"
V14, V13 = DATA / "preferences_v14_100pairs.jsonl", DATA / "preferences_v13_10pairs.jsonl"
PROMPTS, UNPAIRED = DATA / "eval_prompts.jsonl", DATA / "unpaired_v14.jsonl"
DOMAINS = Data().domains


def answers(pairs: tuple[Pair, ...]) -> list[Answer]:
    return [
        Answer(pair.line, name, pair.prompt, getattr(pair, name), name == "chosen", pair.subtlety)
        for pair in pairs
        for name in ("chosen", "rejected")
    ]


@pytest.mark.parametrize("path", [V14, V13, PROMPTS, UNPAIRED], ids=lambda path: path.stem)
def test_a_shipped_file_has_no_error_and_no_warning(path: Path) -> None:
    assert check_file(path).findings == ()


@pytest.mark.parametrize("path", [V14, V13], ids=lambda path: path.stem)
def test_length_alone_tells_nothing(path: Path) -> None:
    found = length_auc(answers(read_pairs(path, DOMAINS)))
    assert found is not None
    assert 0.45 <= found.value <= 0.55


def test_marker_words_alone_do_not_give_implicit_answers_away() -> None:
    """Neither their number nor a model of which ones occur, be it trained on the whole file or on implicit pairs."""
    pairs = read_pairs(V14, DOMAINS)
    assert marker_aucs(answers(pairs))["implicit"].value <= 0.60
    assert marker_aucs(answers(tuple(filter(is_implicit, pairs))))["all"].value <= 0.60
    counts = [
        [float(sum(word in MARKERS for word in words_of(getattr(pair, name)))) for pair in pairs if is_implicit(pair)]
        for name in ("chosen", "rejected")
    ]
    found = auc(*counts)
    assert found is not None
    assert found.value <= 0.60


def is_implicit(pair: Pair) -> bool:
    return pair.subtlety == "implicit"


def test_no_eight_words_in_a_row_occur_in_two_pairs() -> None:
    owners: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for pair in (*read_pairs(V14, DOMAINS), *read_pairs(V13, DOMAINS)):
        for text in (pair.prompt, pair.chosen, pair.rejected):
            for gram in ngrams(text, 8):
                owners[gram].add(pair.id)
    assert len(owners) > 20_000
    assert {gram: ids for gram, ids in owners.items() if len(ids) > 1} == {}


def test_every_stratum_has_three_pairs_of_fifty_to_a_hundred_and_fifty_words() -> None:
    pairs = read_pairs(V14, DOMAINS)
    strata = defaultdict(list)
    for pair in pairs:
        strata[pair.domain, pair.complexity, pair.subtlety].append(pair.id)
        assert all(50 <= len(text.split()) <= 150 for text in (pair.chosen, pair.rejected)), pair.id
    assert {len(ids) for ids in strata.values()} == {3}
    assert len(strata) == 36


def test_no_prompt_occurs_twice_in_pairs_and_evaluation() -> None:
    files = (read_pairs(V14, DOMAINS), read_pairs(V13, DOMAINS), read_prompts(PROMPTS))
    prompts = [" ".join(row.prompt.casefold().split()) for rows in files for row in rows]
    assert len(set(prompts)) == len(prompts)


def test_the_unpaired_answers_are_what_their_script_makes_of_the_pairs() -> None:
    script = runpy.run_path(str(DATA / "make_unpaired.py"))
    pairs = read_pairs(V14, DOMAINS)
    assert UNPAIRED.read_text(encoding="utf-8") == script["unpaired_text"](pairs)
    rows = read_unpaired(UNPAIRED, DOMAINS)
    assert [row.completion for row in rows if row.label] == [pair.chosen for pair in pairs]
    assert [row.completion for row in rows if not row.label] == [pair.rejected for pair in pairs]
