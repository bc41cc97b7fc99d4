"""What stands in the way of going on with a search, what is cleared away for it, and what is said when it stops."""

import argparse
from pathlib import Path

import pytest

from phasegpt.files import DamagedError, write_json
from tests.tune.conftest import ToyRequest
from tune.drive import drive
from tune.going_on import mend, say_how_to_go_on
from tune.request import RequestError
from tune.search import parser


def options(*words: str) -> argparse.Namespace:
    return parser().parse_args(["--track", "b", *words])


def test_what_a_killed_process_was_writing_is_removed_and_what_it_had_written_stays(toy_request: ToyRequest) -> None:
    places = toy_request().places
    whole = places.results / "trial-000.json"
    write_json(whole, {"metrics": {}})
    (places.results / ".trial-001.json.ab12_xyz").write_text('{"metr')
    stage = places.checkpoints / "trial-001" / ".checkpoint-3.0a1b2c3d"
    (stage / "deep").mkdir(parents=True)
    (stage / "deep" / "weights").write_text("half")
    gone = places.checkpoints / "trial-001" / ".checkpoint-1.gone"
    gone.mkdir()
    mend(toy_request())
    left = {path for folder in (places.results, places.checkpoints) for path in folder.rglob("*")}
    assert left == {whole, places.checkpoints / "trial-001", gone}


def test_a_damaged_result_is_refused_with_its_place_and_where_a_copy_is(toy_request: ToyRequest) -> None:
    request = toy_request()
    place = request.places.results / "trial-003.json"
    write_json(place, {"metrics": {"eval_loss": 0.5}})
    place.write_bytes(place.read_bytes()[:-9])
    with pytest.raises(DamagedError) as refused:
        mend(request)
    said = str(refused.value)
    assert said.startswith(f"{place} is damaged (")
    assert said.endswith("; put it back from a copy, such as result/trial-003.json of the run toy/trial-003 in MLflow")
    assert "\n" not in said


def test_of_two_searches_that_take_a_name_at_once_the_later_is_refused(toy_request: ToyRequest) -> None:
    """Both find the name free; the first is over before the second comes to hold the search."""
    second = toy_request()
    toy_request().save()
    before = second.places.request.read_bytes()
    with pytest.raises(RequestError, match="toy was begun by another process meanwhile; take another --name"):
        drive(second, options())
    assert second.places.request.read_bytes() == before


def test_a_search_that_stops_says_how_it_goes_on(toy_request: ToyRequest, capsys: pytest.CaptureFixture[str]) -> None:
    say_how_to_go_on(toy_request(), options("--storage", "/a b", "--json"), None)
    say_how_to_go_on(toy_request(), options(), "all-1")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[1] == "  python -m tune.search --track b --resume toy --storage '/a b' --json"
    assert err.splitlines()[3] == "  python -m tune.search --track all --resume all-1"


def test_it_says_all_that_the_search_was_told_of_its_surroundings_and_no_password(
    toy_request: ToyRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cpus-per-worker", "2.0", "--placement", "SPREAD", "--address", "auto", "--wait-minutes", "5"]
    say_how_to_go_on(toy_request(), options(*words, "--tracking-uri", "http://me:hush@m:5000"), None)
    err = capsys.readouterr().err
    assert set(words) <= set(err.split())
    assert "@m:5000" in err or "//m:5000" in err
    assert "hush" not in err


def test_a_damaged_request_is_one_line(toy_request: ToyRequest, capsys: pytest.CaptureFixture[str]) -> None:
    from tune.search import main

    request = toy_request()
    request.save()
    request.places.request.write_text("{")
    storage = Path(request.places.storage)
    for words in (["--track", "b", "--resume", "toy"], ["status", "toy"]):
        assert main([*words, "--storage", str(storage)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"{request.places.request} is damaged (")
        assert err.count("\n") == 1
