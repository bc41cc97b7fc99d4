"""Pairs and prompts: every problem of a file at once, a split that no order of rows can move."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasegpt.pairs import (
    COMPLEXITIES,
    SUBTLETIES,
    Pair,
    PairsError,
    Prompt,
    pairs_hash,
    read_pairs,
    read_prompts,
    read_unpaired,
    scan_pairs,
    split_pairs,
    take_prompts,
)
from phasegpt.readers import read_rows
from tests.toy import DOMAINS, toy_pairs, toy_prompts, write_jsonl

GOOD = {
    "id": "one",
    "prompt": "Why?",
    "chosen": "Because.",
    "rejected": "No.",
    "domain": "science",
    "complexity": "simple",
    "subtlety": "explicit",
}
KNOWN = "chosen, complexity, domain, id, prompt, rejected, subtlety"
STRATIFY = ("domain", "complexity", "subtlety")


def row(**changes: Any) -> bytes:
    """A good row with changes; a field set to ... is left out."""
    fields = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(fields).encode()


def problems_of(tmp_path: Path, *lines: bytes) -> list[str]:
    """The problems of a file of pairs, without the file's name."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(PairsError) as caught:
        read_pairs(path, DOMAINS)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
        (b'{"prompt": "Why?"', "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b'["Why?"]', "expected a JSON object, found list"),
        (row(prompt=...), "the field prompt is missing"),
        (row(chosen=3), "chosen: expected text, found int"),
        (row(chosen=None), "chosen: expected text, found NoneType"),
        (row(rejected=" \n"), "rejected: expected text, found none"),
        (row(prompt="\ud83d"), "prompt: expected text, found half of a surrogate pair"),
        (row(rejected=" Because. "), "chosen and rejected are the same text"),
        (row(domain="sience"), "domain: expected one of philosophy, science, social, artistic, found 'sience'"),
        (row(complexity=...), "complexity: expected one of simple, medium, complex, found None"),
        (row(subtlety=["explicit"]), "subtlety: expected one of explicit, moderate, implicit, found ['explicit']"),
        (row(chosen="Be\x00cause."), "chosen: expected text, found the control character U+0000"),
        (row(rejected="\x93No.\x94"), "rejected: expected text, found the control character U+0093"),
        (b'{"prompt": "Wh\x07y?"}', "not JSON: Invalid control character at: "),
        (b'{"prompt": ' + b"1" * 5000 + b"}", "not JSON: "),
        (row(id="new", prompt="What?", domain="social"), "the same row as in line 1"),
        (row(id=""), "id: expected text, found none"),
        (row(id=5), "id: expected text, found int"),
    ],
)
def test_a_defect_is_reported_with_its_line(tmp_path: Path, line: bytes, problem: str) -> None:
    [found] = problems_of(tmp_path, row(id="other", prompt="What?"), b"", line)
    assert found.startswith(f"3: {problem}")


def test_all_problems_of_a_file_are_reported_at_once_also_several_of_one_row(tmp_path: Path) -> None:
    assert problems_of(
        tmp_path,
        row(prompt=..., chosen=" ", domain="art"),
        b"nonsense",
        row(),
        row(rejected="Because.", tone="dry"),
        row(id="two"),
    ) == [
        "1: the field prompt is missing",
        "1: chosen: expected text, found none",
        "1: domain: expected one of philosophy, science, social, artistic, found 'art'",
        "2: not JSON: Expecting value: line 1 column 1 (char 0)",
        "3: id 'one' is already used in line 1",
        "4: chosen and rejected are the same text",
        "4: id 'one' is already used in line 1",
        "5: the same row as in line 3",
    ]


def test_a_field_that_is_not_read_is_a_warning_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(row(tone="dry", line=7) + b"\n" + row(id="two", prompt="What?", tone="wry"))
    scan = scan_pairs(read_rows(path), DOMAINS)
    assert len(scan.sound(path)) == scan.total == 2
    assert [(finding.line, finding.code, finding.message) for finding in scan.findings] == [
        (None, "unknown_field", f"the field 'line' of 1 rows is not read; known are {KNOWN}"),
        (None, "unknown_field", f"the field 'tone' of 2 rows is not read; known are {KNOWN}"),
    ]


