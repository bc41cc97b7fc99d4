"""compare --blind as a user types it, with a judge who answers over HTTP: on toy runs, stopped, gone on with, read."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phasegpt.blind import read_votes, voting
from phasegpt.cli import main
from phasegpt.config_io import project_root
from tests.phasegpt.ballots import ballot
from tests.phasegpt.trained import train_toy
from tests.toy import build_toy_model

pytestmark = pytest.mark.slow
PATIENCE = 240
"""Seconds until a process is missed."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `compare` in a project folder of its own; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        code = project_root()
        environment = os.environ | {"PHASEGPT_ROOT": str(tmp_path), "PYTHONPATH": str(code)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "phasegpt", "compare", *words, "--no-open"],
                cwd=code,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        with process:  # closes its pipes
            pass


def address_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """(what it said before, the address that it names)."""
    assert process.stderr is not None
    before = ""
    for line in process.stderr:
        if line.startswith("Judge at "):
            return before, line.removeprefix("Judge at ").strip()
        before += line
    pytest.fail(f"no address was named: {before}")


def post(address: str, page: str, **form: object) -> str:
    origin = address[: address.index("/", 8)]
    body = urllib.parse.urlencode(form).encode()
    asked = urllib.request.Request(address + page, body, {"Origin": origin})  # noqa: S310 - our own http address
    with urllib.request.urlopen(asked, timeout=PATIENCE) as reply:  # noqa: S310
        return str(reply.read().decode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with voting(tmp_path / "votes.jsonl", ballot(1)) as votes:
        return votes.path


def test_a_run_and_another_model_are_judged_from_the_command_to_the_result(
    start: Start, toy_sets: list[str], tmp_path: Path, one_thread: None
) -> None:
    run, other = train_toy(tmp_path, "run", toy_sets), build_toy_model(tmp_path / "other", seed=1)
    process = start(run.folder, str(other), "--blind", "--json", "--judge", "Ada")
    before, address = address_of(process)
    place = re.search(r"^(.*\.jsonl): 0 of (\d) pairs judged$", before, re.M)
    assert place is not None
    assert Path(place[1]).parent == tmp_path / "results" / "v14" / "blind"
    asked = int(place[2])
    for n in range(1, asked + 1):
        post(address, "vote", pair=n, choice="first")
    assert run.folder in post(address, "reveal")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["judge"] == "Ada"
    assert found["a"].startswith(run.folder)
    assert found["b"].startswith(str(other))
    assert found["wins"] + found["losses"] == found["first"]["k"] == asked
    assert asked + found["alike"] == 4
    assert found["votes_file"] == place[1]


def test_where_nothing_differs_the_result_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = replace(ballot(), pairs=())
    with voting(tmp_path / "v.jsonl", made):
        pass
    assert main(["compare", "--votes", str(tmp_path / "v.jsonl"), "--blind"]) == 0
    assert "ties 1 (1 of them the same answer twice); skipped 0, open 0" in capsys.readouterr().out


def test_ctrl_c_keeps_the_votes_and_tells_no_result_while_pairs_are_open(
    start: Start, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("--votes", str(path), "--blind")
    post(address_of(process)[1], "vote", pair=2, choice="tie")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert "Stopped with 4 pairs open." in err
    assert f"  python -m phasegpt compare --votes {path}\n" in err
    assert "Traceback" not in err
    assert main(["compare", "--votes", str(path)]) == 0
    said = capsys.readouterr().out
    assert "B better 0, A better 0, ties 2 (1 of them the same answer twice); skipped 0, open 4" in said
    assert read_votes(path).choices == {1: "tie"}


def test_ctrl_c_after_the_last_vote_tells_the_result(start: Start, path: Path) -> None:
    process = start("--votes", str(path), "--blind")
    _, address = address_of(process)
    for n in range(1, 6):
        post(address, "vote", pair=n, choice="second")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "A: runs/left on toy-base\nB: runs/right on toy-base\n" in out
    assert "the answer that stood first was picked  0.00 [0.00, 0.52] (0 of 5)" in out
    assert out.endswith(f"Votes: {path}\n")


def test_after_the_reveal_the_same_command_tells_the_result_again(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with voting(path) as votes:
        votes.cast(0, "first")
        votes.close()
    assert main(["compare", "--votes", str(path), "--blind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["open"] == 4


def test_a_port_that_is_taken_is_one_line(start: Start, path: Path) -> None:
    taken = address_of(start("--votes", str(path), "--blind"))[1].split(":")[2].split("/")[0]
    other = path.with_name("other.jsonl")
    other.write_bytes(path.read_bytes())
    process = start("--votes", str(other), "--blind", "--port", taken)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (2, "")
    assert f"--port {taken}: Address already in use" in err
    assert "Traceback" not in err


def test_two_commands_on_one_file_of_votes_are_one_too_many(start: Start, path: Path) -> None:
    address_of(start("--votes", str(path), "--blind"))
    process = start("--votes", str(path), "--blind")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "another process takes votes into this file" in err
