"""Who is marked at the end of a search, and whose mark goes when it ends anew."""

from typing import Any

from tune.marks import changes, marks


def report(winner: str | None, finalists: list[str], front: list[str] | None = None) -> dict[str, Any]:
    return {
        "winner": winner and {"trial": winner},
        "finalists": [{"trial": name, "seeds": [1042, 1043]} for name in finalists],
        "front": None if front is None else {"trials": front},
    }


FIRST = report("trial-003", ["trial-003", "trial-000"])


def test_the_winner_its_finals_the_finalists_and_the_front_are_marked() -> None:
    assert changes({}, marks(report("trial-003", ["trial-003", "trial-000"], ["trial-003", "trial-007"]))) == {
        "final-003-seed-1042": {"winner": "true"},
        "final-003-seed-1043": {"winner": "true"},
        "trial-000": {"finalist": "true"},
        "trial-003": {"finalist": "true", "on_front": "true", "winner": "true"},
        "trial-007": {"on_front": "true"},
    }


def test_a_search_that_ends_anew_takes_back_what_is_no_longer_so() -> None:
    assert changes(marks(FIRST), marks(report("trial-000", ["trial-000", "trial-009"]))) == {
        "final-000-seed-1042": {"winner": "true"},
        "final-000-seed-1043": {"winner": "true"},
        "final-003-seed-1042": {"winner": "false"},
        "final-003-seed-1043": {"winner": "false"},
        "trial-000": {"winner": "true"},
        "trial-003": {"finalist": "false", "winner": "false"},
        "trial-009": {"finalist": "true"},
    }


def test_an_end_that_changes_nothing_sets_nothing() -> None:
    assert changes(marks(FIRST), marks(FIRST)) == {}
    assert marks(report(None, [])) == {}
