"""`python -m phasegpt data`: exit status, what scripts read, and how quick a mistake is answered."""

import hashlib
import json
import os
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from phasegpt.cli import main
from tests.toy import toy_pairs, write_jsonl

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "preferences_v14_100pairs.jsonl"
PATIENCE = 120
"""Seconds; the machine may be busy. What must be quick is measured in processor time."""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m phasegpt` with `words`; the last line of stdout says whether torch was imported."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch:', 'torch' in sys.modules))\n"
        "from phasegpt.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=PATIENCE
    )


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_no_torch() -> None:
    before = processor_seconds()
    done = run("data", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("torch: False\n")
    assert processor_seconds() - before < 1


def test_a_good_file_ends_with_0_and_no_finding_without_torch() -> None:
    done = run("data", "validate", str(SHIPPED))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("note: tokens are counted by ")
    assert lines[1:] == ["108 rows, 0 errors, 0 warnings", "torch: False"]


def test_errors_end_with_2_and_are_all_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Why?"}\nnonsense\n')
    assert main(["data", "validate", str(path)]) == 2
    assert capsys.readouterr().out.splitlines() == [
        f"error missing_field: {path}:1: the field chosen is missing",
        f"error missing_field: {path}:1: the field rejected is missing",
        f"error not_json: {path}:2: not JSON: Expecting value: line 1 column 1 (char 0)",
        "2 rows, 3 errors, 0 warnings",
    ]


def test_json_has_rows_errors_and_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = toy_pairs(4)
    rows[1]["chosen"] = " "
    rows[3] |= {"prompt": rows[0]["prompt"]}
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert main(["data", "validate", str(path), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 4
    assert found["errors"] == [{"line": 2, "code": "empty_text", "message": "chosen: expected text, found none"}]
    by_code = {finding["code"]: finding for finding in found["warnings"]}
    same = {"line": 4, "code": "duplicate_prompt", "message": "the same prompt as in line 1"}
    assert by_code["duplicate_prompt"] == same
    assert by_code["strata_unbalanced"]["line"] is None


def test_warnings_alone_end_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", toy_pairs(2))
    assert main(["data", "validate", str(path)]) == 0
    assert "warning strata_unbalanced" in capsys.readouterr().out


def test_a_config_says_which_domains_and_strata_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [toy_pairs(1)[0] | {"domain": "law"}])
    config = tmp_path / "track.yaml"
    config.write_text(
        "model: {base_model: no/such/model}\n"
        f"training: {{method: dpo, preference_dataset: {path}, max_length: 20, max_prompt_length: 10}}\n"
        "data: {domains: [law], stratify_by: [domain]}\n"
        "evaluation: {held_out_domains: []}\n"
    )
    assert main(["data", "validate", str(path)]) == 2
    assert "domain: expected one of philosophy, science, social, artistic, found 'law'" in capsys.readouterr().out
    assert main(["data", "validate", str(path), "--config", str(config)]) == 0
    assert "with its longest answer" in capsys.readouterr().out
    assert main(["data", "stats", str(path), "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err


def test_stats_of_the_shipped_pairs_are_those_of_the_datasheet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(SHIPPED), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["prompts"]) == (108, 108)
    assert set(found["strata"]["domain"].values()) == {27}
    assert found["words"]["chosen"] == {"mean": 119.1, "least": 67, "most": 149}
    assert found["length_auc"] == pytest.approx(0.52, abs=0.005)
    assert set(found["marker_auc"]) == {"all", "explicit", "moderate", "implicit"}
    assert main(["data", "stats", str(SHIPPED)]) == 0
    text = capsys.readouterr().out
    assert "rows     108, of 108 prompts" in text
    assert "length alone tells chosen from rejected with an AUC of 0.52" in text


def test_stats_of_a_file_with_errors_are_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("nonsense\n")
    assert main(["data", "stats", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{path}:1: not JSON")


def test_answers_of_which_none_can_be_coupled_leave_no_file_behind(
    toy_model_dir: Path, toy_pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer to the prompt, of one token."""
    out = tmp_path / "own.jsonl"
    words = ["--model", str(toy_model_dir), "--pairs", str(toy_pairs_file), "--out", str(out), "--processes", "1"]
    draws = ["--limit", "1", "--samples", "1", "--max-new-tokens", "1"]
    monkeypatch.setattr(sys, "argv", ["make_own_pairs.py", *words, *draws])
    own = runpy.run_path(str(ROOT / "data" / "make_own_pairs.py"))
    with pytest.raises(SystemExit, match=r"no two answers .* nothing was written; draw more .* --samples 1"):
        own["main"]()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """make_own_pairs.py with its arguments, and without a model: an answer is good or bad by its number."""

    def made(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["make_own_pairs.py", *words])
        own = runpy.run_path(str(ROOT / "data" / "make_own_pairs.py"))
        asked: list[str] = []

        def drawn(_: Any, prompts: Sequence[str]) -> list[list[str]]:
            asked.extend(prompts)
            return [[f"{word} answer to {prompt}" for word in ("Good", "Bad")] for prompt in prompts]

        names = own["main"].__globals__
        names["drawn_answers"] = drawn
        names["scored"] = lambda texts, _: {text: 0.9 if text.startswith("Good") else 0.1 for text in texts}
        return {**own, "asked": asked}

    return made


def test_own_pairs_are_made_of_all_prompts_but_those_held_out(
    own_pairs: Callable[..., dict[str, Any]], toy_pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "own.jsonl"
    own = own_pairs("--pairs", str(toy_pairs_file), "--out", str(out))
    own["main"]()
    rows = [json.loads(line) for line in toy_pairs_file.read_text().splitlines()]
    assert {row["domain"] for row in rows} > {"artistic"}
    assert own["asked"] == [row["prompt"] for row in rows if row["domain"] != "artistic"]
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["prompt"], row["chosen"][:4], row["rejected"][:3]) for row in made] == [
        (prompt, "Good", "Bad") for prompt in own["asked"]
    ]
    said = json.loads(out.with_suffix(".json").read_text())
    assert (said["rows"], said["prompts_of"], said["samples"]) == (len(made), toy_pairs_file.name, 16)
    assert said["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert said["mean"]["score_chosen"] == pytest.approx(0.9)


def test_own_pairs_are_not_written_over_by_how_they_were_made(
    own_pairs: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        own_pairs("--out", str(tmp_path / "own.json"))["main"]()
    assert "expected a name in .jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
