"""Every format becomes the same pairs; what is no single turn is refused with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from phasegpt.pairs import Pair, PairsError, read_pairs, read_unpaired
from phasegpt.readers import LONG_LINE, read_rows
from tests.toy import DOMAINS

USER, YES, NO = (
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
    {"role": "assistant", "content": "No."},
)
PLAIN = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
WITH_PROMPT = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
PROMPT_INSIDE = {"chosen": [USER, YES], "rejected": [USER, NO]}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    from datasets import Dataset

    Dataset.from_list(list(rows)).to_parquet(str(path))
    return path


def texts(pairs: tuple[Pair, ...]) -> list[tuple[str, str, str]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]


@pytest.mark.parametrize("row", [PLAIN, WITH_PROMPT, PROMPT_INSIDE, PROMPT_INSIDE | {"prompt": None}])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_texts_and_lists_of_messages_become_the_same_pair(tmp_path: Path, row: dict[str, Any], suffix: str) -> None:
    path = (jsonl if suffix == ".jsonl" else parquet)(tmp_path / f"pairs{suffix}", row | {"domain": "science"})
    [pair] = read_pairs(path, DOMAINS, strata=("domain",))
    assert texts((pair,)) == [("Why?", "Because.", "No.")]
    assert (pair.domain, pair.line) == ("science", 1)


def test_the_id_of_a_pair_does_not_depend_on_its_format(tmp_path: Path) -> None:
    rows = (PLAIN, WITH_PROMPT, PROMPT_INSIDE)
    files = [jsonl(tmp_path / f"{number}.jsonl", row) for number, row in enumerate(rows)]
    assert len({read_pairs(file, DOMAINS, strata=())[0].id for file in files}) == 1


def test_unpaired_answers_may_be_messages(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "answers.jsonl", {"prompt": [USER], "completion": [NO], "label": False})
    [row] = read_unpaired(path, DOMAINS, strata=())
    assert (row.prompt, row.completion, row.label) == ("Why?", "No.", False)


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            WITH_PROMPT | {"prompt": [SYSTEM, USER]},
            "prompt: expected one message of role user, found ['system', 'user']",
        ),
        (
            WITH_PROMPT | {"prompt": [USER, YES, USER]},
            "prompt: expected one message of role user, found ['user', 'assistant', 'user']",
        ),
        (
            WITH_PROMPT | {"chosen": [YES, USER, YES]},
            "chosen: expected one message of role assistant, found ['assistant', 'u",
        ),
        (WITH_PROMPT | {"rejected": []}, "rejected: expected messages with role and content, found []"),
        (WITH_PROMPT | {"rejected": ["No."]}, "rejected: expected messages with role and content, found ['No.']"),
        (PROMPT_INSIDE | {"rejected": [SYSTEM, NO]}, "chosen and rejected begin with different prompts"),
        ({"chosen": [YES], "rejected": [NO]}, "prompt: expected one message of role user, found []"),
        (
            WITH_PROMPT | {"chosen": [{"role": "assistant", "content": [{"text": "x"}]}]},
            "chosen: expected text, found l",
        ),
    ],
)
def test_what_is_no_single_turn_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    path = jsonl(tmp_path / "pairs.jsonl", PLAIN, row)
    with pytest.raises(PairsError) as caught:
        read_pairs(path, DOMAINS, strata=())
    [found] = caught.value.problems
    assert found.startswith(f"{path}:2: {problem}")


def test_a_line_is_long_from_64_kib_and_is_read_all_the_same(tmp_path: Path) -> None:
    short = json.dumps(PLAIN)
    path = tmp_path / "pairs.jsonl"
    path.write_text(short + " " * (LONG_LINE - len(short) - 1) + "\n" + short + " " * (LONG_LINE - len(short)) + "\n")
    first, second = read_rows(path)
    assert first.findings == ()
    assert [(f.line, f.code, f.severity) for f in second.findings] == [(2, "long_line", "warning")]
    assert second.values == PLAIN


def test_a_source_that_is_not_there_is_one_finding_of_the_whole(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.jsonl", tmp_path / "absent.parquet", tmp_path, "nobody/nothing"):
        [row] = read_rows(source)
        assert row.values is None
        assert [(f.line, f.code, f.severity) for f in row.findings] == [(None, "unreadable", "error")]


def test_a_damaged_parquet_file_is_one_finding(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet", PLAIN).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    [row] = read_rows(tmp_path / "cut.parquet")
    assert [finding.code for finding in row.findings] == ["unreadable"]


def test_a_hub_id_is_asked_for_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, dict[str, Any]]] = []

    def load_dataset(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        return [PROMPT_INSIDE | {"score_chosen": 8.0}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for source in ("owner/name", "owner/na.me:train_prefs"):
        assert texts(read_pairs(source, DOMAINS, strata=())) == [("Why?", "Because.", "No.")]
    assert asked == [
        ("owner/name", {"split": "train", "streaming": True}),
        ("owner/na.me", {"split": "train_prefs", "streaming": True}),
    ]


def test_a_text_that_names_a_file_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [absent] = read_rows("data/pairs.jsonl")
    assert absent.findings[0].message == "cannot be read: No such file or directory"
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "pairs", PLAIN)
    [row] = read_rows("data/pairs")
    assert row.values == PLAIN
