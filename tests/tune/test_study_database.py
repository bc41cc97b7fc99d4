"""The study of a search in a real PostgreSQL: it asks and holds what a journal does; the password is kept nowhere."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phasegpt.config_search import Search
from phasegpt.files import read_json
from tests.postgres import Postgres
from tune.control import main as control
from tune.databases import DatabaseError, held, without_password
from tune.drive import drive
from tune.request import Request, RequestError, new_request, resumed_request
from tune.search import main, parser
from tune.space import Values
from tune.study import Asked, Study
from tune.study_store import copied, has_study

BETA = "training.beta"
OWN: Values = {BETA: 0.2}
SETTINGS = Search.model_validate(
    {"objectives": {"eval_loss": "min"}, "parameters": {BETA: {"loguniform": [0.01, 1.0]}}, "trials": 9}
)


@pytest.fixture
def url(postgres: Postgres, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of the test's own; the password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return postgres.database(request.node.name[:60])


@pytest.fixture
def asked_for(tmp_path: Path, url: str) -> Callable[..., Request]:
    """Makes requests of track B whose study lies in the database."""

    def make(name: str = "s", study_url: str = url, **more: Any) -> Request:
        return new_request("b", profile="laptop", name=name, storage=str(tmp_path), study_url=study_url, **more)

    return make


def run_on(study: Study, trials: int) -> list[Asked]:
    """Ask and tell so many trials, each with a curve of two."""
    asked = []
    for _ in range(trials):
        question = study.ask()
        assert question is not None
        asked.append(question)
        study.report(question.number, 1, {"eval_loss": question.values[BETA] / 3})
        study.complete(question.number, {"eval_loss": question.values[BETA]}, {"kl": -0.1})
    return asked


def record(study: Study) -> list[tuple[Any, ...]]:
    rows = study.trials()
    return [
        (t.number, t.state.name, t.params, t.value, t.intermediate_values, t.constraints, t.user_attrs) for t in rows
    ]


def test_a_database_asks_and_holds_what_a_journal_does(tmp_path: Path, url: str) -> None:
    journal = Study("s", tmp_path / "study.journal", SETTINGS, OWN, 42)
    asked = run_on(journal, 9)
    found = run_on(Study("s", url, SETTINGS, OWN, 42), 4) + run_on(Study("s", url, SETTINGS, OWN, 42), 5)
    assert found == asked
    assert record(Study("s", url, SETTINGS, OWN, 42)) == record(journal)
    assert Study("s", url, SETTINGS, OWN, 42).ask() is None


def test_what_ran_when_the_driver_died_is_asked_again(url: str) -> None:
    before = Study("s", url, SETTINGS, OWN, 42)
    run_on(before, 2)
    lost = before.ask()
    assert Study("s", url, SETTINGS, OWN, 42).ask() == lost


def test_a_copy_has_it_all_and_changing_it_leaves_the_study_alone(tmp_path: Path, url: str) -> None:
    study = Study("s", url, SETTINGS, OWN, 42)
    run_on(study, 3)
    study.ask()
    copy = Study("s", copied("s", url, tmp_path), SETTINGS, OWN, 42)
    assert record(copy) == record(study)
    again = copy.ask()
    assert again is not None
    copy.complete(again.number, {"eval_loss": 1.0}, {})
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 3 + ["RUNNING"]
    assert not copied("nobody", url, tmp_path / "empty").exists()


def test_the_request_keeps_the_address_and_no_password(asked_for: Callable[..., Request], postgres: Postgres) -> None:
    request = asked_for(study_url=postgres.with_password("postgresql://phasegpt@127.0.0.1/x") + "?sslmode=prefer")
    request.save()
    assert postgres.password not in request.places.request.read_text() + repr(request)
    kept = read_json(request.places.request)["study_url"]
    assert kept == "postgresql://phasegpt@127.0.0.1/x?sslmode=prefer"
    again = resumed_request("b", "s", str(request.places.storage))
    assert again.study == ("track_b/s", kept)
    elsewhere = resumed_request("b", "s", str(request.places.storage), "postgresql://other/y")
    assert elsewhere.study == ("track_b/s", "postgresql://other/y")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:canary@h/db", "postgresql://me@h/db"),
        ("postgresql+psycopg://me:can%2Fary@h:5/db?sslmode=require", "postgresql+psycopg://me@h:5/db?sslmode=require"),
        ("postgresql://h/db?user=me&password=canary", "postgresql://h/db?user=me"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_search_is_looked_at_and_steered_by_its_name(
    asked_for: Callable[..., Request], capsys: pytest.CaptureFixture[str]
) -> None:
    request = asked_for(overrides=["search.trials=3"])
    request.save()
    study = Study(*request.study, request.config.search, request.own_values(), 42)
    first = study.ask()
    assert first is not None
    study.complete(first.number, dict.fromkeys(request.config.search.objectives, 0.5), {})
    where = ["s", "--storage", str(request.places.storage)]
    assert control(["extend", *where, "--trials", "2"]) == 0
    assert control(["clone", *where[:1], "0", *where[1:], "--set", "training.beta=0.3"]) == 0
    assert control(["status", *where]) == 0
    assert "1 of 6 begun (1 complete)" in capsys.readouterr().out
    assert len(study.trials()) == 1


def test_a_database_that_does_not_answer_is_one_line_with_the_cure(
    asked_for: Callable[..., Request], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary")
    request = asked_for()
    request.save()
    where = ["--storage", str(request.places.storage)]
    assert control(["status", "s", *where]) == 2
    assert main(["--track", "b", "--resume", "s", *where]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    for line in said:
        assert "password authentication failed" in line
        assert "the password is read from PGPASSWORD, ~/.pgpass or the address" in line
        assert "canary" not in line


def test_a_new_search_does_not_take_the_study_of_another(
    asked_for: Callable[..., Request], tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    request = asked_for()
    Study(*request.study, request.config.search, request.own_values(), 42)
    assert has_study("track_b/s", url)
    words = ["--track", "b", "--profile", "laptop", "--name", "s", "--storage", str(tmp_path), "--study-url", url]
    assert main(words) == 2
    assert "there is a study track_b/s in the database; take another --name" in capsys.readouterr().err


def test_two_machines_do_not_drive_one_search(asked_for: Callable[..., Request], url: str) -> None:
    request = asked_for()
    with held(url, "track_b/s") as first, held(url, "track_b/s") as second, held(url, "track_b/t") as other:
        assert (first, second, other) == (True, False, True)
        with pytest.raises(RequestError, match="s is being run by another process"):
            drive(request, parser().parse_args(["--track", "b"]))
    with held(url, "track_b/s") as again:
        assert again


@pytest.mark.parametrize("given", ["sqlite:///study.db", "http://host", "study.db", "mysql://h/d"])
def test_other_places_for_a_study_are_refused(given: str) -> None:
    with pytest.raises(DatabaseError, match="a study lies in PostgreSQL, as postgresql://user@host/database"):
        new_request("b", profile="laptop", study_url=given)


def test_without_the_driver_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert main(["--track", "b", "--profile", "laptop", "--study-url", "postgresql://me:canary@h/d"]) == 2
    said = capsys.readouterr().err
    assert 'the Python package psycopg is not installed; pip install "phasegpt-tune[postgres]"' in said
    assert "canary" not in said
