"""What W&B gets: real offline runs, read back from their files and held against MLflow; and a W&B that fails."""

import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from phasegpt.mlflow_client import open_client
from tests.mlflow_store import migrated
from tune import wandb_sink
from tune.spool import SPOOL, TrackingError
from tune.tracking import Tracker, flat_params
from tune.wandb_sink import asks_for_wandb, labels, nested, require_wandb

psutil = pytest.importorskip("psutil")
pytest.importorskip("wandb", reason='needs pip install "phasegpt-tune[wandb]"')

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef" * 3
ASKED = {"use_wandb": True, "wandb_project": "shelf", "wandb_run_name": None}
CONFIG: dict[str, Any] = {"training": {"beta": 0.1, "learning_rate": 5e-5, "method": "dpo"}, "logging": ASKED}
PARAMS = flat_params(CONFIG)

slow = pytest.mark.slow
"""A whole run and a whole search: above the five seconds of a test by default."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Offline with a key in the environment; afterwards the environment is as it was and no service process is left."""
    for name in filter(is_of_wandb, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    yield
    assert list(filter(is_of_wandb, os.environ)) == ["WANDB_MODE", "WANDB_API_KEY"]
    assert [child for child in psutil.Process().children() if child.name() == "wandb-core"] == []


def is_of_wandb(name: str) -> bool:
    return name.startswith("WANDB_")


# --- reading W&B's files ---------------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while len(data) - at >= 7:
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


@dataclass
class Sent:
    """One W&B run as its file has it."""

    project: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    exit_code: int | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def take(self, record: Any) -> None:
        if record.HasField("run"):
            run = record.run
            self.project, self.name, self.tags = run.project, run.display_name, list(run.tags)
            self.group, self.job_type = run.run_group, run.job_type
            self._lay(self.config, run.config.update)
        elif record.HasField("config"):
            self._lay(self.config, record.config.update)
        elif record.HasField("summary"):
            self._lay(self.summary, record.summary.update)
        elif record.HasField("history"):
            row: dict[str, Any] = {}
            self._lay(row, record.history.item)
            self.rows.append({name: value for name, value in row.items() if not name.startswith("_")})
        elif record.HasField("exit"):
            self.exit_code = record.exit.exit_code

    @staticmethod
    def _lay(on: dict[str, Any], items: Any) -> None:
        for item in items:
            on[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def history(self, metric: str) -> list[tuple[int, float]]:
        return [(row["step"], row[metric]) for row in self.rows if metric in row]


def parts(folder: Path) -> list[Path]:
    """The .wandb files in a folder, oldest first: one for each time that a run was begun or gone on with."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime_ns)


def read(path: Path) -> Sent:
    run = Sent()
    for record in records(path):
        run.take(record)
    return run


def sent(folder: Path) -> dict[str, Sent]:
    """{name: what was sent of it}, of the runs in a folder."""
    return {run.name: run for run in map(read, parts(folder))}


def mlflow_runs(uri: str, experiment: str) -> dict[str, Any]:
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def assert_same_numbers(uri: str, ours: Sent, run: Any) -> None:
    """Every metric's steps and values, and the summary, are those of the MLflow run."""
    client = open_client(uri)
    names = {name for row in ours.rows for name in row} - {"step"}
    assert names == set(run.data.metrics)
    for name in names:
        theirs = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert sorted(ours.history(name)) == sorted(theirs)
    assert {name: ours.summary[name] for name in names} == run.data.metrics


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return migrated(tmp_path_factory.mktemp("mlflow"))


def a_small_search(tracker: Tracker) -> None:
    tags = {"search": "s", "track": "b"}
    tracker.run("s", "s", tags={**tags, "kind": "search"}, params=PARAMS)
    for name in ("trial-000", "trial-001"):
        tracker.run(f"s/{name}", name, parent="s", tags={**tags, "kind": "trial", "state": "running"}, params=PARAMS)
    for step in (2, 4):
        for trial in (0, 1):
            tracker.metrics(f"s/trial-00{trial}", {"eval/loss": 0.1 / (step + trial), "odd": float("nan")}, step)
    for step in (1, 2, 3, 4):  # a job's own log comes at its end, after its evaluations
        tracker.metrics("s/trial-000", {"train/loss": 1 / 3 / step}, step)
    tracker.metrics("s/trial-000", {"eval/loss": 0.7}, 3)
    for name, status in (("trial-000", "FINISHED"), ("trial-001", "FAILED")):
        tracker.tags(f"s/{name}", {"state": "ended", "why": "x" * 100})
        tracker.finish(f"s/{name}", status)  # type: ignore[arg-type]
    tracker.finish("s")


def test_a_search_arrives_in_wandb_with_the_numbers_that_mlflow_has(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, "same", tmp_path / SPOOL)
    a_small_search(tracker)
    assert tracker.close() == 0
    ours, theirs = sent(tmp_path), mlflow_runs(uri, "same")
    assert set(ours) == set(theirs) == {"s", "trial-000", "trial-001"}
    for name in ("trial-000", "trial-001"):
        assert_same_numbers(uri, ours[name], theirs[name])
        assert ours[name].config["tags"].items() <= theirs[name].data.tags.items()
    first, second = ours["trial-000"], ours["trial-001"]
    assert (first.project, first.group, first.job_type, ours["s"].group) == ("shelf", "s", "trial", "s")
    assert first.config["training"] == CONFIG["training"]
    assert first.history("train/loss") == [(step, 1 / 3 / step) for step in (1, 2, 3, 4)]
    assert first.summary["eval/loss"] == 0.1 / 4
    assert first.tags == ["search:s", "track:b", "kind:trial", "state:ended", "not_finite.odd:nan at step 4"]
    assert (first.exit_code, second.exit_code) == (0, 1)
    assert (first.summary["status"], second.summary["status"]) == ("FINISHED", "FAILED")


def test_machine_data_and_what_only_mlflow_reads_stay_in_mlflow(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, "own", tmp_path / SPOOL)
    tracker.run("s", "s", tags={"track": "b", "mlflow.note.content": "begun"}, params=PARAMS)
    tracker.tags("s", {"mlflow.note.content": "ended"})
    tracker.metrics("s", {"system/cpu_utilization_percentage": 50.0}, 1)
    tracker.metrics("s", {"loss": 1.0, "system/cpu_utilization_percentage": 60.0}, 2)
    tracker.finish("s")
    assert tracker.close(120) == 0
    ours, theirs = sent(tmp_path)["s"], mlflow_runs(uri, "own")["s"]
    assert ours.rows == [{"loss": 1.0, "step": 2}]
    assert ours.config["tags"] == {"track": "b"}
    assert theirs.data.tags["mlflow.note.content"] == "ended"
    assert theirs.data.metrics == {"loss": 1.0, "system/cpu_utilization_percentage": 60.0}


def test_only_runs_that_ask_go_to_wandb(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tune.wandb_sink import WandbSink, require_wandb\n"
        "require_wandb()\nsink = WandbSink(Path(sys.argv[1]))\n"
        "sink.run('r', 'r', None, {}, {'logging.use_wandb': 'false'})\n"
        "sink.metrics('r', {'loss': 1.0}, 1)\nsink.finish('r', 'FINISHED')\nsink.close()\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_run_name_of_the_config_is_that_of_the_run_on_top(tmp_path: Path) -> None:
    params = flat_params({"logging": {**ASKED, "wandb_run_name": "mine"}})
    sink = wandb_sink.WandbSink(tmp_path)
    sink.run("top", "top", None, {}, params)
    sink.run("top/below", "below", "top", {}, params)
    sink.close()
    assert set(sent(tmp_path)) == {"mine", "below"}


def test_a_search_that_goes_on_goes_on_with_the_same_runs(tmp_path: Path) -> None:
    for _ in range(2):
        sink = wandb_sink.WandbSink(tmp_path)
        sink.run("s", "s", None, {}, PARAMS)
        sink.close()
    names = [path.name for path in parts(tmp_path)]
    assert len(names) == 2
    assert len(set(names)) == 1


def test_what_comes_after_the_end_of_a_run_is_left_out_and_a_run_can_be_opened_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = wandb_sink.WandbSink(tmp_path)
    for value in (1.0, 2.0):
        sink.run("r", "r", None, {}, PARAMS)
        sink.run("r", "r", None, {"twice": "yes"}, PARAMS)
        sink.metrics("r", {"loss": value}, 1)
        sink.finish("r", "FINISHED")
        sink.finish("r", "FINISHED")
        sink.metrics("r", {"loss": 3.0}, 2)
    sink.close()
    assert warned(caplog) == []
    found = [run for path in parts(tmp_path) if (run := read(path)).tags == ["twice:yes"]]
    assert [run.history("loss") for run in found] == [[(1, 1.0)], [(1, 2.0)]]


def test_params_are_nested_and_typed_for_wandb() -> None:
    config = {"a": {"b": 5e-5, "c": ["x", 1]}, "d": None, "e": True, "f": "text", "g": {}}
    assert nested(flat_params(config)) == config
    assert asks_for_wandb(PARAMS)
    assert not asks_for_wandb({})


def test_tags_that_wandb_would_refuse_stay_out_of_its_tags() -> None:
    assert labels({"a": "b", "long": "x" * 59, "longer": "x" * 60}) == ["a:b", "long:" + "x" * 59]


# --- what must not happen --------------------------------------------------------------------------------------------


def test_no_key_address_or_command_line_is_in_what_wandb_writes(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune.search", "--tracking-uri", "http://someone:swordfish@host"])
    tracker = Tracker(uri, "secrets", tmp_path / SPOOL)
    tracker.run("s", "s", tags={"address": "http://someone:swordfish@host"}, params=PARAMS)
    tracker.close()
    files = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if SECRET.encode() in (d := path.read_bytes()) or b"swordfish" in d] == []


A_RUN = """
import os, signal, sys, time
from pathlib import Path
import psutil
from tune import wandb_sink

def services():
    return [child for child in psutil.Process().children() if child.name() == "wandb-core"]

folder, how = Path(sys.argv[1]), sys.argv[2]
sink = wandb_sink.WandbSink(folder / "here")
params = {"logging.use_wandb": "true", "logging.wandb_project": "p", "logging.wandb_run_name": "null"}
sink.run("r", "r", None, {"kind": "run"}, params)
if how != "well":
    wandb_sink.CLOSE_SECONDS = 0.5
    while not list(folder.rglob("*.wandb")):
        time.sleep(0.05)
    (service,) = services()
    (folder / "service").write_text(str(service.pid))
    os.kill(os.getpid(), signal.SIGKILL) if how == "driver" else getattr(service, how)()
sink.metrics("r", {"loss": 1.0}, 1)
sink.finish("r", "FINISHED")
sink.close()
sys.exit(len(services()))
"""
"""A run in a process of its own. Arguments: a folder, and what happens to its service, to itself ("driver"), or "well".

The exit status is how many service processes are left.
"""


def in_a_process(folder: Path, how: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **environment}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        variables.pop(name, None)
    command = [sys.executable, "-c", A_RUN, str(folder), how]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=60)


def test_nothing_is_written_outside_the_folder_that_is_named(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    done = in_a_process(tmp_path, "well", cwd=home, HOME=str(home), TMPDIR=str(temporary))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (list(home.iterdir()), list(temporary.iterdir())) == ([], [])
    assert sent(tmp_path / "here")["r"].history("loss") == [(1, 1.0)]


def test_a_driver_that_is_killed_leaves_no_service_process(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, "driver", cwd=tmp_path).returncode == -signal.SIGKILL
    service, patience = int((tmp_path / "service").read_text()), time.monotonic() + 20
    while runs(service) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not runs(service)


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == wandb_sink.log.name and r.levelno >= logging.WARNING]


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if W&B were not installed."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)


def test_a_missing_package_is_an_error_at_the_start_that_names_the_cure(
    no_package: None, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match=r'pip install "phasegpt-tune\[wandb\]"'):
        require_wandb()
    tracker = Tracker(uri, "missing", tmp_path / SPOOL)
    with pytest.raises(TrackingError, match="use_wandb"):
        tracker.run("s", "s", params=PARAMS)
    assert tracker.close() == 0


@pytest.mark.parametrize("how", ["no key", "nobody answers"])
def test_a_wandb_that_cannot_be_reached_is_one_warning_and_mlflow_has_everything(
    how: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_sink, "CALL_SECONDS", 0.5)
    with monkeypatch.context() as patch:
        patch.setenv("NETRC", str(tmp_path / "none"))
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        if how == "no key":
            patch.delenv("WANDB_API_KEY")
        tracker = Tracker(uri, how, tmp_path / SPOOL)
        a_small_search(tracker)
        assert tracker.close() == 0
    (warning,) = warned(caplog)
    assert "MLflow keeps the record" in warning
    assert SECRET not in caplog.text
    assert set(mlflow_runs(uri, how)) == {"s", "trial-000", "trial-001"}


@pytest.mark.parametrize("how", ["kill", "suspend"])
def test_a_service_that_dies_or_hangs_is_one_warning_and_is_gone_at_the_end(how: str, tmp_path: Path) -> None:
    done = in_a_process(tmp_path, how, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    (warning,) = done.stderr.splitlines()
    assert "MLflow keeps the record" in warning


# --- the commands ----------------------------------------------------------------------------------------------------


@slow
def test_train_py_sends_its_run(toy_sets: list[str], tmp_path: Path, uri: str) -> None:
    from phasegpt.config_io import track_config
    from train import main

    sets = [*toy_sets, "training.max_steps=2", "logging.use_wandb=true", "logging.wandb_project=commands"]
    words = ["--config", str(track_config("b")), "--profile", "laptop", "--name", "one", "--storage", str(tmp_path)]
    words += [word for text in sets for word in ("--set", text)]
    assert main([*words, "--tracking-uri", uri]) == 0
    (run,) = sent(tmp_path / "experiments/v14/track_b/one").values()
    assert (run.project, run.name, run.group, run.job_type) == ("commands", "one", "", "run")
    assert run.config["training"]["max_steps"] == 2
    assert [step for step, _ in run.history("train/loss")] == [1, 2]
    assert_same_numbers(uri, run, mlflow_runs(uri, "commands")["one"])


def test_train_py_says_at_the_start_that_the_package_is_missing(
    no_package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from phasegpt.config_io import track_config
    from train import main

    words = ["--profile", "laptop", "--storage", str(tmp_path), "--set", "logging.use_wandb=true"]
    assert main(["--config", str(track_config("a")), *words]) == 2
    assert 'pip install "phasegpt-tune[wandb]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@slow
@pytest.mark.ray
def test_a_search_sends_itself_and_its_jobs(tmp_path: Path, toy_sets: list[str]) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    sets = [*toy_sets, "logging.use_wandb=true", "search.trials=1", "search.finalists={count: 1, seeds: 1}"]
    words = [
        "--track",
        "b",
        "--profile",
        "laptop",
        "--name",
        "s",
        "--storage",
        str(tmp_path),
        "--tracking-uri",
        address,
    ]
    words += [word for text in sets for word in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-m", "tune.search", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stderr
    ours, theirs = sent(tmp_path / "experiments/v14/track_b/s"), mlflow_runs(address, "phasegpt-v14")
    assert set(ours) == set(theirs) >= {"s", "trial-000", "baseline-search", "baseline-final"}
    assert {run.group for run in ours.values()} == {"s"}
    for name, run in ours.items():
        assert_same_numbers(address, run, theirs[name])
