"""Whole searches on the toy model as a user types them: states, records, champion, and a search that was cut.

One search goes through on a cluster that is there (a trial is stopped, one fails); a second, which starts a Ray of its
own, is interrupted and resumed.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import read_json
from phasegpt.metrics.text import scorer
from tests.processes import MARK, marked
from tests.ray_cluster import Cluster
from tests.tune.conftest import ToyRequest
from tune.study import Study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    # MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates; the warning is MLflow's to heed.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
PATIENCE = 400
RATES = (1e-3, 3e-3, 1e-9, 1e30)
"""Learning rates of the grid: the config's own, a better one, one that learns nothing, one that is too high."""


@dataclass(frozen=True)
class Place:
    """A folder for searches, and the processes that run them: every one carries `mark` in its environment."""

    folder: Path
    words: list[str]
    mark: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, MARK: self.mark, "COLUMNS": "200"}
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    def left(self) -> list[str]:
        """The command lines of processes that carry the mark."""
        return marked(self.mark)

    def results(self, name: str) -> Path:
        return self.folder / "store/results/v14/track_b" / name

    def study(self, name: str, request: Any) -> Study:
        """The study of a search that has ended."""
        journal = self.folder / "store/experiments/v14/track_b" / name / "study.journal"
        return Study(name, journal, request.config.search, request.own_values(), seed=42)

    def runs(self, name: str) -> dict[str, Any]:
        """{run key: MLflow run} of a search, its own run under its name; fails where a key has two runs."""
        client = self.client()
        experiment = client.get_experiment_by_name("phasegpt-v14")
        runs = [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags["search"] == name]
        by_key = {run.data.tags["phasegpt.run_key"].removeprefix(f"{name}/"): run for run in runs}
        assert len(by_key) == len(runs)
        return by_key


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, toy_sets: list[str]) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("searches")
    words = ["--track", "b", "--profile", "laptop", "--storage", f"{folder}/store", "--cpus-per-worker", "1"]
    words += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    words += [word for value in toy_sets for word in ("--set", value)]
    made = Place(folder, ["-m", "tune.search", *words], uuid.uuid4().hex)
    yield made
    patience = time.monotonic() + 30
    while made.left() and time.monotonic() < patience:
        time.sleep(0.5)
    assert made.left() == []


GRID = [f"search.parameters={{training.learning_rate: {{grid: {list(RATES)}}}}}", "search.sampler=grid"]
GRID += ["search.scheduler=asha", "search.finalists={count: 2, seeds: 1}"]
GRID += ["training.learning_rate=1e-3", "evaluation.eval_interval=1"]
OWN = "mine_in_a_search:letters"
GRID += [f"evaluation.metrics=[spiral_score, eval_loss, kl_divergence, kl_on_samples, '{OWN}']"]
GRID += [f"search.constraints={{'{OWN}': '>= 0 * baseline', kl_on_samples: '<= 1e9', repetition: '<= 1'}}"]


@pytest.fixture(scope="module")
def whole(place: Place, ray_cluster: Cluster) -> dict[str, Any]:
    """What `--json` printed of a search that went through."""
    (ray_cluster.modules / "mine_in_a_search.py").write_text("def letters(prompt, text):\n    return len(text)\n")
    words = [word for value in GRID for word in ("--set", value)]
    process = place.start(*place.words, *words, "--name", "whole", "--json", "--address", ray_cluster.address)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "trial-" not in err
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_object_has_the_keys_that_scripts_rely_on(whole: dict[str, Any], place: Place) -> None:
    keys = {"name", "track", "winner", "defaults", "baseline", "trials", "finalists", "champion"}
    assert keys <= whole.keys()
    assert (whole["name"], whole["track"]) == ("whole", "b")
    assert {"trial", "params", "metrics"} <= whole["winner"].keys()
    assert all({"id", "state", "params", "metrics", "steps", "seconds"} <= trial.keys() for trial in whole["trials"])
    assert all({"params", "seeds", "mean", "interval"} <= finalist.keys() for finalist in whole["finalists"])
    assert {"model", "version", "promoted", "reason"} <= whole["champion"].keys()
    assert read_json(place.results("whole.json")) == whole


def test_each_trial_ends_as_what_it_was_and_the_search_goes_on(whole: dict[str, Any]) -> None:
    trials = whole["trials"]
    assert [trial["params"]["training.learning_rate"] for trial in trials] == list(RATES)
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    own, better, stopped, failed = trials
    assert own["metrics"]["eval_loss"] > better["metrics"]["eval_loss"]
    assert (own["steps"], sorted(own["curve"])) == (4, ["1", "2", "3", "4"])
    assert (stopped["why"], max(stopped["curve"])) == ("stopped by the scheduler", "1")
    assert "nan" in failed["why"]


def test_finals_ran_on_fresh_seeds_and_the_better_rate_won(whole: dict[str, Any]) -> None:
    assert [(finalist["trial"], finalist["seeds"]) for finalist in whole["finalists"]] == [
        ("trial-001", [1042]),
        ("trial-000", [1042]),
    ]
    assert whole["winner"]["trial"] == "trial-001"
    assert whole["verdict"].startswith("better than the config's own values: +")
    assert whole["champion"] == {
        "model": "phasegpt-track-b",
        "version": "1",
        "promoted": True,
        "reason": "uncontested: the seat was empty",
    }


