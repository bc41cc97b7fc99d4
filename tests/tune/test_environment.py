"""What Ray finds in the environment; an environment of our own stands in for the process's."""

import os

import pytest

from tune.environment import ONE_MACHINE, SETTINGS, prepare


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", given)
    return given


def test_settings_are_made_and_those_of_the_user_stay(environ: dict[str, str]) -> None:
    environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "5"
    prepare(own_cluster=False)
    assert {name: environ[name] for name in SETTINGS} == {**SETTINGS, "TUNE_FUNCTION_THREAD_TIMEOUT_S": "5"}
    assert not any(name.startswith("RAY_AUTH") for name in environ)
    assert ONE_MACHINE not in environ


def test_a_cluster_of_our_own_asks_for_a_fresh_token(environ: dict[str, str]) -> None:
    prepare(own_cluster=True)
    first = environ.pop("RAY_AUTH_TOKEN")
    assert environ["RAY_AUTH_MODE"] == "token"
    assert len(first) == 64
    prepare(own_cluster=True)
    assert environ["RAY_AUTH_TOKEN"] != first


def test_the_token_of_one_process_stays_the_same(environ: dict[str, str]) -> None:
    prepare(own_cluster=True)
    first = environ["RAY_AUTH_TOKEN"]
    prepare(own_cluster=True)
    assert environ["RAY_AUTH_TOKEN"] == first


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": "token.txt"}])
def test_a_users_own_way_of_authentication_is_left_alone(environ: dict[str, str], given: dict[str, str]) -> None:
    environ.update(given)
    prepare(own_cluster=True)
    assert "RAY_AUTH_TOKEN" not in environ
    assert given.items() <= environ.items()


def test_a_cluster_of_our_own_listens_to_this_machine_alone_unless_the_user_has_said_otherwise(
    environ: dict[str, str],
) -> None:
    prepare(own_cluster=True)
    assert environ.pop(ONE_MACHINE) == "0"
    environ[ONE_MACHINE] = "1"
    prepare(own_cluster=True)
    assert environ[ONE_MACHINE] == "1"
