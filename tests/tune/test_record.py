"""What runs hold in MLflow, asked for as people ask: by the search box, as tables, by file. One real SQLite MLflow."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import write_json
from phasegpt.mlflow_client import open_client
from phasegpt.runs import RunPaths, run_paths
from tests.mlflow_store import migrated
from tests.tune.conftest import ToyRequest
from tune.datasets import Inputs
from tune.record import curve_rows, record_end, state_tags
from tune.search_record import begin_search, end_search
from tune.spool import SPOOL, read_spool
from tune.tracking import Tracker

RESULT = {
    "metrics": {"spiral_score": 0.9, "perplexity": 30.0},
    "step": 4,
    "steps": 6,
    "answers": [{"id": "p1", "prompt": "Why?", "answer": "Because.", "spiral_score": 0.9}],
    "pairs": [{"id": "pair-1", "eval_loss": 0.5}],
    "curve": [{"step": 4, "spiral_score": 0.9}, {"step": 6, "spiral_score": 0.8}],
    "training_log": [{"step": 3, "loss": 0.6}, {"step": 4, "loss": 0.5}],
    "clock": {"memory_gb": [0.5, 0.7], "start_seconds": 1.5},
    "adapter": "somewhere",
    "config_hash": "c0",
    "hashes": {"data": "d0"},
}
FOUND: dict[str, Any] = {
    "winner": {"trial": "trial-001", "params": {"training.beta": 0.2}, "metrics": {"eval_loss": 0.5}},
    "verdict": "better",
    "objectives": {"eval_loss": "min"},
    "baseline_final": None,
    "front": None,
    "champion": None,
    "finalists": [
        {"trial": "trial-001", "seeds": [1042], "params": {"training.beta": 0.2}, "metrics": {"eval_loss": 0.5},
         "feasible": True, "p_best": 0.9, "mean": 0.5, "interval": [0.4, 0.6]},
    ],
    "trials": [
        {"id": "trial-001", "state": "COMPLETE", "why": "", "origin": "sampler", "steps": 4, "seconds": 1.0,
         "params": {"training.beta": 0.2}, "metrics": {"eval_loss": 0.5}, "curve": {"2": {"eval_loss": 0.6}}},
        {"id": "trial-002", "state": "PRUNED", "why": "lost", "origin": "sampler", "steps": 0, "seconds": 0.0,
         "params": {"training.beta": 0.3}, "metrics": {}, "curve": {"2": {"eval_loss": 0.7}}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return migrated(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def tracker(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tracker]:
    """A tracker on an experiment of the test's own."""
    made = Tracker(uri, request.node.name, tmp_path / "search" / SPOOL)
    yield made
    made.close(0.0)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return run_paths(tmp_path, "b", "s/trial-003")


def experiment_of(uri: str, request: pytest.FixtureRequest) -> Any:
    return open_client(uri).get_experiment_by_name(request.node.name)


def asked(uri: str, request: pytest.FixtureRequest, words: str) -> list[str]:
    """The names of the runs that the search box finds."""
    found = open_client(uri).search_runs([experiment_of(uri, request).experiment_id], words)
    return sorted(run.info.run_name for run in found)


def files_of(uri: str, run_id: str, folder: str | None = None) -> set[str]:
    client, found = open_client(uri), set()
    for file in client.list_artifacts(run_id, folder):
        found |= files_of(uri, run_id, file.path) if file.is_dir else {file.path}
    return found


def table_of(uri: str, run_id: str, name: str) -> list[dict[str, Any]]:
    split = json.loads(Path(open_client(uri).download_artifacts(run_id, name)).read_text())
    return [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in open_client(uri).get_metric_history(run_id, name)]


def ended(tracker: Tracker, paths: RunPaths, how: str, tags: Mapping[str, str]) -> str:
    """Record a run's end; its id."""
    tracker.run("s/trial-003", "trial-003", tags={**tags, **state_tags(how, "")})
    record_end(tracker, "s/trial-003", paths, {"training": {"beta": 0.1}}, how)
    assert tracker.flush(60) == 0
    run_id = tracker.run_id("s/trial-003")
    assert run_id is not None
    return run_id


def test_the_search_box_finds_the_good_trials_of_a_track(
    uri: str, tracker: Tracker, request: pytest.FixtureRequest
) -> None:
    for name, track, score in (("good", "b", 0.9), ("poor", "b", 0.7), ("other", "a", 0.95)):
        tracker.run(name, name, tags={"track": track})
        tracker.metrics(name, {"spiral_score": score}, 0)
    assert tracker.flush(60) == 0
    assert asked(uri, request, "metrics.spiral_score > 0.8 and tags.track = 'b'") == ["good"]