def test_study_results_and_mlflow_agree(whole: dict[str, Any], place: Place, toy_request: ToyRequest) -> None:
    runs, trials = place.runs("whole"), place.study("whole", toy_request(*GRID)).trials()
    for trial, told in zip(trials, whole["trials"], strict=True):
        run = runs[told["id"]]
        assert (trial.state.name, trial.params) == (told["state"], told["params"])
        assert float(run.data.params["training.learning_rate"]) == trial.params["training.learning_rate"]
        assert (run.data.tags["trial_state"], run.info.status) == {
            "COMPLETE": ("complete", "FINISHED"),
            "PRUNED": ("pruned", "KILLED"),
            "FAIL": ("failed", "FAILED"),
        }[told["state"]]
        assert run.data.tags["why"] == (told["why"] or "it ran to its end")
        if told["state"] == "COMPLETE":
            result = read_json(place.results("whole") / f"{told['id']}.json")
            assert result["metrics"] == told["metrics"] == trial.user_attrs["metrics"]
            assert {name: run.data.metrics[name] for name in result["metrics"]} == result["metrics"]
        else:
            assert not (place.results("whole") / f"{told['id']}.json").exists()


def test_one_parent_run_holds_one_child_a_job(whole: dict[str, Any], place: Place) -> None:
    runs = place.runs("whole")
    parent = runs.pop("whole")
    assert sorted(runs) == [
        "baseline-final", "baseline-search", "final-000-seed-1042", "final-001-seed-1042",
        "trial-000", "trial-001", "trial-002", "trial-003",
    ]  # fmt: skip
    assert (parent.info.status, parent.data.tags["winner"]) == ("FINISHED", whole["winner"]["trial"])
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    for run in (parent, *runs.values()):
        tags: Mapping[str, str] = run.data.tags
        assert (tags["track"], tags["search"], tags["profile"]) == ("b", "whole", "laptop")
        assert tags["data_hash"]
        assert tags["git_commit"]


def test_a_finished_trial_has_its_curve_its_answers_its_config_and_its_adapter(
    whole: dict[str, Any], place: Place
) -> None:
    client, run = place.client(), place.runs("whole")["trial-001"]
    curve = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "eval/eval_loss")}
    assert sorted(curve) == [1, 2, 3, 4]
    assert {str(step): value for step, value in curve.items()} == {
        step: values["eval_loss"] for step, values in whole["trials"][1]["curve"].items()
    }
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"answers.json", "pairs.json", "curve.json", "config", "log", "result", "adapter"}
    answers = json.loads(Path(client.download_artifacts(run.info.run_id, "answers.json")).read_text())
    assert {"id", "prompt", "answer", "spiral_score"} <= set(answers["columns"])
    assert len(answers["data"]) == 4


def test_a_trial_that_was_stopped_or_failed_has_its_config_its_log_and_what_it_left(
    whole: dict[str, Any], place: Place
) -> None:
    client, runs = place.client(), place.runs("whole")
    stopped, failed = runs["trial-002"].info.run_id, runs["trial-003"].info.run_id
    assert {file.path for file in client.list_artifacts(stopped)} == {
        "answers.json", "pairs.json", "curve.json", "config", "log"
    }  # fmt: skip
    assert next(m.step for m in client.get_metric_history(stopped, "train/loss")) == 1
    assert {file.path for file in client.list_artifacts(failed)} >= {"config", "log"}
    log = Path(client.download_artifacts(failed, "log/trial-003.log")).read_text()
    assert "trial-003 failed\nTraceback" in log


def test_every_run_says_what_it_was_given_and_what_its_process_took(whole: dict[str, Any], place: Place) -> None:
    runs = place.runs("whole")
    of_pairs, of_all = {"validation", "search"}, {"training", "validation", "search", "final"}
    for name, contexts in {
        "whole": of_all, "baseline-search": of_pairs, "trial-000": of_pairs | {"training"},
        "trial-003": of_pairs | {"training"}, "final-001-seed-1042": {"training", "validation", "final"},
    }.items():  # fmt: skip
        assert {tag.value for each in runs[name].inputs.dataset_inputs for tag in each.tags} == contexts
    for name in ("baseline-search", "trial-000", "trial-002", "final-001-seed-1042"):
        assert runs[name].data.metrics["system/process_memory_megabytes"] > 100
    assert runs["whole"].data.metrics["system/system_memory_usage_percentage"] > 0


def test_names_and_marks_tell_the_runs_of_a_search_apart(whole: dict[str, Any], place: Place) -> None:
    client = place.client()
    experiment = client.get_experiment_by_name("phasegpt-v14").experiment_id

    def asked(words: str) -> set[str]:
        return {run.info.run_name for run in client.search_runs([experiment], f"tags.search = 'whole' and {words}")}

    assert asked("tags.kind = 'trial' and tags.winner = 'true'") == {"trial-001 lr=0.003"}
    assert asked("tags.finalist = 'true'") == {"trial-000 lr=0.001", "trial-001 lr=0.003"}
    assert asked("tags.kind = 'baseline'") == {"baseline-search", "baseline-final"}
    assert asked("metrics.eval_loss < 0.69 and tags.track = 'b' and tags.kind = 'final'") == {
        "final-000-seed-1042 lr=0.001", "final-001-seed-1042 lr=0.003"
    }  # fmt: skip


