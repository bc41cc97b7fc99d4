"""MLflow's UI: what is started, for whom, and what is refused; one real server that asks for a password."""

import base64
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.servers import free_port, served
from tune.ui import CONFIG, PASSWORD, SECRET, Server, UiError, is_loopback, main, parser, server

ROOT = Path(__file__).parents[2]
OTHERS = "0.0.0.0"  # noqa: S104 - what is to be refused


def asked(*words: str, **environment: str) -> Server:
    return server(parser().parse_args(words), environment)


def option(made: Server, name: str) -> str:
    return made.words[made.words.index(name) + 1]


def test_help_comes_at_once_with_examples() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tune.ui", "--help"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.endswith((" mlflow", " torch", " ray", " pydantic"))]


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), (OTHERS, False), ("::", False),
     ("192.0.2.7", False), ("0", False)],
)  # fmt: skip
def test_which_addresses_this_machine_alone_reaches(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_without_options_the_file_of_this_folder_is_shown_to_this_machine() -> None:
    made = asked()
    assert option(made, "--backend-store-uri") == "sqlite:///./mlflow.db"
    assert (option(made, "--host"), option(made, "--port")) == ("127.0.0.1", "5000")
    assert "--app-name" not in made.words
    assert made.environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_an_address_that_others_reach_is_refused_with_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", OTHERS]) == 2
    assert capsys.readouterr().err == (
        "--host 0.0.0.0: others can reach it there, and MLflow asks nobody for anything; "
        "add --auth to ask for a password, or --no-auth to let everybody read, change and delete runs\n"
    )


def test_who_knows_what_it_means_may_open_it_to_all() -> None:
    made = asked("--host", OTHERS, "--no-auth")
    assert option(made, "--host") == OTHERS
    assert "--app-name" not in made.words


def test_with_a_password_its_accounts_lie_beside_the_store_for_its_owner_alone(tmp_path: Path) -> None:
    made = asked("--store", str(tmp_path), "--host", OTHERS, "--auth", **{PASSWORD: "of-nobody-else"})
    assert option(made, "--app-name") == "basic-auth"
    assert f"database_uri = sqlite:///{tmp_path}/basic_auth.db" in Path(made.environment[CONFIG]).read_text()
    assert (tmp_path / "basic_auth.db").stat().st_mode & 0o777 == 0o600
    assert len(made.environment[SECRET]) == 64
    said = [*made.words, *made.environment.values(), *(p.read_text() for p in tmp_path.iterdir())]
    assert not [text for text in said if "of-nobody-else" in text]


def test_the_first_password_must_be_given_and_later_it_is_known(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UiError, match=f"--auth: set {PASSWORD} to what admin shall log in with"):
            asked("--store", str(tmp_path), "--auth")
    (tmp_path / "basic_auth.db").write_bytes(b"accounts")
    asked("--store", str(tmp_path), "--auth")
    assert (tmp_path / "basic_auth.db").read_bytes() == b"accounts"


def test_a_users_own_accounts_and_settings_are_left_alone(tmp_path: Path) -> None:
    own = {CONFIG: "/etc/accounts.ini", SECRET: "own", "MLFLOW_DISABLE_TELEMETRY": "false"}
    made = asked("--store", str(tmp_path), "--auth", **own)
    assert not own.keys() & made.environment.keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_server_asks_for_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "of-nobody-else")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tune.ui", "--store", str(tmp_path), "--port", str(port), "--auth"]
    with served([*command, "--host", OTHERS], f"{url}/health", tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)}):
        question = f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(question, timeout=60)  # noqa: S310 - our own server
        words = base64.b64encode(b"admin:of-nobody-else").decode()
        known = urllib.request.Request(question, headers={"Authorization": f"Basic {words}"})  # noqa: S310
        with urllib.request.urlopen(known, timeout=60) as reply:  # noqa: S310 - our own server
            assert reply.status == 200
