"""Answers out of pairs and back: what a source holds, who may train on it, and who is judged beside whom."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phasegpt.answers import (
    answers_of,
    couples_of,
    examples_of,
    holds_answers,
    read_preferences,
    split_preferences,
)
from phasegpt.pairs import STRATA, AnswerSplit, Pair, PairsError, Split, UnpairedRow, pairs_hash, read_pairs
from tests.toy import DOMAINS, write_jsonl

DATA = Path(__file__).parents[2] / "data"
V14, UNPAIRED = DATA / "preferences_v14_100pairs.jsonl", DATA / "unpaired_v14.jsonl"


def answer(identity: str, prompt: str, label: bool) -> UnpairedRow:
    return UnpairedRow(identity, prompt, f"completion {identity}", label, None, None, None, 1)


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- what a source holds ---------------------------------------------------------------------------------------------


def test_a_completion_in_its_first_readable_row_makes_a_source_one_of_answers(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "completion": "So.", "label": True}
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    assert holds_answers(write(tmp_path / "a.jsonl", row, pair))
    assert not holds_answers(write(tmp_path / "b.jsonl", pair, row))
    (tmp_path / "c.jsonl").write_text(f"[1]\n{json.dumps(row)}\n")
    assert holds_answers(tmp_path / "c.jsonl")
    assert not holds_answers(tmp_path / "missing.jsonl")


def test_kto_unpaired_reads_pairs_and_answers_and_every_other_method_pairs_alone() -> None:
    assert all(isinstance(row, Pair) for row in read_preferences(V14, "kto_unpaired", DOMAINS))
    assert all(isinstance(row, Pair) for row in read_preferences(V14, "dpo", DOMAINS))
    assert all(isinstance(row, UnpairedRow) for row in read_preferences(UNPAIRED, "kto_unpaired", DOMAINS))
    with pytest.raises(PairsError) as caught:
        read_preferences(UNPAIRED, "dpo", DOMAINS)
    (problem,) = caught.value.problems
    assert problem.endswith(":1: expected pairs for method dpo, found unpaired answers, which only kto_unpaired takes")


# --- pairs as answers ------------------------------------------------------------------------------------------------


def test_a_pair_gives_a_desirable_and_an_undesirable_answer_as_in_the_shipped_file() -> None:
    shipped = read_preferences(UNPAIRED, "kto_unpaired", DOMAINS)
    made = answers_of(read_preferences(V14, "kto_unpaired", DOMAINS))
    assert [replace(row, line=0) for row in made] == [replace(row, line=0) for row in answers_of(shipped)]
    assert made[0].line == made[1].line == 1
    assert pairs_hash(made) == pairs_hash(shipped) != pairs_hash(read_pairs(V14, DOMAINS))


def test_only_kto_unpaired_takes_answers_one_at_a_time(toy_pairs_file: Path) -> None:
    pairs = read_pairs(toy_pairs_file, DOMAINS)
    assert examples_of(pairs, "dpo") == pairs
    assert examples_of(pairs, "kto_unpaired") == answers_of(pairs)
    assert len(answers_of(pairs)) == 2 * len(pairs)


# --- the split -------------------------------------------------------------------------------------------------------


def test_answers_split_as_the_pairs_they_come_from() -> None:
    rules = (0.15, STRATA, ("artistic",), 42)
    by_pairs = split_preferences(read_preferences(V14, "dpo", DOMAINS), *rules)
    by_answers = split_preferences(read_preferences(UNPAIRED, "kto_unpaired", DOMAINS), *rules)
    assert isinstance(by_pairs, Split)
    assert isinstance(by_answers, AnswerSplit)
    for part in ("train", "val", "held_out"):
        prompts = {row.prompt for row in getattr(by_pairs, part)}
        assert {row.prompt for row in getattr(by_answers, part)} == prompts
        assert len(getattr(by_answers, part)) == 2 * len(getattr(by_pairs, part))


# --- couples ---------------------------------------------------------------------------------------------------------


def test_the_couples_of_pairs_are_the_pairs_in_their_order(toy_pairs_file: Path) -> None:
    pairs = read_pairs(toy_pairs_file, DOMAINS)[:3]
    assert list(couples_of(pairs).items()) == [(p.id, (f"{p.id}-chosen", f"{p.id}-rejected")) for p in pairs]


def test_a_file_that_was_made_of_pairs_has_those_couples() -> None:
    pairs = couples_of(read_preferences(V14, "dpo", DOMAINS))
    found = couples_of(read_preferences(UNPAIRED, "kto_unpaired", DOMAINS))
    assert sorted(found.values()) == sorted(pairs.values())


def test_without_an_answer_to_the_same_prompt_the_rarer_label_takes_turns() -> None:
    rows = [answer("a", "p1", True), answer("b", "p2", True), answer("c", "p3", True)]
    rows += [answer("x", "p4", False), answer("y", "p5", False)]
    assert couples_of(rows) == {"a": ("a", "x"), "b": ("b", "y"), "c": ("c", "x")}
    assert couples_of(rows[::-1]) == couples_of(rows)


def test_an_answer_to_the_same_prompt_comes_first_and_the_desirable_one_stands_first() -> None:
    rows = [answer("a", "p1", False), answer("b", "p2", False), answer("c", "p2", False), answer("d", "p3", False)]
    rows += [answer("x", "p2", True), answer("z", "p9", True)]
    assert couples_of(rows) == {"a": ("x", "a"), "b": ("x", "b"), "c": ("x", "c"), "d": ("z", "d")}


def test_one_label_alone_makes_no_couple() -> None:
    assert couples_of([answer("a", "p1", True), answer("b", "p2", True)]) == {}
    assert couples_of([]) == {}


def test_a_source_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="holds no rows"):
        read_preferences(write_jsonl(tmp_path / "empty.jsonl", []), "kto_unpaired", DOMAINS)