def test_a_metric_of_ones_own_and_the_guards_bind_a_search_and_are_recorded(
    whole: dict[str, Any], place: Place
) -> None:
    assert whole["finalists"][0]["feasible"]
    result = read_json(place.results("whole") / "trial-001.json")
    assert result["metrics"][OWN] == pytest.approx(sum(len(row["answer"]) for row in result["answers"]) / 4)
    run = place.runs("whole")["trial-001"]
    assert {OWN, "kl_on_samples", "repetition", "ended"} <= run.data.metrics.keys()
    tags = place.client().get_model_version("phasegpt-track-b", "1").tags
    assert f"{OWN} >= 0.0 * baseline: kept at" in tags["constraints"]


def test_every_run_carries_the_version_of_the_scorer(whole: dict[str, Any], place: Place) -> None:
    found = {read_json(path)["hashes"]["scorer"] for path in place.results("whole").glob("*.json")}
    found |= {run.data.tags["scorer"] for run in place.runs("whole").values()}
    found.add(place.client().get_model_version("phasegpt-track-b", "1").tags["scorer"])
    assert found == {scorer()}


def test_a_gain_is_published_with_its_ratio_and_its_win_rate(whole: dict[str, Any], place: Place) -> None:
    over = whole["finalists"][0]["over_defaults"]
    assert 0 <= over["wins"]["low"] <= over["wins"]["rate"] <= over["wins"]["high"] <= 1
    assert f"ratio {over['ratio']:.2f}, win rate {over['wins']['rate']:.2f} [" in whole["verdict"]
    assert place.runs("whole")["whole"].data.tags["verdict"] == whole["verdict"]


LOAD = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")
print(json.dumps(model.predict(sys.argv[2:])))
"""


def test_the_champion_is_loaded_from_the_registry_and_answers(whole: dict[str, Any], place: Place) -> None:
    assert whole["champion"]["promoted"]
    process = place.start("-c", LOAD, place.uri, "Tell of the river once more.", "Tell of a clock once more.")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert [type(answer) for answer in json.loads(out.splitlines()[-1])] == [str, str]


@pytest.fixture(scope="module")
def cut_and_resumed(place: Place) -> tuple[int, str, int, str]:
    """(exit status, last words) of a search that was interrupted in its second trial, and of the command they name."""
    process = place.start(*place.words, "--set", "search.finalists={count: 2, seeds: 1}", "--name", "cut")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial-001 running"):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=PATIENCE)
    python, *command = shlex.split(words.splitlines()[-1])
    assert python == "python"
    again = place.start(*command)
    _, err = again.communicate(timeout=PATIENCE)
    return process.returncode, words, again.returncode, err


def test_an_interrupted_search_says_how_to_go_on_and_goes_on(
    cut_and_resumed: tuple[int, str, int, str], place: Place
) -> None:
    status, words, again, err = cut_and_resumed
    assert status == 130
    assert "Traceback" not in words
    assert f"python -m tune.search --track b --resume cut --storage {place.folder}/store" in words
    assert again == 0
    assert "Winner: trial-" in err
    started = [line.split()[0] for line in err.splitlines() if " running" in line]
    assert started[:2] == ["trial-001", "trial-002"]
    assert not {"baseline-search", "baseline-final", "trial-000"} & set(started)


def test_after_a_resume_every_trial_is_there_once(
    cut_and_resumed: tuple[int, str, int, str], place: Place, toy_request: ToyRequest
) -> None:
    assert cut_and_resumed[2] == 0
    trials = place.study("cut", toy_request()).trials()
    assert [(t.number, t.state.name) for t in trials] == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "COMPLETE")]
    runs = place.runs("cut")
    jobs = {path.stem for path in place.results("cut").glob("*.json")}
    assert jobs == runs.keys() - {"cut"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in trials:
        run = runs[f"trial-{trial.number:03d}"]
        assert run.data.tags["trial_state"] == "complete"
        assert run.data.metrics["eval_loss"] == trial.value
        assert [m.step for m in place.client().get_metric_history(run.info.run_id, "eval/eval_loss")] == [2, 4]


def test_a_resumed_search_asked_what_an_undisturbed_one_asks(
    cut_and_resumed: tuple[int, str, int, str], place: Place, toy_request: ToyRequest, tmp_path: Path
) -> None:
    assert cut_and_resumed[2] == 0
    request = toy_request()
    study = place.study("cut", request)
    undisturbed = Study("cut", tmp_path / "study.journal", request.config.search, request.own_values(), seed=42)
    for trial in study.trials():
        asked = undisturbed.ask()
        assert asked is not None
        assert asked.values == study.values(trial)
        undisturbed.complete(asked.number, {"eval_loss": trial.value}, {})