def test_a_result_is_there_as_metrics_tables_and_files(uri: str, tracker: Tracker, paths: RunPaths) -> None:
    write_json(paths.results, RESULT)
    paths.log.parent.mkdir(parents=True)
    paths.log.write_text("it went well\n")
    paths.adapter.mkdir(parents=True)
    (paths.adapter / "adapter_config.json").write_text("{}")
    (paths.checkpoints / "config.yaml").write_text("training: {beta: 0.1}\n")
    run_id = ended(tracker, paths, "complete", {})
    run = open_client(uri).get_run(run_id)
    assert (run.info.status, run.data.tags["trial_state"], run.data.tags["why"]) == (
        "FINISHED", "complete", "it ran to its end"
    )  # fmt: skip
    assert (run.data.tags["chosen_step"], run.data.tags["data_hash"]) == ("4", "d0")
    assert history(uri, run_id, "spiral_score") == [(0, 0.9)]
    assert history(uri, run_id, "clock/memory_gb") == [(0, 0.7)]
    assert history(uri, run_id, "eval/spiral_score") == [(4, 0.9), (6, 0.8)]
    assert history(uri, run_id, "train/loss") == [(3, 0.6), (4, 0.5)]
    assert table_of(uri, run_id, "answers.json") == RESULT["answers"]
    assert table_of(uri, run_id, "pairs.json") == RESULT["pairs"]
    assert table_of(uri, run_id, "curve.json")[1] == {"step": 4, "train/loss": 0.5, "eval/spiral_score": 0.9}
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert {entry["path"] for entry in shown} == {"answers.json", "pairs.json", "curve.json"}
    assert files_of(uri, run_id) == {
        "answers.json", "pairs.json", "curve.json", "adapter/adapter_config.json", "config/config.yaml",
        "log/trial-003.log", "result/trial-003.json",
    }  # fmt: skip


def test_a_run_that_was_stopped_has_what_it_left(uri: str, tracker: Tracker, paths: RunPaths) -> None:
    checkpoint = paths.checkpoints / "checkpoint-2"
    write_json(checkpoint / "trainer_state.json", {"log_history": [{"step": 2, "loss": 0.6, "epoch": 0.1}]})
    write_json(checkpoint / "complete.json", {"step": 2, "sha256": {}})
    evaluation = {"step": 2, "summary": {"spiral_score": 0.4}, "answers": RESULT["answers"], "pairs": RESULT["pairs"]}
    write_json(paths.checkpoints / "evaluations" / "step-00000002.json", evaluation)
    paths.log.parent.mkdir(parents=True)
    paths.log.write_text("stopped\n")
    run_id = ended(tracker, paths, "pruned", {})
    run = open_client(uri).get_run(run_id)
    assert run.info.status == "KILLED"
    assert "spiral_score" not in run.data.metrics, "it came to no result"
    assert history(uri, run_id, "eval/spiral_score") == [(2, 0.4)]
    assert history(uri, run_id, "train/loss") == [(2, 0.6)]
    assert table_of(uri, run_id, "answers.json") == RESULT["answers"]
    assert files_of(uri, run_id) == {
        "answers.json", "pairs.json", "curve.json", "config/config.yaml", "log/trial-003.log"
    }  # fmt: skip


def test_a_run_that_failed_before_it_began_has_its_config(uri: str, tracker: Tracker, paths: RunPaths) -> None:
    run_id = ended(tracker, paths, "failed", {})
    assert files_of(uri, run_id) == {"config/config.yaml"}
    config = Path(open_client(uri).download_artifacts(run_id, "config/config.yaml")).read_text()
    assert config == "training:\n  beta: 0.1\n"


def test_damaged_leavings_are_passed_over_with_a_warning(
    tracker: Tracker, paths: RunPaths, caplog: pytest.LogCaptureFixture
) -> None:
    (paths.checkpoints / "evaluations").mkdir(parents=True)
    (paths.checkpoints / "evaluations" / "step-00000002.json").write_text("{")
    write_json(paths.checkpoints / "checkpoint-2" / "complete.json", {"step": 2})
    ended(tracker, paths, "pruned", {})
    assert "the evaluations of a run are not recorded" in caplog.text
    assert "its steps cannot be read" in caplog.text


def test_steps_told_on_the_way_are_not_told_again_at_the_end(uri: str, tracker: Tracker, paths: RunPaths) -> None:
    write_json(paths.results, RESULT)
    tracker.run("s/trial-003", "trial-003")
    tracker.metrics("s/trial-003", {"train/loss": 0.6}, 3)
    run_id = ended(tracker, paths, "complete", {})
    assert history(uri, run_id, "train/loss") == [(3, 0.6), (4, 0.5)]


