"""What votes say, against counts worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import beta

from phasegpt.blind import Ballot, Votes
from phasegpt.blind_result import outcome
from phasegpt.statistics import Share
from tests.phasegpt.ballots import ballot


def voted(path: Path, *said: str, of: Ballot | None = None) -> Votes:
    """Votes by side in the order of the ballot: a, b, tie, skip, or - for none."""
    made = of or ballot()
    entries = [{"kind": "vote", "place": place, "vote": vote} for place, vote in enumerate(said) if vote != "-"]
    return Votes(path, made, entries)


def test_a_count_is_what_was_voted_and_what_is_alike_is_a_tie(tmp_path: Path) -> None:
    found = outcome(voted(tmp_path / "v", "b", "b", "a", "tie", "skip")).as_dict()
    assert (found["wins"], found["losses"], found["ties"], found["skipped"], found["open"]) == (2, 1, 2, 1, 0)
    assert (found["alike"], found["preference"]["k"], found["preference"]["n"]) == (1, 2, 3)
    assert found["ties_half"]["rate"] == pytest.approx((2 + 0.5 * 2) / 5)
    assert found["verdict"] == "not distinguishable"
    assert sum(sum(counts.values()) for counts in found["domains"].values()) == 5


def test_without_votes_there_is_the_whole_range(tmp_path: Path) -> None:
    found = outcome(replaced(tmp_path))
    assert (found.preference.rate, found.preference.low, found.preference.high) == (None, 0.0, 1.0)
    assert found.ties_half is None
    assert "preference for B, without ties          - [0.00, 1.00] (0 of 0)" in found.as_text()


def replaced(folder: Path) -> Votes:
    """No votes, and nothing alike."""
    return Votes(folder / "v", replace(ballot(), alike=()))


def test_votes_of_each_domain_are_counted(tmp_path: Path) -> None:
    made = ballot()
    votes = voted(tmp_path / "v", *["b" if pair.domain == "science" else "a" for pair in made.pairs])
    assert outcome(votes).domains == {
        "science": {"b": 3, "a": 0, "tie": 0},
        "social": {"b": 0, "a": 2, "tie": 1},
    }


def test_agreement_is_over_votes_that_are_no_ties_and_scores_that_differ(tmp_path: Path) -> None:
    made = ballot()
    equal = replace(made.pairs[0], scores={"spiral_score": (0.5, 0.5)})
    of = replace(made, pairs=(equal, *made.pairs[1:]))
    found = outcome(voted(tmp_path / "v", "b", "b", "a", "b", "tie", of=of)).agreement
    assert found is not None
    assert (found.k, found.n) == (2, 3)
    unscored = replace(made, pairs=tuple(replace(pair, scores={}) for pair in made.pairs))
    assert outcome(voted(tmp_path / "v", "b", of=unscored)).agreement is None


def test_who_always_takes_the_first_answer_is_told_so(tmp_path: Path) -> None:
    made = ballot()
    found = outcome(voted(tmp_path / "v", *[pair.first for pair in made.pairs])).first
    assert (found.k, found.n) == (5, 5)


def test_a_side_is_preferred_where_the_exact_interval_leaves_out_a_half(tmp_path: Path) -> None:
    made = ballot()
    twice = replace(made, pairs=made.pairs + tuple(replace(pair, id=f"{pair.id}+") for pair in made.pairs))
    six = ["b"] * 6 + ["skip"] * 4
    assert outcome(voted(tmp_path / "v", *six[1:], of=twice)).verdict == "not distinguishable"
    assert outcome(voted(tmp_path / "v", *six, of=twice)).verdict == "B is preferred"
    assert outcome(voted(tmp_path / "v", *["a"] * 6, of=twice)).verdict == "A is preferred"


def test_a_text_has_names_figures_and_judge(tmp_path: Path) -> None:
    text = outcome(voted(tmp_path / "v", "b", "b", "-", "tie", of=ballot(judge="Ada"))).as_text()
    assert "A: runs/left on toy-base\nB: runs/right on toy-base\n" in text
    assert "6 prompts of the final half, judged by Ada: not distinguishable" in text
    assert "B better 2, A better 0, ties 2 (1 of them the same answer twice); skipped 0, open 2" in text
    assert "1.00 [0.16, 1.00] (2 of 2), exact; sign test p = 0.5" in text


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (7, 10), (14, 20), (1, 1)])
def test_a_share_has_clopper_and_pearsons_interval_and_the_sign_tests_p(k: int, n: int) -> None:
    found = Share.of(k, n)
    low = 0.0 if k == 0 else beta.ppf(0.025, k, n - k + 1)
    high = 1.0 if k == n else beta.ppf(0.975, k + 1, n - k)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.p < 0.05) == (not found.low <= 0.5 <= found.high)


def test_fourteen_of_twenty_is_the_interval_of_the_tables() -> None:
    assert str(Share.of(14, 20)) == "0.70 [0.46, 0.88] (14 of 20)"
    assert Share.of(7, 10).p == pytest.approx(0.34375)
    with pytest.raises(ValueError, match="k = 3, n = 2"):
        Share.of(3, 2)
