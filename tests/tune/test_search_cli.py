"""The command line of a search as a process: help, plan, and one clear message for each mistake."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.tune.conftest import ToyRequest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "mlflow", "transformers")
PATIENCE = 120
"""Seconds; the machine may be busy with a search. What must be quick is measured in processor time."""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m tune.search` with `words`; the last line of stdout names the heavy packages that it imported."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', *[name for name in {HEAVY} if name in sys.modules]))\n"
        "from tune.search import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=PATIENCE
    )


def sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.fixture
def refused(tmp_path: Path, toy_sets: list[str]) -> list[str]:
    """The words of a toy search in `tmp_path`, to which each test adds one mistake."""
    storage, uri = str(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow.db"
    return ["--track", "b", "--profile", "laptop", "--storage", storage, "--tracking-uri", uri, *sets(toy_sets)]


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_shows_commands_to_copy() -> None:
    before = processor_seconds()
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m tune.search --track b --plan" in done.stdout
    assert done.stdout.endswith("heavy:\n")
    assert processor_seconds() - before < 1


def test_a_driver_comes_to_its_search_without_torch(refused: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "store" / "experiments" / "v14" / "track_b" / "busy"
    folder.mkdir(parents=True)
    with FileLock(folder / "driver.lock"):
        done = run(*refused, "--name", "busy")
    assert done.returncode == 2
    assert "busy is being run by another process" in done.stderr
    assert done.stdout == "heavy:\n"


def test_the_plan_of_all_tracks_is_one_object_a_track(tmp_path: Path) -> None:
    done = run("--track", "all", "--profile", "laptop", "--storage", str(tmp_path), "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout.rpartition("heavy:")[0])
    assert [plan["track"] for plan in plans] == ["a", "b", "c"]


def test_a_plan_takes_under_five_seconds_imports_nothing_heavy_and_starts_nothing(
    refused: list[str], tmp_path: Path
) -> None:
    before = processor_seconds()
    done = run(*refused, "--plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Nothing was started.\nheavy:\n")
    assert list(tmp_path.iterdir()) == []
    assert processor_seconds() - before < 5


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            ("--set", "training.learnin_rate=1e-4"),
            "--set training.learnin_rate: training.learnin_rate: no such key; did you mean learning_rate?",
        ),
        (("--trials", "0"), "--trials: search.trials: expected a number >= 1, found 0"),
        (
            ("--sampler", "grid", "--set", "search.parameters={training.beta: {uniform: [0.1, 1]}}"),
            "grid needs a parameter with points: a grid, a choice, or a range with grid: [...] beside it",
        ),
        (
            ("--set", "training.preference_dataset=missing.jsonl"),
            f"training.preference_dataset: expected a file, found none at {ROOT}/missing.jsonl",
        ),
        (("--config", "missing.yaml"), "missing.yaml"),
        (("--set", "model.base_model=someone/no-such-model"), "the model hub cannot be reached"),
        (("--set", "model.base_model=./no-such-folder"), "no model in the folder './no-such-folder'"),
        (("--name", "../../x"), "--name '../../x': expected letters, digits, dot, dash and underscore, at most 80"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(
    refused: list[str], tmp_path: Path, mistake: tuple[str, ...], message: str
) -> None:
    done = run(*refused, *mistake)
    assert (done.returncode, done.stdout) == (2, "heavy:\n")
    (line,) = done.stderr.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_several_mistakes_are_told_at_once_a_line_each(refused: list[str]) -> None:
    done = run(*refused, "--set", "training.betta=1", "--set", "training.batch_size=many", "--seed", "-1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert "Traceback" not in done.stderr


def test_a_taken_name_is_refused(refused: list[str], toy_request: ToyRequest) -> None:
    toy_request(name="taken").save()
    done = run(*refused, "--name", "taken")
    assert (done.returncode, done.stdout) == (2, "heavy:\n")
    assert done.stderr == ("--name taken: there is a search of this name; go on with --resume taken or take another\n")


def test_resume_takes_the_search_as_it_was(tmp_path: Path, toy_request: ToyRequest) -> None:
    words = ["--track", "b", "--storage", str(tmp_path / "store")]
    toy_request(name="one").save()
    for more in (["--set", "training.beta=1"], ["--trials", "9"], ["--profile", "gpu"], ["--name", "two"]):
        done = run(*words, "--resume", "one", *more)
        assert done.returncode == 2
        assert done.stderr.startswith("--resume goes on with the search as it was: leave out")
    done = run(*words, "--resume", "two")
    assert done.returncode == 2
    assert done.stderr.endswith("there are: one\n")


def test_an_unknown_option_is_refused_by_the_parser() -> None:
    done = run("--track", "z")
    assert done.returncode == 2
    assert "invalid choice: 'z'" in done.stderr


@pytest.mark.parametrize("minutes", ["-1", "nan", "inf", "soon"])
def test_a_time_to_wait_that_is_none_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tune.search import parser

    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--track", "b", "--wait-minutes", minutes])
    assert ended.value.code == 2
    assert "--wait-minutes" in capsys.readouterr().err
