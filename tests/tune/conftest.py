"""Requests of a toy search."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tune.request import Request, new_request

ToyRequest = Callable[..., Request]


@pytest.fixture
def toy_request(tmp_path: Path, toy_sets: list[str]) -> ToyRequest:
    """Makes requests of track B in `tmp_path/store`; words are further overrides."""

    def make(*sets: str, name: str = "toy") -> Request:
        return new_request(
            "b", profile="laptop", overrides=[*toy_sets, *sets], name=name, storage=str(tmp_path / "store")
        )

    return make
