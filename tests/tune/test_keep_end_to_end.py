"""`search.keep: finalists` over a whole search on the toy model: what is left works, and more can be asked for."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.base_model import ModelError
from phasegpt.checkpoints import answers
from tests.ray_cluster import Cluster
from tune.search import main

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PATIENCE = 400


@dataclass(frozen=True)
class Kept:
    """A search in `folder` on the tests' cluster."""

    folder: Path
    address: str

    @property
    def top(self) -> Path:
        return self.folder / "store/checkpoints/v14/track_b/kept"

    def run(self, *words: str) -> dict[str, Any]:
        """What `--json` prints of a search, or of one that goes on."""
        places = ["--storage", f"{self.folder}/store", "--tracking-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command = [sys.executable, "-m", "tune.search", "--track", "b", "--json", "--cpus-per-worker", "1"]
        done = subprocess.run(
            [*command, *places, "--address", self.address, *words],
            cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def say(self, *words: str) -> int:
        return main([words[0], "kept", *words[1:], "--storage", f"{self.folder}/store"])

    def there(self) -> set[str]:
        """The folders of checkpoints and adapters, JOB/FOLDER."""
        folders = (path for path in self.top.glob("*/*") if path.is_dir() and path.name != "evaluations")
        return {str(path.relative_to(self.top)) for path in folders}


def expected(found: dict[str, Any]) -> set[str]:
    """The adapters of finals and finalists."""
    trials = {finalist["trial"] for finalist in found["finalists"]}
    finals = {f"final-{trial[-3:]}-seed-1042" for trial in trials}
    return {f"{name}/adapter_model" for name in trials | finals}


def test_a_search_leaves_its_finalists_alone_and_goes_on_from_there(
    ray_cluster: Cluster, tmp_path: Path, toy_sets: list[str]
) -> None:
    kept = Kept(tmp_path, ray_cluster.address)
    grid = "search.parameters={training.learning_rate: {grid: [0.001, 0.003, 1.0e-9]}}"
    sets = [*toy_sets, grid, "search.sampler=grid", "training.learning_rate=0.001"]
    sets += ["search.finalists={count: 2, seeds: 1}"]
    found = kept.run("--profile", "laptop", "--name", "kept", *[w for value in sets for w in ("--set", value)])
    left = {finalist["trial"] for finalist in found["finalists"]}
    assert left == {"trial-000", "trial-001"}
    assert kept.there() == expected(found)
    assert found["disk"]["kept"] == sorted(name.split("/")[0] for name in expected(found))
    assert found["disk"]["freed_bytes"] > found["disk"]["kept_bytes"]
    loser = kept.top / "trial-002"
    assert {path.name for path in loser.iterdir()} == {"config.yaml", "evaluations", "run.json"}
    assert answers(str(kept.top / "trial-001"), ["Tell of a clock."], 4, tmp_path, None)
    with pytest.raises(ModelError, match="others are in MLflow"):
        answers(str(loser), ["Tell of a clock."], 4, tmp_path, None)

    again = kept.run("--resume", "kept")
    assert (again["winner"], again["trials"]) == (found["winner"], found["trials"])
    assert again["disk"] == found["disk"]

    assert kept.say("clone", "2", "--set", "training.beta=0.2", "--warm-start") == 0
    assert (loser / "adapter_model" / "adapter_config.json").is_file()
    more = kept.run("--resume", "kept")
    clone = more["trials"][3]
    assert (clone["state"], clone["origin"]) == ("COMPLETE", "clone of trial 2")
    everyone = expected(more) | expected(found)  # a finalist stays one
    assert kept.there() == everyone
    assert more["disk"]["freed_bytes"] > found["disk"]["freed_bytes"]


def test_an_old_search_is_cleaned_by_the_same_rule(
    ray_cluster: Cluster, tmp_path: Path, toy_sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path, ray_cluster.address)
    sets = [*toy_sets, "search.keep=all", "search.finalists={count: 2, seeds: 1}"]
    found = kept.run("--profile", "laptop", "--name", "kept", *[w for value in sets for w in ("--set", value)])
    before = kept.there()
    assert {f"trial-{n:03d}/checkpoint-4" for n in range(3)} <= before
    assert found["disk"]["freed_bytes"] == 0
    assert kept.say("clean", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "would free up to" in said
    assert kept.there() == before
    assert kept.say("clean") == 0
    assert kept.there() == expected(found)
    assert kept.say("clean") == 0
    assert capsys.readouterr().out.endswith("kept: freed 0.0 MB\n")
