"""The way of an adapter through a real registry: log, register, seat, load, answer, roll back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tune.contenders import HIGH, LOW, MIXED, UNTUNED, candidate
from tune import registry
from tune.delivery import open_client, tracking_uri
from tune.gate import Candidate, Decision, Evidence, RegistryError, decide
from tune.registry import champion, promote, promote_version, rollback
from tune.versions import aliases_of, fetch_adapter, register


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated database for the module."""
    address = tracking_uri(tmp_path_factory.mktemp("mlflow"), None)
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
    import torch

    from phasegpt.models import LoraSettings, attach_policy, load_base

    made = []
    for seed in range(3):
        base = load_base(str(toy_model_dir), toy_model_dir)
        policy = attach_policy(base, LoraSettings(r=2, alpha=4, dropout=0.0, target_modules=("q_proj",)), seed)
        for weight in policy.trainable().values():
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
        made.append(tmp_path_factory.mktemp("adapters") / "adapter")
        policy.save(made[-1])
    return made


def winner_of(client: Any, toy_model_dir: Path, adapter: Path, values: Mapping[str, float], track: str) -> Candidate:
    """A candidate with a run of its own."""
    run = client.create_run(client.get_experiment_by_name("phasegpt-v14").experiment_id, run_name="winner")
    return candidate(run.info.run_id, str(toy_model_dir), adapter, values, track)


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

    assert champion(client, "b") is None
    winner = winner_of(client, toy_model_dir, adapters[0], LOW, "b")
    winner = replace(winner, answers={"p0": ["The river stays.", "It moves."]}, better="max")
    decision = promote(client, winner, tmp_path)
    assert (decision.promote, decision.uncontested, decision.version) == (True, True, "1")
    seated = champion(client, "b")
    assert seated is not None
    assert (seated.version, seated.scores, seated.interval_vs_reference) == ("1", winner.scores, UNTUNED)
    assert (seated.answers, seated.better) == (winner.answers, "max")
    lineage = {"search": "first", "trial": "trial-003", "data_hash": "d4ta", "commit": "c0ffee", "promoted": "true"}
    assert lineage.items() <= seated.tags.items()
    assert promote(client, winner, tmp_path).reason == "it is the champion already"
    assert len(client.search_model_versions("name = 'phasegpt-track-b'")) == 1

    model = mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")
    prompts = ["What is a lamp?", "Tell of the river."]
    answers = model.predict(pd.DataFrame({"prompt": prompts}))
    assert answers == direct_answers(toy_model_dir, adapters[0], prompts, 24)
    assert answers != direct_answers(toy_model_dir, adapters[1], prompts, 24)
    assert model.predict(prompts) == answers
    short = model.predict(prompts, params={"max_new_tokens": 6})
    assert short == direct_answers(toy_model_dir, adapters[0], prompts, 6) != answers

    folder = fetch_adapter("models:/phasegpt-track-b@champion", tmp_path / "fetched")
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    source = (adapters[0] / "adapter_model.safetensors").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() == source


def test_losers_stay_below_the_champion_and_winners_replace_it(
    client: Any, toy_model_dir: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uncontested, then a loser, then a winner; then rollback, the gate again, force, and what the commands print."""
    first, loser, winner = (
        winner_of(client, toy_model_dir, adapter, values, "a")
        for adapter, values in zip(adapters, (LOW, MIXED, HIGH), strict=True)
    )
    assert promote(client, first, tmp_path).promote
    lost = promote(client, loser, tmp_path)
    assert (lost.promote, lost.version) == (False, "2")
    tags = client.get_model_version("phasegpt-track-a", "2").tags
    assert (tags["promoted"], tags["decided_against"]) == ("false", "1")
    assert "does not surely beat" in tags["reason"]
    assert float(tags["wins.low"]) < float(tags["wins.rate"]) == 0.5 < float(tags["wins.high"])
    assert float(tags["interval.ratio"]) == pytest.approx(1)
    assert "win rate 0.50 [" in tags["reason"]
    assert "ratio 1.25, win rate 0.70 [0.40, 0.90]" in tags["gain_over_untuned"]
    assert promote(client, winner, tmp_path).promote
    assert aliases_of(client, "a") == {"champion": "3", "previous": "1"}

    assert rollback(client, "a", tmp_path).version == "1"
    assert aliases_of(client, "a") == {"champion": "1", "previous": "3"}
    assert "rolled_back_from" in client.get_model_version("phasegpt-track-a", "3").tags
    assert promote_version(client, "a", "3", tmp_path, force=False).promote
    assert not promote_version(client, "a", "2", tmp_path, force=False).promote
    forced = promote_version(client, "a", "2", tmp_path, force=True)
    assert (forced.promote, forced.forced) == (True, True)
    assert client.get_model_version("phasegpt-track-a", "2").tags["forced"] == "true"
    assert aliases_of(client, "a") == {"champion": "2", "previous": "3"}

    assert registry.main(["list", "--track", "a"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in listed[1:]] == [["3", "previous"], ["2", "champion"], ["1", "-"]]
    assert registry.main(["show", "--track", "a"]) == 0
    shown = capsys.readouterr().out
    assert "models:/phasegpt-track-a/2" in shown
    assert "forced; the gate said: does not surely beat" in shown
    assert registry.main(["show", "--track", "a", "9"]) == 2
    assert "has no version 9; it has: 3, 2, 1" in capsys.readouterr().err


def test_a_champion_that_changed_while_the_gate_decided_is_met_again(
    client: Any, toy_model_dir: Path, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine seats a stronger model between the decision and the alias: the candidate must lose."""
    strong = winner_of(client, toy_model_dir, adapters[0], HIGH, "c")
    weak = winner_of(client, toy_model_dir, adapters[1], LOW, "c")
    version = register(client, strong)
    real = decide

    def meanwhile(ours: Evidence, seated: Evidence | None) -> Decision:
        if seated is None:
            client.set_registered_model_alias("phasegpt-track-c", "champion", version)
        return real(ours, seated)

    monkeypatch.setattr(registry, "decide", meanwhile)
    assert not promote(client, weak, tmp_path).promote
    assert aliases_of(client, "c") == {"champion": version}


@pytest.mark.parametrize("address", ["phasegpt-track-b@champion", "models:/other/1", "models:/phasegpt-track-b"])
def test_an_address_of_another_form_is_refused(client: Any, address: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="expected"):
        fetch_adapter(address, tmp_path / "x")
    assert not (tmp_path / "x").exists()
