"""A short selection of injections, and the tool that makes them: resumable, with a table of what came of each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phasegpt.lines import append
from tests.faults.checkpoint_faults import CHECKPOINT_FAULTS
from tests.faults.inject import main, table
from tests.faults.recording import strace

ROOT = Path(__file__).parents[2]


def outcome(fault: str, seed: int, said: str) -> dict[str, object]:
    return {"fault": fault, "seed": seed, "outcome": said}


def test_the_table_groups_outcomes_and_marks_what_was_lost() -> None:
    found = [outcome("kill", seed, "whole") for seed in (0, 1, 2, 5)]
    found += [outcome("kill", 3, "trial 1 is\nlost"), outcome("disk", 0, "skipped: no root")]
    assert table(found) == (
        "| fault | outcome | injections | seeds |\n|---|---|---|---|\n"
        "| disk | skipped: no root | 1 | 0 |\n"
        "| kill | **trial 1 is lost** | 1 | 3 |\n"
        "| kill | whole | 4 | 0-2, 5 |\n\n"
        "5 injections; something was lost or double in 1 of them.\n"
    )


def test_what_is_in_the_file_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "outcomes.jsonl"
    append(kept, outcome("kill_driver", 4, "whole"))
    assert main(["--faults", "kill_driver", "--seeds", "4", "--json", str(kept)]) == 0
    assert "| kill_driver | whole | 1 | 4 |" in capsys.readouterr().out
    append(kept, outcome("kill_driver", 5, "trial 1 is lost"))
    assert main(["--json", str(kept), "--table"]) == 1


def test_no_run_goes_on_from_a_damaged_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, inject in CHECKPOINT_FAULTS.items():
        assert {inject(tmp_path / name, seed) for seed in range(20)} == {"whole"}
    assert "and is passed over" in caplog.text


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.skipif(strace() is None, reason="strace is not installed")
@pytest.mark.parametrize(
    "faults",
    [
        "killed_between_two_calls,power_lost,power_lost_in_parts,torn_study,torn_spool,torn_result,flipped_study",
        "kill_raylet,kill_actor,full_storage,same_name",
    ],
)
def test_a_short_selection_loses_nothing(faults: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.inject", "--faults", faults, "--seeds", "0"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
