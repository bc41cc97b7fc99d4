"""The way of an adapter through a real registry: log, register, seat, load, answer, roll back."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phasegpt.checkpoints import fetch
from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tests.toy import TEMPLATE
from tests.tune.contenders import HIGH, LOW, MIXED, UNTUNED
from tests.tune.registries import toy_adapter, winner_of
from tune import registry
from tune.registry import champion, promote, promote_version, rollback
from tune.versions import aliases_of


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated database for the module."""
    address = migrated(tmp_path_factory.mktemp("mlflow"))
    open_client(address).create_experiment("phasegpt-v14", address.replace("sqlite:///", "file://") + ".artifacts")
    return address


@pytest.fixture
def client(uri: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the database, which is also the one that MLflow's own functions and the command line find."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return open_client(uri)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path) -> list[Path]:
    """Three adapters of the toy model that change its answers."""
    return [toy_adapter(toy_model_dir, tmp_path_factory.mktemp("adapters") / "adapter", seed) for seed in range(3)]


def direct_answers(toy_model_dir: Path, adapter: Path, prompts: list[str], most: int) -> list[str]:
    """What the adapter says without a registry."""
    from phasegpt.evaluate import generate
    from phasegpt.models import load_base, load_policy

    return generate(load_policy(load_base(str(toy_model_dir), toy_model_dir), adapter), prompts, most)


@pytest.mark.usefixtures("one_thread")
def test_a_champion_is_registered_loaded_and_answers(
    client: Any, toy_model_dir: Path, adapters: list[Path], tmp_path: Path
) -> None:
    """Log, register, seat, read back, load by alias, predict; a second promotion of the same makes no new version."""
    import mlflow
    import pandas as pd  # type: ignore[import-untyped]
    from transformers import AutoTokenizer

    assert champion(client, "b") is None
    winner = winner_of(client, toy_model_dir, adapters[0], LOW, "b")
    winner = replace(winner, answers={"p0": ["The river stays.", "It moves."]}, better="max")
    decision = promote(client, winner)
    assert (decision.promote, decision.uncontested, decision.version) == (True, True, "1")
    seated = champion(client, "b")
    assert seated is not None
    assert (seated.version, seated.scores, seated.interval_vs_reference) == ("1", winner.scores, UNTUNED)
    assert (seated.answers, seated.better) == (winner.answers, "max")
    lineage = {"search": "first", "trial": "trial-003", "data_hash": "d4ta", "commit": "c0ffee", "promoted": "true"}
    assert lineage.items() <= seated.tags.items()
    assert promote(client, winner).reason == "it is the champion already"
    assert len(client.search_model_versions("name = 'phasegpt-track-b'")) == 1

    model = mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")
    prompts = ["What is a lamp?", "Tell of the river."]
    answers = model.predict(pd.DataFrame({"prompt": prompts}))
    assert answers == direct_answers(toy_model_dir, adapters[0], prompts, 24)
    assert answers != direct_answers(toy_model_dir, adapters[1], prompts, 24)
    assert model.predict(prompts) == answers
    short = model.predict(prompts, params={"max_new_tokens": 6})
    assert short == direct_answers(toy_model_dir, adapters[0], prompts, 6) != answers

    data = fetch("models:/phasegpt-track-b@champion", tmp_path / "fetched", client.tracking_uri) / "data/phasegpt"
    name = "adapter_model.safetensors"
    assert (data / "adapter" / name).read_bytes() == (adapters[0] / name).read_bytes()
    assert AutoTokenizer.from_pretrained(data / "tokenizer").chat_template == TEMPLATE


def test_losers_stay_below_the_champion_and_winners_replace_it(
    client: Any, toy_model_dir: Path, adapters: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Uncontested, then a loser, then a winner; then rollback, the gate again, force, and what the commands print."""
    first, loser, winner = (
        winner_of(client, toy_model_dir, adapter, values, "a")
        for adapter, values in zip(adapters, (LOW, MIXED, HIGH), strict=True)
    )
    assert promote(client, first).promote
    lost = promote(client, loser)
    assert (lost.promote, lost.version) == (False, "2")
    tags = client.get_model_version("phasegpt-track-a", "2").tags
    assert (tags["promoted"], tags["decided_against"]) == ("false", "1")
    assert "does not surely beat" in tags["reason"]
    assert float(tags["wins.low"]) < float(tags["wins.rate"]) == 0.5 < float(tags["wins.high"])
    assert float(tags["interval.ratio"]) == pytest.approx(1)
    assert "win rate 0.50 [" in tags["reason"]
    assert "ratio 1.25, win rate 0.70 [0.40, 0.90]" in tags["gain_over_untuned"]
    assert promote(client, winner).promote
    assert aliases_of(client, "a") == {"champion": "3", "previous": "1"}

    assert rollback(client, "a").version == "1"
    assert aliases_of(client, "a") == {"champion": "1", "previous": "3"}
    assert "rolled_back_from" in client.get_model_version("phasegpt-track-a", "3").tags
    assert promote_version(client, "a", "3", force=False).promote
    assert not promote_version(client, "a", "2", force=False).promote
    forced = promote_version(client, "a", "2", force=True)
    assert (forced.promote, forced.forced) == (True, True)
    assert client.get_model_version("phasegpt-track-a", "2").tags["forced"] == "true"
    assert aliases_of(client, "a") == {"champion": "2", "previous": "3"}

    assert registry.main(["list", "--track", "a"]) == 0
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == "phasegpt-track-a: champion is version 2, before it version 3"
    assert [row.split()[:2] for row in rows] == [["3", "previous"], ["2", "champion"], ["1", "-"]]
    assert [row[row.index("first") :].split("  ")[-1].split(":")[0] for row in rows] == [
        "beat 1",
        "forced over 3",
        "uncontested",
    ]
    assert max(map(len, [head, columns, *rows])) <= 120
    assert registry.main(["list", "--json"]) == 0
    (one,) = [track for track in json.loads(capsys.readouterr().out) if track["track"] == "a"]
    assert (one["champion"], one["previous"], one["out_of_step"]) == ("2", "3", False)
    assert one["versions"][0]["interval"]["low"] > 0
    assert registry.main(["show", "--track", "a"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("models:/phasegpt-track-a/2  champion\n")
    assert "forced; the gate said: does not surely beat" in shown
    assert registry.main(["show", "--track", "a", "3", "--json"]) == 0
    third = json.loads(capsys.readouterr().out)
    assert third["lineage"]["base_model"] == str(toy_model_dir)
    assert third["metrics"]["spiral_score"]["interval"][0] < third["metrics"]["spiral_score"]["value"]
    assert third["events"]["unseated_by"] == "2"
    assert registry.main(["show", "--track", "a", "9"]) == 2
    assert "has no version 9; it has: 3, 2, 1" in capsys.readouterr().err


def test_both_sides_of_a_decision_carry_who_when_and_the_numbers(
    client: Any, toy_model_dir: Path, adapters: list[Path]
) -> None:
    """Version 1 sits, defends itself against 2, and is unseated by 3; what keeps a constraint not is not compared."""
    first, loser, winner = (winner_of(client, toy_model_dir, adapters[0], v, "c") for v in (LOW, MIXED, HIGH))
    unmet = replace(winner, run_id=loser.run_id, constraints_met=False, adapter=adapters[1])
    for one in (first, loser, unmet, winner):
        promote(client, one)
    sat, lost, refused, won = (client.get_model_version("phasegpt-track-c", n).tags for n in "1234")
    assert (lost["decided_against"], refused["decided_against"], won["decided_against"]) == ("1", "1", "1")
    assert float(lost["interval.low"]) < 0 < float(won["interval.low"])
    assert refused["interval.low"] == ""
    for tags in (sat, lost, refused, won):
        assert re.fullmatch(r"\S+@\S*", tags["decided_by"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", tags["decided_at"])
    assert (sat["defended_against"], sat["defended_at"]) == ("2", lost["decided_at"])
    assert sat["defended_reason"] == f"version 2 {lost['reason']}"
    assert (sat["unseated_by"], sat["unseated_at"]) == ("4", won["decided_at"])
    assert sat["unseated_reason"] == f"version 4 {won['reason']}"
