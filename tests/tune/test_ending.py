"""The last words of a search: the same facts as in `--json`, for people."""

from pathlib import Path
from typing import Any

import pytest

from phasegpt.statistics import Gain, Wins
from tests.tune.conftest import ToyRequest
from tune.ending import MADE_FOR, browse, ending

OWN = f"sqlite:///{MADE_FOR}/mlflow.db"
SCORES = {"spiral_score": 0.5, "perplexity": 40.0}
INTERVAL = {"mean": 0.1, "low": 0.02, "high": 0.2, "p_positive": 0.975}
GAIN = Gain(0.25, 0.1, 0.4, 0.99, 12, ratio=2.0, wins=Wins(0.875, 0.6, 0.95, 12)).as_dict()


def finalist(number: int, **changes: Any) -> dict[str, Any]:
    found = {"trial": f"trial-{number:03d}", "metrics": SCORES, "interval": [0.4, 0.6], "over_defaults": INTERVAL}
    return {**found, "over_baseline": GAIN, **changes}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "objectives": {"spiral_score": "max", "perplexity": "min"},
        "winner": {"trial": "trial-003", "params": {"training.beta": 0.123456, "training.learning_rate": 5e-5}},
        "verdict": "better than the config's own values: +0.100 [+0.020, +0.200] over 12 prompts",
        "baseline_final": {"metrics": {"spiral_score": 0.25}},
        "finalists": [finalist(3, p_best=0.9), finalist(0, over_defaults=None, p_best=0.1)],
        "champion": {"model": "phasegpt-track-b", "version": "2", "promoted": True, "reason": "beats the champion"},
    }


def test_the_winner_its_gain_and_the_champion_are_told(report: dict[str, Any], toy_request: ToyRequest) -> None:
    text = ending(toy_request(), report, OWN)
    for line in (
        "Winner: trial-003 with β = 0.123, lr = 5e-05",
        "  better than the config's own values: +0.100 [+0.020, +0.200] over 12 prompts",
        "  over the untuned model: +0.250 [+0.100, +0.400] over 12 prompts, ratio 2.00, win rate 0.88 [0.60, 0.95]",
        "    untuned model    spiral_score 0.250  perplexity -",
        "    trial-003        spiral_score 0.500  perplexity 40.000  spiral_score interval [0.400, 0.600]  "
        "P(better than the config's) 0.97  P(best) 0.90",
        "    trial-000        spiral_score 0.500  perplexity 40.000  spiral_score interval [0.400, 0.600]  "
        "P(best) 0.10 (the config's own values)",
        "Champion: phasegpt-track-b version 2 is now champion: beats the champion",
    ):
        assert line in text.splitlines()


def test_guards_against_broken_text_stand_beside_the_objectives(
    report: dict[str, Any], toy_request: ToyRequest
) -> None:
    broken = {**SCORES, "ended": 0.75, "repetition": 0.125}
    report["finalists"] = [finalist(0, metrics=broken, interval=None, over_defaults=None)]
    lines = ending(toy_request(), report, OWN).splitlines()
    shown = "    trial-000        spiral_score 0.500  perplexity 40.000  repetition 0.125  ended 0.750"
    assert f"{shown} (the config's own values)" in lines


def test_the_commands_to_look_further_name_this_search(
    report: dict[str, Any], toy_request: ToyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(MADE_FOR)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    request = toy_request()
    text = ending(request, report, OWN)
    assert "  make ui   browse the runs on http://127.0.0.1:5000\n" in text
    assert f"python -m tune.insight toy --storage {request.places.storage} " in text
    assert "python -m tune.registry show --track b\n" in text
    assert str(request.places.summary) in text


def test_a_search_recorded_elsewhere_names_that_place(report: dict[str, Any], toy_request: ToyRequest) -> None:
    text = ending(toy_request(), report, "sqlite:////mine too/mlflow.db")
    assert "  mlflow ui --backend-store-uri 'sqlite:////mine too/mlflow.db' --host 127.0.0.1   browse" in text
    assert "python -m tune.registry show --track b --tracking-uri 'sqlite:////mine too/mlflow.db'\n" in text
    assert "make ui" not in text


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:secret@head:5000", "http://head:5000   browse the runs"),
        (
            "postgresql://me:secret@head/mlflow",
            "mlflow ui --backend-store-uri postgresql://head/mlflow --host 127.0.0.1   browse the runs; "
            "put its user and password in again",
        ),
        ("databricks", "databricks   browse the runs"),
    ],
)
def test_how_runs_are_browsed_shows_no_password(
    uri: str, said: str, report: dict[str, Any], toy_request: ToyRequest
) -> None:
    assert browse(uri, MADE_FOR) == said
    assert "secret" not in ending(toy_request(), report, uri)


def test_a_server_that_the_environment_names_is_not_what_make_ui_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    assert browse("http://head:5000", MADE_FOR) == "http://head:5000   browse the runs"


def test_make_is_named_only_where_its_makefile_lies(tmp_path: Path) -> None:
    assert browse(OWN, MADE_FOR).startswith("make ui ")
    assert browse(OWN, tmp_path).startswith(f"mlflow ui --backend-store-uri {OWN} ")


def test_a_winner_that_was_not_promoted_is_told_with_the_reason(
    report: dict[str, Any], toy_request: ToyRequest
) -> None:
    report["champion"] |= {"version": None, "promoted": False, "reason": "MLflow was away; nothing was registered"}
    assert "was not promoted: MLflow was away; nothing was registered" in ending(toy_request(), report, OWN)


def test_a_finalist_without_an_interval_is_told_without_one(report: dict[str, Any], toy_request: ToyRequest) -> None:
    report["finalists"] = [finalist(3, interval=None, over_defaults=None)]
    lines = ending(toy_request(), report, OWN).splitlines()
    assert "    trial-003        spiral_score 0.500  perplexity 40.000" in lines


def test_without_a_winner_the_log_is_named(report: dict[str, Any], toy_request: ToyRequest) -> None:
    request = toy_request()
    report["winner"] = None
    assert ending(request, report, OWN) == f"No trial came to a result; the log tells why: {request.places.log}"
