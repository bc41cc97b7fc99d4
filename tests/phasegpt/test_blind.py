"""A blind judgement on disk: its order, and votes that are there after a crash, and after an undo."""

from pathlib import Path

import pytest

from phasegpt.blind import Ballot, BlindError, Votes, read_votes, voting
from tests.phasegpt.ballots import ballot, comparison


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "votes.jsonl"


def test_the_seed_draws_the_order_of_the_pairs_and_leaves_out_what_is_alike() -> None:
    orders = [[pair.id for pair in Ballot.of(comparison(), seed).pairs] for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(map(tuple, orders))) > 1
    assert [sorted(order) for order in orders] == [["p0", "p1", "p2", "p3", "p4"]] * 4
    assert [pair.id for pair in ballot().alike] == ["p5"]


def test_a_ballot_survives_its_file() -> None:
    made = ballot(3, "Ada")
    assert Ballot.from_dict(made.as_dict()) == made
    assert made.digest == ballot(3, "Ada").digest
    assert len({made.digest, ballot(3).digest, ballot(4, "Ada").digest}) == 3


@pytest.mark.parametrize("place", range(5))
def test_what_stood_first_is_what_was_picked(path: Path, place: int) -> None:
    with voting(path, ballot()) as votes:
        first = votes.ballot.pairs[place].first
        votes.cast(place, "first")
        assert votes.choices == {place: first}
        assert votes.choice(place) == "first"
        votes.cast(place, "second")
        assert votes.choices == {place: "b" if first == "a" else "a"}
        assert votes.choice(place) == "second"


def test_votes_are_on_the_disk_at_once_and_the_judgement_goes_on_from_them(path: Path) -> None:
    with voting(path, ballot()) as votes:
        votes.cast(0, "first")
        votes.cast(2, "tie")
        assert read_votes(path).choices == votes.choices
    with voting(path, ballot()) as again:
        assert (again.choices, again.open) == (votes.choices, [1, 3, 4])
        assert (again.after(0), again.after(3), again.after(4)) == (1, 4, 1)
    with voting(path) as from_the_file_alone:
        assert from_the_file_alone.ballot == ballot()
        assert from_the_file_alone.choices == votes.choices


def test_an_undo_brings_back_what_counted_before(path: Path) -> None:
    with voting(path, ballot()) as votes:
        assert votes.undo() is None
        votes.cast(1, "tie")
        votes.cast(1, "skip")
        assert votes.undo() == 1
        assert votes.choices == {1: "tie"}
        assert votes.undo() == 1
        assert votes.choices == read_votes(path).choices == {}


def test_after_the_reveal_no_vote_and_no_undo_is_taken(path: Path) -> None:
    with voting(path, ballot()) as votes:
        votes.cast(0, "tie")
        votes.close()
        for change in (lambda: votes.cast(1, "tie"), votes.undo, votes.close):
            with pytest.raises(BlindError, match="revealed"):
                change()
    assert read_votes(path).over
    assert read_votes(path).choices == {0: "tie"}


def test_a_vote_that_a_crash_tore_is_cut_and_asked_again(path: Path) -> None:
    with voting(path, ballot()) as votes:
        votes.cast(0, "tie")
        votes.cast(1, "tie")
    path.write_bytes(path.read_bytes()[:-9])
    with voting(path, ballot()) as votes:
        assert votes.open == [1, 2, 3, 4]
        votes.cast(1, "skip")
    assert read_votes(path).choices == {0: "tie", 1: "skip"}


def test_two_processes_do_not_vote_into_one_file(path: Path) -> None:
    with (
        voting(path, ballot()),
        pytest.raises(BlindError, match="another process takes votes"),
        voting(path, ballot()),
    ):
        pass


def test_votes_on_other_answers_are_not_mixed(path: Path) -> None:
    with voting(path, ballot()):
        pass
    with pytest.raises(BlindError, match="another judge; name another file"), voting(path, ballot(judge="Ada")):
        pass


@pytest.mark.parametrize("content", ["", "a note of mine", "a note\nof mine\n", '{"sum": "1", "event": {}}\n'])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(BlindError, match="votes of compare --blind"):
        read_votes(path)
    if content:
        with pytest.raises(BlindError, match="votes of compare --blind"), voting(path, ballot()):
            pass
    assert path.read_text() == content


def test_where_all_answers_are_alike_nobody_is_asked(path: Path) -> None:
    same = ballot().alike
    votes = Votes(path, Ballot("a", "b", "final", 0, "", (), same))
    assert votes.over
    assert votes.open == []
