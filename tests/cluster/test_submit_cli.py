"""The command lines as processes, without a cluster: help, mistakes, and a plan; nothing is sent."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "mlflow", "transformers")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a machine on which no cluster was started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "PHASEGPT_CACHE": str(tmp_path / "cache"), "COLUMNS": "120", "PYTHONPATH": str(ROOT)}


def run(module: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m cluster.MODULE` with `words`; the last line of stdout names the heavy packages that it imported."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', *[name for name in {HEAVY} if name in sys.modules]))\n"
        f"from cluster.{module} import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=120)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("module", "words", "example"),
    [
        ("submit", ["--help"], "python -m cluster.submit --track b --profile laptop --trials 4"),
        ("submit", ["list", "--help"], "the cluster's dashboard"),
        ("submit", ["logs", "--help"], "--follow"),
        ("local", ["--help"], "python -m cluster.local start --nodes 3"),
        ("local", ["start", "--help"], "--nodes"),
    ],
)
def test_help_is_quick_and_shows_commands_to_copy(
    module: str, words: list[str], example: str, environment: dict[str, str]
) -> None:
    before = processor_seconds()
    done = run(module, environment, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert example in done.stdout
    assert done.stdout.endswith("heavy:\n")
    assert processor_seconds() - before < 1


FAR = ["--track", "b", "--address", "http://127.0.0.1:9", "--storage", "/shared", "--tracking-uri", "http://m:5000"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--track", "b"], "no cluster is named and none was started here; give --address"),
        ([*FAR, "--address", "head:6379"], "--address head:6379: jobs are sent to a cluster's dashboard"),
        (FAR, "no Ray cluster answers at http://127.0.0.1:9"),
        ([*FAR, "--storage", "results"], "--storage results is relative, and a job's folder is temporary"),
        ([*FAR, "--tracking-uri", "sqlite:///mlflow.db"], "is no server that a job can reach; give --tracking-uri"),
        ([*FAR, "--tracking-uri", "http://me:pw@m"], "holds a user and a password, which everybody"),
        ([*FAR, "--set", "training.learnin_rate=1"], "no such key; did you mean learning_rate?"),
        ([*FAR, "--trials", "0"], "--trials: search.trials: expected a number >= 1, found 0"),
        ([*FAR, "--cpus-per-worker", "0"], "--cpus-per-worker 0: expected a number above 0"),
        ([*FAR, "--name", "../x"], "--name '../x': expected letters"),
        ([*FAR, "--config", "missing.yaml"], "missing.yaml"),
        ([*FAR, "--pip", "missing.txt"], "no Ray cluster answers"),
        ([*FAR, "--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: not set here"),
        ([*FAR, "--track", "all", "--config", "x.yaml"], "--track all takes each track's own file"),
        (["status", "x"], "no cluster is named and none was started here"),
        (["stop", "x", "--address", "http://127.0.0.1:9"], "no Ray cluster answers at http://127.0.0.1:9"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(
    words: list[str], message: str, environment: dict[str, str]
) -> None:
    done = run("submit", environment, *words)
    assert (done.returncode, done.stdout) == (2, "heavy:\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line
    assert "me:pw" not in line


def test_several_mistakes_of_places_are_told_at_once(environment: dict[str, str]) -> None:
    done = run("submit", environment, "--track", "b", "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "--storage is missing", "no MLflow server is named"
    ]  # fmt: skip


def test_a_search_to_resume_that_lies_elsewhere_is_left_to_the_job(environment: dict[str, str]) -> None:
    done = run("submit", environment, *FAR, "--resume", "b-1")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == "/shared is not mounted here: the job itself looks for the search b-1"
    assert "no Ray cluster answers" in second


def test_a_plan_is_made_here_and_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    done = run("submit", environment, "--track", "b", "--profile", "laptop", "--trials", "5", "--plan",
               "--storage", str(tmp_path), "--address", "http://127.0.0.1:9")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("This plan speaks of this machine, not of the cluster")
    assert "Nothing was started." in done.stdout
    assert done.stdout.endswith("heavy:\n")


def test_without_a_cluster_status_says_how_to_start_one_and_stop_has_nothing_to_do(environment: dict[str, str]) -> None:
    status = run("local", environment, "status")
    assert (status.returncode, status.stderr) == (
        2, "no cluster runs here; start one: python -m cluster.local start\n"
    )  # fmt: skip
    stop = run("local", environment, "stop")
    assert (stop.returncode, stop.stdout) == (0, "no cluster was started here; nothing to end\nheavy:\n")


def test_an_address_of_another_machine_is_refused_and_nothing_is_left(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run("local", environment, "start", "--host", "192.0.2.77", "--open-mlflow")
    assert done.returncode == 2
    assert done.stderr.startswith("--host 192.0.2.77: expected an address of this machine")
    assert [path.name for path in (tmp_path / "cache" / "cluster").iterdir()] == ["start.lock"]


def test_an_address_that_others_reach_needs_a_word_about_mlflow(environment: dict[str, str]) -> None:
    done = run("local", environment, "start", "--host", "0.0.0.0")  # noqa: S104 - what is refused
    assert (done.returncode, done.stdout) == (2, "heavy:\n")
    assert done.stderr == (
        "--host 0.0.0.0: others can reach it there, and MLflow asks nobody for anything; add --open-mlflow to let "
        "all of them read, change and delete runs, or leave --host out and come through a tunnel\n"
    )


@pytest.mark.parametrize("words", [["--nodes", "0"], ["--cpus", "-1"]])
def test_a_cluster_needs_nodes_and_cpus(words: list[str], environment: dict[str, str]) -> None:
    done = run("local", environment, "start", *words)
    assert (done.returncode, done.stderr) == (2, f"{words[0]} {words[1]}: expected a number of at least 1\n")
