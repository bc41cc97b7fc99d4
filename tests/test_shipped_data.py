"""The shipped data keeps what data/README.md promises of it, and what is made by a script is what the script makes."""

import runpy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from phasegpt.config_sections import Data
from phasegpt.data_report import check_file
from phasegpt.files import file_sha256, read_json
from phasegpt.metrics.degeneration import repetition
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


OWN = runpy.run_path(str(DATA / "make_own_pairs.py"))
WORDS = " ".join(f"w{n}" for n in range(20))


def drawn(name: str, score: float, words: str = WORDS) -> Any:
    return OWN["Drawn"](f"{name} {words}.", score)


def test_own_answers_are_coupled_best_with_worst_and_each_is_in_one_couple() -> None:
    best, good, bad, worst = drawn("a", 0.9), drawn("b", 0.8), drawn("c", 0.2), drawn("d", 0.1)
    assert OWN["couples"]([bad, worst, best, good], 3) == [(best, worst), (good, bad)]
    assert OWN["couples"]([bad, worst, best, good, good], 1) == [(best, worst)]


def test_own_answers_of_like_score_or_unlike_length_make_no_couple() -> None:
    assert OWN["couples"]([drawn("a", 0.5), drawn("b", 0.31)], 3) == []
    assert OWN["couples"]([drawn("a", 0.9), drawn("b", 0.1, WORDS[:40])], 3) == []


def test_an_own_answer_that_repeats_itself_may_be_worse_but_never_better() -> None:
    circular, whole = drawn("a", 0.9, "round and round we go " * 4), drawn("b", 0.1)
    assert OWN["couples"]([circular, whole], 3) == []
    assert OWN["couples"]([drawn("c", 0.9), drawn("a", 0.1, "round and round we go " * 4)], 3) != []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It rains. But then it sto", "It rains."),
        ('He said "no." And', 'He said "no."'),
        ("Pi is 3.14 and", ""),
        ("A\n\nline? Yes! ", "A\n\nline? Yes!"),
    ],
)
def test_an_own_answer_ends_with_its_last_whole_sentence(text: str, kept: str) -> None:
    assert OWN["whole"](text) == kept


def test_own_pairs_keep_the_labels_of_the_pair_whose_prompt_was_asked() -> None:
    pair = read_pairs(V14, DOMAINS)[0]
    rows = OWN["rows_of"](pair, [(drawn("a", 0.9), drawn("b", 0.1)), (drawn("c", 0.8), drawn("d", 0.2))])
    assert [row["id"] for row in rows] == [f"{pair.id}/own-1", f"{pair.id}/own-2"]
    assert {row["prompt"] for row in rows} == {pair.prompt}
    assert {(row["domain"], row["complexity"], row["subtlety"]) for row in rows} == {
        (pair.domain, pair.complexity, pair.subtlety)
    }


def test_the_shipped_own_pairs_are_of_training_prompts_and_as_their_script_couples_them() -> None:
    own, origin = read_pairs(DATA / "preferences_own.jsonl", DOMAINS), read_json(DATA / "preferences_own.json")
    asked = {pair.prompt for pair in read_pairs(V14, DOMAINS) if pair.domain != "artistic"}
    assert {pair.prompt for pair in own} <= asked
    assert (len(own), origin["sha256"]) == (origin["rows"], file_sha256(DATA / "preferences_own.jsonl"))
    assert origin["prompts_sha256"] == file_sha256(V14)
    assert all(repetition(pair.chosen) <= origin["most_repetition"] for pair in own)
    found = length_auc(answers(own))
    assert found is not None
    assert 0.45 <= found.value <= 0.60


def test_own_answers_are_drawn_so_many_to_each_prompt_and_the_same_from_the_same_seed(toy_model_dir: Path) -> None:
    import torch

    from phasegpt.models import load_base

    base, prompts = load_base(str(toy_model_dir), Path()), ["What can a clock teach?", "Tell of the river once more."]

    def draw(seed: int) -> list[list[str]]:
        torch.manual_seed(seed)
        answers: list[list[str]] = OWN["draw"](base, prompts, 3, 8, 0.7)
        return answers

    assert [len(own) for own in draw(1)] == [3, 3]
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