def test_a_curve_has_a_row_a_step() -> None:
    rows = curve_rows([{"step": 1, "loss": 0.6}, {"step": 2, "loss": 0.5}], [{"step": 2, "ended": 1.0}])
    assert rows == [{"step": 1, "train/loss": 0.6}, {"step": 2, "train/loss": 0.5, "eval/ended": 1.0}]


def test_the_run_of_a_search_is_given_its_data_once_and_says_what_it_is(
    uri: str, tracker: Tracker, toy_request: ToyRequest, request: pytest.FixtureRequest
) -> None:
    search = toy_request()
    search.save()
    write_json(search.places.data_checks, {})
    for _ in range(2):  # as a search that goes on does
        begin_search(search, tracker, {"track": "b"}, None)
    assert tracker.flush(60) == 0
    client, run_id = open_client(uri), tracker.run_id("toy")
    run = client.get_run(run_id)
    given = [(each.dataset.name, each.tags[0].value) for each in run.inputs.dataset_inputs]
    assert sorted(given) == [
        ("pairs", "training"), ("pairs", "validation"), ("prompts", "final"), ("prompts", "search"), ("prose", "prose")
    ]  # fmt: skip
    assert "Under way." in run.data.tags["mlflow.note.content"]
    assert files_of(uri, str(run_id)) == {"config/config.yaml", "config/request.json", "data/data_checks.json"}
    assert asked(uri, request, "dataset.name = 'pairs' and dataset.context = 'training'") == ["toy"]
    digest = next(each.dataset.digest for each in run.inputs.dataset_inputs if each.tags[0].value == "training")
    assert asked(uri, request, f"dataset.digest = '{digest}'") == ["toy"]


def test_the_trials_of_a_search_are_a_saved_view_of_the_runs_table(
    uri: str, tracker: Tracker, toy_request: ToyRequest, request: pytest.FixtureRequest
) -> None:
    search = toy_request()
    search.save()
    write_json(search.places.data_checks, {})
    begin_search(search, tracker, {}, None)
    assert tracker.flush(60) == 0
    view = json.loads(experiment_of(uri, request).tags["mlflow.sharedViewState.toy"])
    assert view["name"] == "toy: trials"
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`eval_loss`", True)
    assert {"params.`training.beta`", "metrics.`eval_loss`", "tags.`winner`"} <= set(state["selectedColumns"])
    assert asked(uri, request, state["searchFilter"]) == []


def test_the_end_of_a_search_marks_its_trials_and_describes_it(
    uri: str, tracker: Tracker, toy_request: ToyRequest, request: pytest.FixtureRequest
) -> None:
    for key in ("toy", "toy/trial-000", "toy/trial-001", "toy/final-001-seed-1042"):
        tracker.run(key, key)
    end_search(toy_request(), tracker, FOUND, None)
    assert tracker.flush(60) == 0
    assert asked(uri, request, "tags.winner = 'true'") == ["toy/final-001-seed-1042", "toy/trial-001"]
    assert asked(uri, request, "tags.finalist = 'true'") == ["toy/trial-001"]
    run_id = str(tracker.run_id("toy"))
    run = open_client(uri).get_run(run_id)
    assert run.data.metrics == {"eval_loss": 0.5, "winner/eval_loss": 0.5}
    assert "**Winner: trial-001**" in run.data.tags["mlflow.note.content"]
    trial, stopped = table_of(uri, run_id, "trials.json")
    assert (trial["id"], trial["training.beta"], trial["eval_loss"], trial["steps"]) == ("trial-001", 0.2, 0.5, 4)
    assert (stopped["state"], stopped["eval_loss"], stopped["steps"], stopped["why"]) == ("PRUNED", None, 2, "lost")
    [finalist] = table_of(uri, run_id, "finalists.json")
    assert (finalist["mean_low"], finalist["mean_high"], finalist["p_best"]) == (0.4, 0.6, 0.9)


def test_inputs_told_again_after_a_doubt_are_there_once(
    uri: str, tmp_path: Path, toy_request: ToyRequest, request: pytest.FixtureRequest
) -> None:
    spool = tmp_path / "doubt" / SPOOL
    inputs = Inputs().of(toy_request().config.dump(), ("search",), trains=True)
    for _ in range(2):
        tracker = Tracker(uri, request.node.name, spool)
        tracker.run("s", "s")
        tracker.datasets("s", inputs)
        assert tracker.close(60) == 0
        spool.with_name(f"{SPOOL}.sent").unlink()  # nobody knows what arrived
    assert len([event for event in read_spool(spool) if event["kind"] == "datasets"]) == 2
    assert Tracker(uri, request.node.name, spool).close(60) == 0
    [run] = open_client(uri).search_runs([experiment_of(uri, request).experiment_id])
    assert len(run.inputs.dataset_inputs) == len(inputs) == 4
