"""Which cluster is meant, and by what token it is spoken to."""

from pathlib import Path

import pytest

from cluster.state import LocalCluster, read_state, state_file, token_file, write_state
from cluster.target import find_target
from phasegpt.files import write_text
from tune.request import RequestError


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, address or token is known to this process."""
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def local() -> LocalCluster:
    """A state and a token as `cluster.local` leaves them."""
    cluster = LocalCluster("mark", "127.0.0.1", "http://127.0.0.1:9265", "http://127.0.0.1:9500", "/store", "/ray", 0.0)
    write_state(cluster)
    write_text(token_file(), "its-token", 0o600)
    return cluster


def test_without_any_cluster_the_ways_to_one_are_told() -> None:
    with pytest.raises(RequestError, match=r"give --address http://HEAD:8265.*cluster.local start"):
        find_target(None)


def test_the_cluster_of_this_machine_is_meant_where_none_is_named(local: LocalCluster) -> None:
    target = find_target(None)
    assert (target.local, target.dashboard.token, target.words) == (local, "its-token", [])


@pytest.mark.parametrize("content", ['{"mark": "m"}', '{"roots": []}', "[]", '{"roots": [3]}', '{"roots": [], "x": 1}'])
def test_a_state_that_is_none_is_called_damaged(content: str) -> None:
    write_text(state_file(), content)
    with pytest.raises(ValueError, match=r"state\.json is damaged \(.*; remove it and start again"):
        read_state()


def test_an_address_wins_over_the_cluster_of_this_machine(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other-token")
    target = find_target("http://head:8265/")
    assert (target.local, target.dashboard.token) == (None, "other-token")
    assert target.words == ["--address", "http://head:8265"]
    assert find_target(local.address).dashboard.token == "its-token"


def test_the_cluster_of_this_machine_wins_over_the_environment(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert find_target(None).local == local
    state_file().unlink()
    assert find_target(None).dashboard.address == "http://head:8265"


@pytest.mark.parametrize("address", ["head:6379", "ray://head:10001", "auto"])
def test_an_address_that_takes_no_jobs_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match="expected http://HEAD:8265"):
        find_target(address)


def test_a_token_file_is_read_and_a_missing_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(RequestError, match=r"RAY_AUTH_TOKEN_PATH names .*/token, which is no file"):
        find_target("http://head:8265")
    (tmp_path / "token").write_text("abc\n")
    assert find_target("http://head:8265").dashboard.token == "abc"


def test_state_and_token_are_for_their_owner_alone(local: LocalCluster) -> None:
    assert [file.stat().st_mode & 0o777 for file in (state_file(), token_file())] == [0o600, 0o600]


def test_no_token_shows_in_what_is_printed_of_a_target(local: LocalCluster) -> None:
    assert "its-token" not in repr(find_target(None))
