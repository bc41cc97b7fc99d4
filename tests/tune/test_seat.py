"""The record of a seat on a real registry, with aliases and versions that others have moved or taken away."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tests.tune.contenders import HIGH, LOW, MIXED
from tests.tune.registries import EXPERIMENT, toy_adapter, winner_of
from tune import registry
from tune.gate import RegistryError
from tune.registry import champion, promote_version, repair, rollback
from tune.seat import Seat, claim, out_of_step, publish, read_seat, record_name
from tune.versions import aliases_of, register, versions_named

NAME = "phasegpt-track-a"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path) -> Path:
    """A database with three versions of track a, in which nobody was seated: 2 may be as good as 1, 3 is better."""
    folder = tmp_path_factory.mktemp("mlflow")
    client = open_client(migrated(folder))
    client.create_experiment(EXPERIMENT, (folder / "artifacts").as_uri())
    adapter = toy_adapter(toy_model_dir, folder / "adapter")
    for values in (LOW, MIXED, HIGH):
        register(client, winner_of(client, toy_model_dir, adapter, values, "a"))
    return folder / "mlflow.db"


@pytest.fixture
def client(registered: Path, tmp_path: Path) -> Any:
    """A registry of the test's own."""
    shutil.copy(registered, tmp_path / "mlflow.db")
    return open_client(f"sqlite:///{tmp_path}/mlflow.db")


def test_an_empty_seat_is_nobodys(client: Any) -> None:
    assert read_seat(client, "a") == Seat()
    assert champion(client, "a") is None
    assert out_of_step(client, "a") is None
    with pytest.raises(RegistryError, match="no previous champion"):
        rollback(client, "a")


def test_of_two_claims_on_the_same_seat_the_second_changes_nothing(client: Any) -> None:
    seen = read_seat(client, "a")
    assert claim(client, "a", seen, "1", {})
    assert not claim(client, "a", seen, "2", {})
    assert read_seat(client, "a") == Seat("1", "", 1)
    assert claim(client, "a", read_seat(client, "a"), "3", {})
    assert read_seat(client, "a") == Seat("3", "1", 3)
    assert [str(entry.version) for entry in versions_named(client, record_name("a"))] == ["3", "2", "1"]


def test_a_claim_that_arrives_twice_counts_once_and_is_ones_own(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the answer to the first request is lost on the way and the client sends it again."""
    real = client.create_model_version

    def twice(*args: Any, **options: Any) -> Any:
        real(*args, **options)
        return real(*args, **options)

    monkeypatch.setattr(client, "create_model_version", twice)
    assert claim(client, "a", read_seat(client, "a"), "1", {})
    assert read_seat(client, "a") == Seat("1", "", 1)


def test_the_aliases_of_an_older_registry_are_where_its_record_begins(client: Any) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    assert read_seat(client, "a") == Seat("1", "", 0)
    assert promote_version(client, "a", "3").promote
    assert aliases_of(client, "a") == {"champion": "3", "previous": "1"}
    assert rollback(client, "a").version == "1"


def test_who_dies_before_the_aliases_are_written_is_finished_by_the_next_one(client: Any) -> None:
    promote_version(client, "a", "1")
    claim(client, "a", read_seat(client, "a"), "3", {"3": {"reason": "better"}, "1": {"unseated_by": "3"}})
    assert aliases_of(client, "a") == {"champion": "1"}
    assert out_of_step(client, "a") == Seat("3", "1", 2)
    assert not promote_version(client, "a", "2").promote
    assert aliases_of(client, "a") == {"champion": "3", "previous": "1"}
    assert client.get_model_version(NAME, "1").tags["unseated_by"] == "3"
    assert client.get_model_version(NAME, "3").tags["reason"] == "better"


def test_an_alias_moved_by_hand_is_told_and_put_right(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    promote_version(client, "a", "1")
    client.set_registered_model_alias(NAME, "champion", "2")
    words = ["--track", "a", "--tracking-uri", client.tracking_uri]
    assert registry.main(["list", *words]) == 0
    assert "python -m tune.registry promote --track a 1" in capsys.readouterr().out
    assert registry.main(["list", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["out_of_step"]
    assert registry.main(["promote", *words, "1"]) == 0
    assert aliases_of(client, "a")["champion"] == "1"
    assert repair(client, "a") is None


def test_a_champion_that_was_deleted_leaves_the_seat_empty(client: Any) -> None:
    for version in "13":
        promote_version(client, "a", version)
    client.delete_model_version(NAME, "3")
    assert champion(client, "a") is None
    decision = promote_version(client, "a", "1")
    assert (decision.promote, decision.uncontested) == (True, True)
    assert aliases_of(client, "a")["champion"] == "1"


def test_the_record_of_a_deleted_model_says_nothing_of_a_later_one_of_its_name(client: Any) -> None:
    promote_version(client, "a", "1")
    client.delete_registered_model(NAME)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "file:///elsewhere")
    assert read_seat(client, "a") == Seat()


def test_a_rollback_that_meets_a_promotion_is_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in "13":
        promote_version(client, "a", version)

    def taken(*_: Any) -> bool:
        claim(client, "a", read_seat(client, "a"), "2", {})
        return claim(*_)

    monkeypatch.setattr(registry, "claim", taken)
    with pytest.raises(RegistryError, match="was taken meanwhile"):
        rollback(client, "a")
    publish(client, "a")
    assert aliases_of(client, "a") == {"champion": "2", "previous": "3"}
