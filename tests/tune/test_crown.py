"""From a winner to the seat on a real registry: also by a process that recorded nothing, and past a failing MLflow."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phasegpt.base_model import base_identity
from phasegpt.config import Config
from phasegpt.config_io import Tree
from phasegpt.metrics.text import scorer
from phasegpt.mlflow_client import open_client
from phasegpt.statistics import paired_gain
from tests.mlflow_store import migrated
from tests.tune.conftest import ToyRequest
from tests.tune.registries import toy_adapter
from tune import crown as crowning
from tune import registry
from tune.conclude import Conclusion
from tune.crown import crown
from tune.delivery import artifact_location
from tune.finalists import Finalist
from tune.gate import Candidate
from tune.request import Request
from tune.spool import SPOOL
from tune.tracking import Tracker

NOBODY = "http://someone:secret@127.0.0.1:9"
KEY = "toy/final-001-seed-1042"


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    address = migrated(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(crowning, "PAUSE", 0.0)
    open_client(address).create_experiment("phasegpt-v14", artifact_location(address))
    return address


@pytest.fixture
def request_(toy_request: ToyRequest) -> Request:
    return toy_request("search.objectives={spiral_score: max}", "search.constraints={}")


@pytest.fixture
def crowned(request_: Request, toy_model_dir: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Crowns the winner of a toy search by a tracker that sent nothing itself."""
    adapter = toy_adapter(toy_model_dir, tmp_path / "adapter")
    finals = [final(request_, seed) for seed in (1042, 1043)]
    found = conclusion(finals, adapter)

    def run(uri: str, experiment_uri: str | None = None) -> dict[str, Any]:
        tracker = Tracker(experiment_uri or uri, "phasegpt-v14", tmp_path / "second" / SPOOL)
        try:
            return crown(request_, found, tracker, uri, finals)
        finally:
            tracker.close(5)

    return run


def final(request: Request, seed: int, more: float = 0.0) -> dict[str, Any]:
    scores = [0.4 + n / 20 + more for n in range(6)]
    rows = [{"id": f"p{n}", "prompt": "Why?", "answer": "So.", "spiral_score": s} for n, s in enumerate(scores)]
    config = request.config.dump()
    return {
        "name": f"toy/final-001-seed-{seed}",
        "metrics": {"spiral_score": 0.525},
        "answers": rows,
        "pairs": [],
        "config": config,
        "config_hash": "c0nfig",
        "hashes": {"base_model": "f1nger", "data": "d4ta", "scorer": scorer()},
        "data": {"train": 4},
        "seconds": {"total": 2.5},
        "versions": {},
    }


def conclusion(finals: list[dict[str, Any]], adapter: Path) -> Conclusion:
    scores = [{row["id"]: row["spiral_score"] for row in result["answers"]} for result in finals]
    untuned = {name: score - 0.1 for name, score in scores[0].items()}
    gain = paired_gain(scores, [untuned])
    best = Finalist(1, {}, (1042, 1043), scores, {"spiral_score": 0.525}, {}, None, None, gain)
    return Conclusion(best, (best,), "better", {"metrics": {"spiral_score": 0.425}}, adapter, "final-001-seed-1042")


def recorded(uri: str, folder: Path) -> None:
    """What the process that ran the final recorded of it before it died."""
    first = Tracker(uri, "phasegpt-v14", folder / "first" / SPOOL)
    first.run("toy", "toy")
    first.run(KEY, "final", parent="toy")
    assert first.close(30) == 0


