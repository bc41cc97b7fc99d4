"""evaluate and compare as a user types them, on toy runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from phasegpt import judging
from phasegpt.baseline import measure
from phasegpt.cli import main
from phasegpt.config_io import load_config, track_config
from phasegpt.curriculum import CurriculumError
from phasegpt.files import DamagedError
from phasegpt.parts import Workbench
from phasegpt.phase_state import PhaseAttentionError
from phasegpt.runs import run_paths
from phasegpt.texts import TextError
from tests.phasegpt.trained import Trained, train_toy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def one(storage: Path, toy_sets: list[str]) -> Trained:
    return train_toy(storage, "one", toy_sets)


@pytest.fixture(scope="module")
def two(storage: Path, toy_sets: list[str]) -> Trained:
    """The same split, another λ."""
    return train_toy(storage, "two", [*toy_sets, "training.kto_lambda=0.5"])


@pytest.fixture(scope="module")
def other_split(storage: Path, toy_sets: list[str]) -> Trained:
    return train_toy(storage, "other", [*toy_sets, "experiment.seed=43"])


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded."""
    monkeypatch.setattr(judging, "_run", lambda *_: pytest.fail("a model was run"))


def said_by(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON that a command prints."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_gives_what_the_run_itself_found(one: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = said_by(capsys, "evaluate", "--checkpoint", one.folder)
    assert {name: metric["mean"] for name, metric in found["metrics"].items()} == pytest.approx(one.result.metrics)
    assert found["answers"] == one.result.answers
    assert [row["id"] for row in found["pairs"]] == [row["id"] for row in one.result.pairs]
    assert found["metrics"]["eval_loss"]["n"] == len(one.result.pairs)
    low, high = found["metrics"]["eval_loss"]["interval"]
    assert low < found["metrics"]["eval_loss"]["mean"] < high
    assert found["metrics"]["perplexity"]["interval"] is None


def test_evaluate_prints_a_line_for_each_metric_and_progress_beside(
    one: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", one.folder, "--half", "search", "--out", str(tmp_path / "e.json")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].endswith("4 prompts of the search half")
    assert {line.split()[0] for line in lines[2:]} == set(one.result.metrics)
    assert "answers 4/4" in said.err
    assert json.loads((tmp_path / "e.json").read_text())["half"] == "search"


def test_the_untuned_model_is_the_baseline_of_a_search(
    one: Trained, toy_sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(track_config("b"), "laptop", toy_sets)
    truth = measure(config, paths=run_paths(tmp_path, "b", "base"), half="final", workbench=Workbench())
    own = str(one.paths.checkpoints / "config.yaml")
    found = said_by(capsys, "evaluate", "--checkpoint", "base", "--config", own)
    assert {name: metric["mean"] for name, metric in found["metrics"].items()} == pytest.approx(truth.summary, abs=1e-6)


def test_a_track_file_may_judge_a_checkpoint_of_another_base_model(
    one: Trained, toy_sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for text in toy_sets if not text.startswith("model.") for word in ("--set", text)]
    words = ["--checkpoint", one.folder, "--config", str(track_config("b")), "--profile", "laptop", *sets]
    found = said_by(capsys, "evaluate", *words)
    assert found["answers"] == one.result.answers


def test_compare_reads_what_both_runs_have_stored(
    one: Trained, two: Trained, nothing_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said_by(capsys, "compare", one.folder, two.folder)
    assert found["a"]["stored"] == found["b"]["stored"] == ["answers", "pairs", "perplexity"]
    assert f"{one.folder}: answers, pairs, perplexity read from the result of its run, not run again" in found["notes"]
    for name, metric in found["metrics"].items():
        assert metric["a"] == pytest.approx(one.result.metrics[name])
        assert metric["difference"] == pytest.approx(two.result.metrics[name] - one.result.metrics[name])
    assert [row["id"] for row in found["prompts"]] == [row["id"] for row in one.result.answers]


def test_stored_rows_and_a_fresh_run_say_the_same(
    one: Trained, two: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's folder whose result is gone is run again."""
    again = tmp_path / "two"
    shutil.copytree(two.paths.checkpoints, again)
    stored, fresh = (said_by(capsys, "compare", one.folder, b) for b in (two.folder, str(again)))
    assert (fresh["a"]["stored"], fresh["b"]["stored"]) == (["answers", "pairs", "perplexity"], [])
    for name, metric in stored["metrics"].items():
        assert fresh["metrics"][name]["b"] == pytest.approx(metric["b"], rel=1e-5)
    assert fresh["prompts"] == stored["prompts"]


@pytest.mark.parametrize(
    ("override", "left"),
    [
        ("training.beta=0.3", ["answers", "perplexity"]),
        ("training.max_length=100", ["answers", "perplexity"]),
        ("evaluation.max_new_tokens=5", ["pairs", "perplexity"]),
        ("evaluation.max_prompts=3", ["pairs", "perplexity"]),
        ("evaluation.fluency_tokens=50", ["answers", "pairs"]),
        ("evaluation.metrics=[eval_loss,kl_on_samples]", ["pairs"]),
    ],
)
def test_what_was_stored_on_other_terms_is_run_again(
    override: str, left: list[str], one: Trained, two: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", override, "--set", "evaluation.metric_for_best_model=eval_loss", "--set", "search=null"]
    found = said_by(capsys, "compare", one.folder, two.folder, *sets)
    assert found["a"]["stored"] == found["b"]["stored"] == left


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ("config", []),
        ("base_model", []),
        ("damaged", []),
        ("half of it", []),
        ("data", ["answers", "perplexity"]),
        ("reference_adapter", ["answers", "perplexity"]),
    ],
)
def test_of_a_result_only_what_is_still_true_is_used(
    changed: str, left: list[str], one: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "checkpoints" / "one"
    shutil.copytree(one.paths.checkpoints, storage)
    result = json.loads(one.paths.results.read_text())
    if changed == "config":
        result["config"]["training"]["beta"] = 0.7
    elif changed == "half of it":
        del result["answers"]
    elif changed != "damaged":
        result["hashes"][changed] = "another"
    target = tmp_path / "results" / "one.json"
    target.parent.mkdir()
    target.write_text("{" if changed == "damaged" else json.dumps(result))
    found = said_by(capsys, "compare", one.folder, str(storage))
    assert (found["a"]["stored"], found["b"]["stored"]) == (["answers", "pairs", "perplexity"], left)


def test_stored_answers_are_scored_by_the_present_metrics(
    one: Trained, two: Trained, nothing_runs: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phasegpt.stored.TEXT_METRICS", dict.fromkeys(("spiral_score", "subtlety"), len))
    found = said_by(capsys, "compare", one.folder, two.folder)
    assert found["prompts"]
    for row in found["prompts"]:
        assert row["scores"]["spiral_score"] == [len(row["a"]), len(row["b"])]


def test_pairs_that_one_side_was_trained_on_are_left_out(
    one: Trained, other_split: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said_by(capsys, "compare", one.folder, other_split.folder)
    ids = [{row["id"] for row in run.result.pairs} for run in (one, other_split)]
    kept = len(ids[0] & ids[1])
    assert kept < len(ids[0])
    assert f"{len(ids[0]) - kept} validation pairs are left out" in found["notes"][0]
    assert ("eval_loss" in found["metrics"]) == (kept > 0)


def test_an_adapter_without_a_config_is_judged_with_a_warning(
    one: Trained, two: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two.paths.adapter, tmp_path / "copy")
    found = said_by(capsys, "compare", one.folder, str(tmp_path / "copy"))
    assert any("may have been trained on the validation pairs" in note for note in found["notes"])
    assert found["metrics"]["eval_loss"]["b"] == pytest.approx(two.result.metrics["eval_loss"], rel=1e-5)


def test_code_that_only_a_checkpoint_names_is_never_imported(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(one.paths.checkpoints, stranger)
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    config["evaluation"]["metrics"].append("planted:score")
    (stranger / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (tmp_path / "planted.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = said_by(capsys, "evaluate", "--checkpoint", str(stranger))
    assert "planted:score" not in found["metrics"]
    assert any("planted:score left out" in note for note in found["notes"])
    assert main(["evaluate", "--checkpoint", str(stranger), "--config", str(stranger / "config.yaml")]) == 2
    assert "planted cannot be imported: RuntimeError: imported" in capsys.readouterr().err


def test_base_beside_a_checkpoint_is_its_base_model(
    one: Trained, toy_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said_by(capsys, "compare", "base", one.folder)
    named = said_by(capsys, "compare", str(toy_model_dir), one.folder)
    assert found["metrics"] == named["metrics"]
    assert found["metrics"]["kl_divergence"]["a"] == pytest.approx(0, abs=1e-5)
    assert found["metrics"]["reward_margin"]["a"] == pytest.approx(0, abs=1e-4)
    assert found["metrics"]["reward_margin"]["verdict"] == "B is better"


def test_compare_writes_a_page_and_prints_a_table(
    one: Trained, two: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "c.html"
    assert main(["compare", one.folder, two.folder, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "win rate of B" in said
    assert "reward_margin" in said
    assert one.folder in out.read_text()


def test_a_blind_comparison_keeps_its_scores_for_the_key(
    one: Trained, two: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blind.html"
    assert main(["compare", one.folder, two.folder, "--blind", "--seed", "7", "--out", str(out)]) == 0
    assert "reward_margin" not in capsys.readouterr().out
    assert one.folder not in out.read_text().partition("<details")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--checkpoint", "base"], "base: no config of a run lies there.*--config FILE"),
        (["evaluate", "--checkpoint", "/nowhere"], "/nowhere: no such checkpoint"),
        (["evaluate", "--checkpoint", "base", "--config", "absent.yaml"], "absent.yaml"),
        (["compare"], "compare: name two models, A and B, or votes .*--votes FILE.jsonl"),
        (["compare", "base"], "compare base: with what"),
        (["compare", "base", "base", "--votes", "v.jsonl"], "--votes: beside A and B it needs --blind"),
        (["compare", "base", "base", "--blind", "--port", "70000"], "--port 70000: expected a number"),
        (["compare", "--votes", "/nowhere.jsonl"], "/nowhere.jsonl: there is no such file of votes"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_wrong_override_names_its_key(one: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", one.folder, "--set", "evaluation.metrics=[spiral]"]) == 2
    assert "evaluation.metrics" in capsys.readouterr().err


@pytest.mark.parametrize("raised", [CurriculumError, TextError, PhaseAttentionError, DamagedError])
def test_whatever_stops_an_evaluation_is_one_message(
    raised: type[ValueError], one: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(*_: object, **__: object) -> None:
        raise raised("the file and the cure")

    monkeypatch.setattr(judging, "judge", stops)
    assert main(["evaluate", "--checkpoint", one.folder]) == 2
    assert capsys.readouterr().err.endswith("the file and the cure\n")


def test_half_precision_without_a_gpu_says_what_to_set(one: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "training.bf16=true", "--set", "experiment.device=cpu"]
    assert main(["evaluate", "--checkpoint", one.folder, *words]) == 2
    assert "half precision needs a GPU" in capsys.readouterr().err


def test_options_are_parsed_without_torch() -> None:
    code = (
        "import sys\n"
        "from phasegpt.cli import parser\n"
        "parser().parse_args(['compare', 'A', 'B'])\n"
        "print(sorted({'torch', 'transformers', 'mlflow', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
