"""`mlflow models serve --env-manager local` on a champion, started outside the project and asked over HTTP."""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from phasegpt.checkpoints import open_adapter
from phasegpt.evaluate import generate
from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tests.servers import free_port, served
from tests.tune.contenders import LOW
from tests.tune.registries import EXPERIMENT, toy_adapter, winner_of
from tune.registry import promote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).parents[2]
PROMPTS = ["Tell of the river.", "Tell of a clock."]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path) -> Path:
    return toy_adapter(toy_model_dir, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture(scope="module")
def url(adapter: Path, toy_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the champion answers."""
    folder, elsewhere = tmp_path_factory.mktemp("mlflow"), tmp_path_factory.mktemp("elsewhere")
    client = open_client(migrated(folder))
    client.create_experiment(EXPERIMENT, (folder / "artifacts").as_uri())
    assert promote(client, winner_of(client, toy_model_dir, adapter, LOW, "b")).promote
    port = free_port()
    words = ["models", "serve", "--model-uri", "models:/phasegpt-track-b@champion", "--env-manager", "local"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # where uvicorn is
    address = f"http://127.0.0.1:{port}"
    with served([sys.executable, "-m", "mlflow", *words], f"{address}/ping", elsewhere, environment):
        yield address


def ask(url: str, **body: Any) -> Any:
    asked = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as answer:  # noqa: S310
        return json.load(answer)["predictions"]


def test_a_served_champion_answers_as_its_adapter_does(url: str, adapter: Path) -> None:
    assert ask(url, inputs=PROMPTS) == generate(open_adapter(adapter), PROMPTS, 24)
    table = {"columns": ["prompt"], "data": [[prompt] for prompt in PROMPTS]}
    assert ask(url, dataframe_split=table) == ask(url, inputs=PROMPTS)


def test_a_served_champion_takes_the_length_of_its_answers(url: str, adapter: Path) -> None:
    short = ask(url, inputs=PROMPTS, params={"max_new_tokens": 4})
    assert short == generate(open_adapter(adapter), PROMPTS, 4) != ask(url, inputs=PROMPTS)


@pytest.mark.parametrize("most", [0, "many"])
def test_a_length_that_is_none_is_refused_with_the_reason(url: str, most: object) -> None:
    with pytest.raises(HTTPError) as refused:
        ask(url, inputs=PROMPTS, params={"max_new_tokens": most})
    assert refused.value.code == 400
    assert "max_new_tokens" in refused.value.read().decode()