def test_a_process_that_recorded_nothing_itself_finds_the_winners_run_and_registers_it_once(
    uri: str, crowned: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    recorded(uri, tmp_path)
    first, again = crowned(uri), crowned(uri)
    assert (first["version"], first["promoted"]) == ("1", True)
    assert (again["version"], again["promoted"], again["reason"]) == ("1", True, "it is the champion already")


def test_a_winner_whose_run_is_gone_is_not_registered(uri: str, crowned: Callable[..., dict[str, Any]]) -> None:
    assert crowned(uri)["reason"] == f"MLflow has no run {KEY}; nothing was registered"


def test_what_is_told_and_logged_of_an_mlflow_that_fails_has_no_password(
    uri: str, crowned: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "phasegpt")
    found = crowned(NOBODY, experiment_uri=uri)
    assert found["reason"].startswith("not registered: ")
    assert "127.0.0.1" in found["reason"]
    assert "secret" not in found["reason"] + caplog.text
    assert "Traceback" in caplog.text


def test_a_registration_that_fails_once_is_tried_again(
    uri: str, crowned: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(uri, tmp_path)
    real, tried = registry.promote, []

    def promote(client: Any, candidate: Any) -> Any:
        tried.append(candidate)
        if len(tried) == 1:
            raise OSError("503")
        return real(client, candidate)

    monkeypatch.setattr(registry, "promote", promote)
    assert crowned(uri)["promoted"]
    assert len(tried) == 2


def test_the_gate_is_shown_all_that_the_finals_came_to(
    request_: Request, toy_model_dir: Path, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(uri, tmp_path)
    request = replace(request_, config=bounded(request_.config, "<= 30", "<= 1"))
    finals = [final(request, 1042), final(request, 1043, 0.1)]
    made = conclusion(finals, toy_adapter(toy_model_dir, tmp_path / "adapter"))
    broken = {"perplexity": 0.5, "kl_divergence": math.inf}
    best = replace(made.winner, violations=broken, metrics={"spiral_score": 0.575, "perplexity": 30.5})
    own = replace(best, number=0, metrics={"spiral_score": 0.3})
    best = replace(best, gain=made.winner.over_baseline)
    shown: list[Candidate] = []
    real = registry.promote

    def promote(client: Any, candidate: Candidate) -> Any:
        shown.append(candidate)
        return real(client, candidate)

    monkeypatch.setattr(registry, "promote", promote)
    tracker = Tracker(uri, "phasegpt-v14", tmp_path / "second" / SPOOL)
    try:
        found = crown(request, replace(made, winner=best, finalists=(best, own)), tracker, uri, finals)
    finally:
        tracker.close(5)
    [candidate] = shown
    assert not found["promoted"]
    assert (
        "constraints not met: perplexity <= 30.0: broken at 30.5; kl_divergence <= 1.0: broken at no" in found["reason"]
    )
    assert not candidate.constraints_met
    assert candidate.scores == {"spiral_score": {f"p{n}": [0.4 + n / 20, 0.4 + n / 20 + 0.1] for n in range(6)}}
    assert candidate.answers == {f"p{n}": ["So.", "So."] for n in range(6)}
    assert candidate.prompts == {f"p{n}": "Why?" for n in range(6)}
    assert (candidate.objective, candidate.better, candidate.finalists) == ("spiral_score", "max", 2)
    assert candidate.answer_tokens == request.config.evaluation.max_new_tokens
    assert candidate.base_identity == base_identity(request.config.model.base_model, "f1nger")
    assert (candidate.scorer, candidate.data_hash, candidate.seconds) == (scorer(), "d4ta", 5.0)
    assert (candidate.own, candidate.untuned) == (own.metrics, made.baseline["metrics"])
    assert (candidate.interval_vs_reference, candidate.interval_vs_own) == (best.over_baseline, best.gain)


def bounded(config: Config, perplexity: str, kl: str) -> Config:
    """The config of a search with these constraints."""
    tree = Tree("test", config.dump(), {})
    limits = {"perplexity": perplexity, "kl_divergence": kl}
    return tree.with_override(f"search.constraints={json.dumps(limits)}").typed()


def test_a_champion_that_this_version_cannot_read_costs_the_search_nothing_but_the_seat(
    uri: str, crowned: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(uri, tmp_path)
    crowned(uri)
    [scores] = (tmp_path / "mlflow").rglob("scores.json")
    scores.write_text("{}")
    monkeypatch.setattr(registry, "register", lambda *_: "2")
    found = crowned(uri)
    assert not found["promoted"]
    assert "phasegpt-track-b version 1 cannot be read by this version" in found["reason"]
