"""The object of --json among lines of progress."""

import json

import pytest

from cluster.result import ResultSplitter

OBJECT = json.dumps({"name": "b", "trials": [{"id": "trial-000"}], "text": "}\n{"}, indent=1) + "\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_object_is_told_apart_however_the_log_is_cut(size: int) -> None:
    log = f"begin\n{OBJECT}end\n"
    results: list[str] = []
    others: list[str] = []
    splitter = ResultSplitter(results.append, others.append)
    for begin in range(0, len(log), size):
        splitter.take(log[begin : begin + size])
    splitter.close()
    assert results == [OBJECT]
    assert "".join(others) == "begin\nend\n"


@pytest.mark.parametrize("log", ["{\nno json\n}\n", "{\nnever closed\n", "a { b }\n", "last line without an end"])
def test_what_is_no_object_is_progress(log: str) -> None:
    results: list[str] = []
    others: list[str] = []
    splitter = ResultSplitter(results.append, others.append)
    splitter.take(log)
    splitter.close()
    assert results == []
    assert "".join(others).strip() == log.strip()