def test_a_row_with_an_error_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join([row(), b"nonsense", row(id="two", prompt=...), row(id="three", prompt="What?")]))
    scan = scan_pairs(read_rows(path), DOMAINS)
    assert [pair.id for pair in scan.rows] == ["one", "three"]
    assert scan.total == 4
    assert [(finding.line, finding.code) for finding in scan.findings] == [(2, "not_json"), (3, "missing_field")]


def test_unpaired_answers_have_a_label_that_is_true_or_false(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    good = {"prompt": "Why?", "completion": "Because.", "label": True}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"label": False, "domain": "science"}))
    first, second = read_unpaired(path, DOMAINS, strata=())
    assert (first.label, second.label) == (True, False)
    assert (second.prompt, second.completion, second.domain, second.line) == ("Why?", "Because.", "science", 2)
    path.write_text(json.dumps(good | {"label": 1}) + "\n" + json.dumps({"prompt": "Why?", "completion": " "}))
    with pytest.raises(PairsError) as caught:
        read_unpaired(path, DOMAINS, strata=())
    assert [problem.removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "1: label: expected true or false, found int",
        "2: completion: expected text, found none",
        "2: the field label is missing",
    ]


def test_a_file_that_is_absent_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"absent\.jsonl: cannot be read: No such file"):
        read_pairs(tmp_path / "absent.jsonl", DOMAINS)
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(PairsError, match=r"empty\.jsonl: holds no rows; expected one JSON object a line"):
        read_pairs(tmp_path / "empty.jsonl", DOMAINS)


def test_a_good_row_is_read_with_its_line_and_without_outer_space(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n" + row(chosen=" Because.\u2028 ") + b"\r\n")
    assert read_pairs(path, DOMAINS) == (
        Pair("one", "Why?", "Because.", "No.", "science", "simple", "explicit", line=2),
    )


def test_an_id_is_a_hash_of_the_texts_where_the_file_gives_none_and_strata_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    bare = {"id": ..., "domain": ..., "complexity": None, "subtlety": ...}
    path.write_bytes(row(**bare) + b"\n" + row(**bare, prompt="How?"))
    first, second = read_pairs(path, DOMAINS, strata=())
    assert (first.domain, first.complexity, first.subtlety) == (None, None, None)
    assert len(first.id) == 12
    assert first.id != second.id
    path.write_bytes(row(**bare) + b"\n" + row(**bare))
    with pytest.raises(PairsError, match=r":2: the same row as in line 1"):
        read_pairs(path, DOMAINS, strata=())


def test_prompts_are_read_and_their_half_is_checked(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", toy_prompts(2))
    first, second = read_prompts(path)
    assert first == Prompt("toy-prompt-00", "Tell of the river once more.", "philosophy", "search", 1)
    assert second.half == "final"
    path.write_text(json.dumps({"prompt": "Tell.", "half": "both"}) + "\n" + json.dumps({"half": "final"}))
    with pytest.raises(PairsError) as caught:
        read_prompts(path)
    assert [problem.removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "1: half: expected one of search, final, found 'both'",
        "1: the field domain is missing",
        "2: the field prompt is missing",
        "2: the field domain is missing",
    ]


def prompt(number: int, domain: str, half: str) -> Prompt:
    return Prompt(f"p{number}", f"Tell {number}.", domain, half, number)


def test_prompts_of_one_half_are_taken_by_the_domains_in_turn() -> None:
    prompts = [
        prompt(1, "science", "search"),
        prompt(2, "science", "search"),
        prompt(3, "science", "final"),
        prompt(4, "science", "search"),
        prompt(5, "artistic", "search"),
        prompt(6, "artistic", "final"),
    ]
    assert [p.id for p in take_prompts(prompts, "search", None)] == ["p5", "p1", "p2", "p4"]
    assert [p.id for p in take_prompts(prompts, "search", 2)] == ["p5", "p1"]
    assert [p.id for p in take_prompts(prompts, "final", 9)] == ["p6", "p3"]
    assert take_prompts([], "search", 3) == ()


def test_the_hash_of_pairs_knows_their_texts_and_labels_but_not_their_order_or_lines(toy_pairs_file: Path) -> None:
    pairs = read_pairs(toy_pairs_file, DOMAINS)
    assert pairs_hash(pairs) == pairs_hash([replace(pair, line=0) for pair in reversed(pairs)])
    for change in ({"chosen": "Other."}, {"domain": None}, {"id": "x"}):
        assert pairs_hash(pairs) != pairs_hash([replace(pairs[0], **change), *pairs[1:]])


def make_pairs(prompts: list[int]) -> list[Pair]:
    """A pair for each number; equal numbers share a prompt, and its stratum is the number modulo 36."""
    strata = [(d, c, s) for d in DOMAINS for c in COMPLEXITIES for s in SUBTLETIES]
    return [
        Pair(f"pair-{index}", f"Prompt {number}?", f"Yes {index}.", "No.", *strata[number % 36], line=index)
        for index, number in enumerate(prompts)
    ]


numbers = st.lists(st.integers(0, 80), min_size=1, max_size=60)


@settings(max_examples=30, deadline=None)
@given(numbers, st.randoms(use_true_random=False), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.15, 0.5, 1.0]))
def test_the_split_is_the_same_for_every_order_and_crosses_no_prompt(
    prompts: list[int], random: Any, seed: int, share: float
) -> None:
    pairs = make_pairs(prompts)
    split = split_pairs(pairs, share, STRATIFY, ["artistic"], seed)
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    assert split_pairs(shuffled, share, STRATIFY, ["artistic"], seed) == split
    parts = (split.train, split.val, split.held_out)
    assert Counter(pair.id for part in parts for pair in part) == Counter(pair.id for pair in pairs)
    texts = [{pair.prompt for pair in part} for part in parts]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert not any(pair.domain == "artistic" for pair in (*split.train, *split.val))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 5), st.sampled_from([0.1, 0.15, 0.5]), st.sampled_from([(), STRATIFY]))
