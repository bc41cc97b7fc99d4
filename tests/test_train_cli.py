"""python train.py: the seed's own command, on the toy model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phasegpt.config_io import track_config
from tests.mlflow_store import migrated
from train import main, parser, track_of

ROOT = Path(__file__).parents[1]


def test_the_seeds_command_writes_the_seeds_places_and_an_mlflow_run(
    toy_sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sets = [word for text in toy_sets for word in ("--set", text)]
    words = ["--config", str(track_config("b")), "--kto_lambda", "0.05", "--profile", "laptop", "--name", "one", *sets]
    assert main([*words, "--storage", str(tmp_path), "--tracking-uri", uri]) == 0
    result = json.loads((tmp_path / "results/v14/track_b/one.json").read_text())
    assert result["config"]["training"]["kto_lambda"] == 0.05
    assert (tmp_path / "experiments/v14/track_b/one.log").stat().st_size > 0
    assert (tmp_path / "checkpoints/v14/track_b/one/adapter_model/adapter_model.safetensors").is_file()
    assert "eval_loss" in capsys.readouterr().out
    (run,) = MlflowClient(uri).search_runs([e.experiment_id for e in MlflowClient(uri).search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.kto_lambda"] == "0.05"
    assert run.data.metrics["eval_loss"] == pytest.approx(result["metrics"]["eval_loss"])


def test_a_single_run_is_recorded_as_a_trial_is_and_once(toy_sets: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = migrated(tmp_path)
    sets = [word for text in toy_sets for word in ("--set", text)]
    words = ["--config", str(track_config("b")), "--profile", "laptop", "--name", "one", *sets]
    for _ in range(2):  # the second time it is read back
        assert main([*words, "--storage", str(tmp_path), "--tracking-uri", uri]) == 0
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("phasegpt-v14").experiment_id])

    def steps(metric: str) -> list[int]:
        return [m.step for m in client.get_metric_history(run.info.run_id, metric)]

    assert (steps("train/loss"), steps("eval/eval_loss"), steps("eval_loss")) == ([1, 2, 3, 4], [2, 4], [0])
    assert (run.info.status, run.data.tags["trial_state"]) == ("FINISHED", "complete")
    assert run.data.metrics["system/system_memory_usage_percentage"] > 0
    given = {tag.value for each in run.inputs.dataset_inputs for tag in each.tags}
    assert given == {"training", "validation", "search", "prose"}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "answers.json", "pairs.json", "curve.json", "config", "log", "result", "adapter"
    }  # fmt: skip


def test_a_single_run_that_fails_says_why_and_keeps_its_log(toy_sets: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = migrated(tmp_path)
    sets = [word for text in toy_sets for word in ("--set", text)]
    words = ["--config", str(track_config("b")), "--profile", "laptop", "--name", "one", "--lr", "1e30", *sets]
    assert main([*words, "--storage", str(tmp_path), "--tracking-uri", uri]) == 3
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("phasegpt-v14").experiment_id])
    assert (run.info.status, run.data.tags["trial_state"]) == ("FAILED", "failed")
    assert "lower training.learning_rate" in run.data.tags["why"]
    log = Path(client.download_artifacts(run.info.run_id, "log/one.log")).read_text()
    assert "the run failed\nTraceback" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kto_lambda", "0.05"], "unused with method dpo"),
        (["--lr", "fast"], "training.learning_rate"),
        (["--set", "training.bta=1"], "beta"),
        (["--storage", "s3://bucket/runs"], "a single run writes to a folder"),
    ],
)
def test_a_mistake_is_one_clear_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(track_config("a")), "--profile", "laptop", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_lambda_and_kto_lambda_are_the_same_option() -> None:
    for word in ("--lambda", "--kto_lambda"):
        assert parser().parse_args(["--config", "x", word, "0.05"]).kto_lambda == "0.05"


def test_a_run_belongs_to_its_track() -> None:
    from phasegpt.config_io import load_config

    assert [track_of(load_config(track_config(track))) for track in "abc"] == ["a", "b", "c"]


def test_help_says_where_mlflow_is_looked_for() -> None:
    from phasegpt.cli import parser as commands

    told = "MLflow (default: $MLFLOW_TRACKING_URI, else mlflow.db in the project)"
    [of_generate] = [a for a in commands()._actions if a.choices]
    for one in (parser(), *(of_generate.choices[name] for name in ("generate", "evaluate", "compare"))):
        assert [action.help for action in one._actions if action.dest == "tracking_uri"] == [told]


def test_help_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, train\n"
        "try:\n    train.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'mlflow')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
