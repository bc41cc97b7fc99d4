"""Events on disk: what is written is read, what is torn is cut, what is damaged is named."""

import json
import logging
from pathlib import Path

import pytest

from phasegpt.lines import append
from tune import spool as spooling
from tune.spool import AHEAD, SPOOL, Event, Progress, TrackingError, mend, read_spool, set_aside, take_lock, unfinished

EVENTS: list[Event] = [{"kind": "run", "key": "s"}, {"kind": "tags", "tags": {"a": "\u00e9\n"}}, {"kind": "finish"}]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool of three events."""
    for event in EVENTS:
        append(tmp_path / SPOOL, event)
    return tmp_path / SPOOL


def test_what_is_written_is_read_in_order(spool: Path) -> None:
    assert read_spool(spool) == EVENTS
    assert mend(spool) == EVENTS


def test_a_spool_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_spool(tmp_path / SPOOL) == []
    assert mend(tmp_path / SPOOL) == []


def test_a_torn_last_line_is_cut_with_a_warning(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = spool.read_bytes()
    for length in range(len(whole) - 1, whole.rindex(b"\n", 0, -1) + 1, -1):
        caplog.clear()
        spool.write_bytes(whole[:length])
        with caplog.at_level(logging.WARNING):
            assert mend(spool) == EVENTS[:2]
        assert f"{spool}:3: a torn last line was cut" in caplog.text
        append(spool, EVENTS[2])
        assert spool.read_bytes() == whole


def test_a_damaged_line_elsewhere_is_an_error_that_names_it(spool: Path) -> None:
    spool.write_bytes(spool.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(TrackingError, match=rf"{SPOOL}:2: this line is damaged"):
        mend(spool)


def test_what_is_under_way_when_the_sender_dies_is_in_doubt(spool: Path) -> None:
    fresh = Progress(spool, 3)
    assert (fresh.sent, fresh.doubt) == (0, 3)
    fresh.done(1)
    assert fresh.begin(1)
    fresh.settle()
    again = Progress(spool, 3)
    assert (again.sent, again.doubt) == (1, 3)
    again.done(2)
    assert not again.begin(2)
    assert (again.sent, again.doubt) == (3, 5)
    assert again.begin(2), "what was begun and not done is begun again in doubt"


def test_sending_is_noted_ahead_and_whoever_comes_after_a_crash_doubts_that_much(spool: Path) -> None:
    place = spool.with_name(f"{SPOOL}.sent")
    first = Progress(spool, 3)
    first.done(3)
    first.settle()
    notes = set()
    for _ in range(AHEAD):
        assert not first.begin(1)
        notes.add(place.read_text())
        first.done(1)
    assert len(notes) == 1, "one note is enough for as many"
    after = Progress(spool, 3 + AHEAD)
    assert (after.sent, after.doubt) == (3, 3 + AHEAD)
    assert after.begin(1)
    assert not first.begin(1)
    assert json.loads(place.read_text()) == {"sent": 3 + AHEAD, "doubt": 3 + 2 * AHEAD}
    first.done(1)
    first.settle()
    assert json.loads(place.read_text()) == {"sent": 4 + AHEAD, "doubt": 4 + AHEAD}


def test_a_spool_shorter_than_what_was_sent_is_an_error(spool: Path) -> None:
    spool.with_name(f"{SPOOL}.sent").write_text('{"sent": 5, "doubt": 5}')
    with pytest.raises(TrackingError, match="5 events were sent, but"):
        Progress(spool, 3)


def test_an_event_set_aside_keeps_its_line_and_the_reason(spool: Path) -> None:
    place = set_aside(spool, 2, EVENTS[1], "no such run")
    assert read_spool(place) == [{"line": 2, "reason": "no such run", "event": EVENTS[1]}]
    assert json.loads(place.read_text())["event"]["line"] == 2


def test_a_spool_has_one_owner(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "LEAVE", 0.1)
    lock = take_lock(spool)
    with pytest.raises(TrackingError, match="is in use"):
        take_lock(spool)
    lock.release()
    take_lock(spool).release()


def test_runs_begun_again_after_their_end_are_unfinished() -> None:
    kinds = [("run", "a"), ("run", "b"), ("finish", "a"), ("run", "c"), ("finish", "c"), ("run", "a")]
    assert list(unfinished([{"kind": kind, "key": key} for kind, key in kinds])) == ["b", "a"]