def test_every_stratum_gives_its_share_to_within_one_prompt_and_so_does_the_whole(
    count: int, seed: int, share: float, stratify_by: tuple[str, ...]
) -> None:
    pairs = make_pairs(list(range(count)))
    val = Counter((p.domain, p.complexity, p.subtlety) for p in split_pairs(pairs, share, stratify_by, [], seed).val)
    assert abs(val.total() - share * count) < 1 + 1e-9
    if stratify_by:
        sizes = Counter((p.domain, p.complexity, p.subtlety) for p in pairs)
        assert all(abs(val[stratum] - share * size) < 1 + 1e-9 for stratum, size in sizes.items())


def test_a_prompt_that_a_held_out_domain_shares_never_trains() -> None:
    pairs = make_pairs([1, 2, 3])
    shared = replace(pairs[0], id="held", domain="artistic")
    split = split_pairs([*pairs, shared], 0.0, STRATIFY, ["artistic"], seed=0)
    assert {pair.id for pair in split.held_out} == {"pair-0", "held"}
    assert {pair.id for pair in split.train} == {"pair-1", "pair-2"}


def test_seeds_draw_different_splits_of_the_shipped_size() -> None:
    pairs = make_pairs(list(range(72)))
    splits = [split_pairs(pairs, 0.15, STRATIFY, ["artistic"], seed) for seed in range(4)]
    assert len({tuple(pair.id for pair in split.val) for split in splits}) == 4
    assert {len(split.val) for split in splits} <= {8, 9}
    assert all(len(split.held_out) == 18 for split in splits)


def test_the_toy_file_reads_as_it_was_written(toy_pairs_file: Path) -> None:
    assert [pair.prompt for pair in read_pairs(toy_pairs_file, DOMAINS)] == [row["prompt"] for row in toy_pairs()]
