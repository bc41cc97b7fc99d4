"""docs/example.md as a user follows it: its files, then its six commands in order, with a toy model in `model/`.

The commands are those of the page; only the search is given smaller settings and the tests' own cluster. It alone has
its own process: this one is on the cluster already, and what torch needs to load is loaded here.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

import phasegpt.cli
import tune.search
from phasegpt.metrics.own import load_own
from tests.ray_cluster import Cluster

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/example.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.S | re.M))
COMMANDS: list[str] = re.findall(r"^```bash\n(python -m .+)\n```$", PAGE, re.M)
SMALL = (
    "training.max_steps=2",
    "evaluation.eval_interval=2",
    "evaluation.max_new_tokens=8",
    "search.trials=3",
    "search.finalists={count: 1, seeds: 1}",
)
OWN = "my_metrics:names_next_step"


def printed_below(command: str) -> str:
    """The block that the page shows under a command."""
    found = re.search(rf"^```bash\n{re.escape(command)}\n```\n.*?^```text\n(.*?)^```$", PAGE, re.S | re.M)
    assert found is not None, f"the page shows no output of {command}"
    return found[1]


class Said(NamedTuple):
    """What the six commands printed, in their order."""

    validate: str
    plan: str
    search: str
    status: str
    compare: str
    generate: str


@pytest.fixture(scope="module")
def folder(toy_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder: the page's files, and a model."""
    made = tmp_path_factory.mktemp("helpdesk")
    for name, text in FILES.items():
        (made / name).write_text(text, encoding="utf-8")
    (made / "model").symlink_to(toy_model_dir)
    return made


@pytest.fixture(scope="module")
def in_the_folder(folder: Path, ray_cluster: Cluster) -> Iterator[None]:
    """This process stands in the user's folder, which is its project; the cluster was there before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PHASEGPT_ROOT", str(folder))
        patch.setattr(sys, "path", [*sys.path])
        yield
    sys.modules.pop("my_metrics", None)


@pytest.fixture(scope="module")
def said(in_the_folder: None, ray_cluster: Cluster) -> Said:
    smaller = [word for value in SMALL for word in ("--set", value)]

    def typed(command: str) -> str:
        _, _, module, *words = shlex.split(command)
        if "--name" in words:
            return searched(*words, *smaller, "--address", ray_cluster.address)
        main = {"phasegpt": phasegpt.cli.main, "tune.search": tune.search.main}[module]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main(words)
        assert status == 0, f"{command}\n{err.getvalue()}"
        return out.getvalue()

    return Said(*map(typed, COMMANDS))


def searched(*words: str) -> str:
    """What a search says in a process of its own."""
    code = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(filter(None, code))}
    command = [sys.executable, "-m", "tune.search", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_page_shows_every_file_and_six_commands() -> None:
    assert list(FILES) == ["pairs.jsonl", "prompts.jsonl", "prose.txt", "my_metrics.py", "helpdesk.yaml"]
    assert len(COMMANDS) == 6


def test_the_metric_tells_each_chosen_answer_from_its_rejected_one(in_the_folder: None) -> None:
    scored = load_own(OWN).function
    rows = [json.loads(line) for line in FILES["pairs.jsonl"].splitlines()]
    assert {scored(row["chosen"]) for row in rows} == {1 / 2, 1 / 3}
    assert {scored(row["rejected"]) for row in rows} == {0}
    assert scored("Then open the door. It is red.") == 1


def test_the_pairs_are_sound_as_the_page_says(said: Said) -> None:
    assert said.validate == printed_below(COMMANDS[0])


def entry(plan: str, name: str) -> str:
    """What a plan says under a name, however its lines are broken."""
    found = re.search(rf"^  {name} .*(?:\n {{14}}.*)*", plan, re.M)
    assert found is not None, f"no {name} in\n{plan}"
    return " ".join(found[0].split())


def test_the_plan_counts_pairs_and_fits_as_the_page_says(said: Said) -> None:
    names = ("data", "checks", "objectives", "space", "sampler", "fits")
    shown = printed_below(COMMANDS[1])
    assert [entry(said.plan, name) for name in names] == [entry(shown, name) for name in names]


def test_the_search_seats_a_champion_by_the_users_own_metric(said: Said, folder: Path) -> None:
    assert "Champion: phasegpt-track-b version 1 is now champion" in said.search
    report = json.loads((folder / "results/v14/track_b/first.json").read_text(encoding="utf-8"))
    assert [trial["state"] for trial in report["trials"]] == ["COMPLETE"] * 3
    assert list(report["objectives"]) == [OWN, "my_metrics:words"]
    assert report["finalists"][0]["feasible"]


def test_the_status_knows_the_trials_and_the_verdict(said: Said) -> None:
    assert "3 of 3 begun (3 complete)" in said.status
    assert "  best      trial-00" in said.status
    assert "  verdict   " in said.status


def test_the_comparison_shows_both_sides_and_their_answers(said: Said, folder: Path) -> None:
    assert "models:/phasegpt-track-b/1" in said.compare
    assert OWN in said.compare
    page = (folder / "first.html").read_text(encoding="utf-8")
    finals = [row for line in FILES["prompts.jsonl"].splitlines() if (row := json.loads(line))["half"] == "final"]
    assert len(finals) == 6
    assert [row["prompt"] for row in finals if row["prompt"] not in page] == []


def test_the_champion_answers(said: Said) -> None:
    question, answer = said.generate.strip().split("\n", 1)
    assert question == f"> {shlex.split(COMMANDS[5])[-1]}"
    assert answer.strip()
