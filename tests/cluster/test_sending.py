"""What is sent: words, environment and runtime environment of a job, as plain values."""

import json
from pathlib import Path

import pytest

from cluster.dashboard import Dashboard
from cluster.inputs import named_paths, with_inputs
from cluster.package import PROJECT, Package
from cluster.sending import Surroundings, again_words, caches_below, environment, requirements, search_words
from cluster.state import LocalCluster
from cluster.submit import parser, rest_of
from cluster.target import Target
from phasegpt.config_io import load_config, track_config
from tests.tune.conftest import ToyRequest, toy_request  # noqa: F401 - a fixture
from tune import lineage
from tune.request import RequestError
from tune.search import parser as search_parser

EVERY = [
    *("--track", "b", "--set", "training.beta=0.05", "--set", "search.parameters={training.beta: {grid: [0.1]}}"),
    *("--wait-minutes", "5"),
    *("--trials", "4", "--max-concurrent=2", "--sampler", "grid", "--scheduler", "none", "--workers-per-trial", "2"),
    *("--gpus-per-worker", "0.5", "--cpus-per-worker", "1", "--min-workers", "1", "--accelerator-type", "H100"),
    *("--placement", "SPREAD", "--ablate", "training.kto_lambda=0,0.1", "--seeds", "3", "--seed", "7", "--json"),
    *("--study-url", "postgresql://me@db.example.org/studies"),
]
"""Every option of the search that goes to a job as it is."""


def test_every_option_of_the_search_reaches_the_job_as_it_was_typed() -> None:
    own = ["--address", "http://head:8265", "--storage=/s", "--tracking-uri", "http://m", "--name", "n", "--detach"]
    own += ["--profile", "gpu", "--config", "c.yaml", "--env", "A=b", "--pip", "r.txt"]
    assert rest_of([*EVERY[:8], *own, *EVERY[8:]]) == EVERY


def test_no_option_of_the_search_is_forgotten_here() -> None:
    names = {word.partition("=")[0] for word in EVERY if word.startswith("--")}
    decided = {"--help", "--config", "--profile", "--name", "--storage", "--tracking-uri", "--address"}
    elsewhere = {"--resume", "--plan", "--measure"}
    known = {option for action in search_parser()._actions for option in action.option_strings if len(option) > 2}
    assert known <= names | decided | elsewhere, "say in EVERY, or in cluster.submit.DECIDED, what becomes of it"


def test_an_option_cannot_be_shortened_since_the_job_would_get_it_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--track", "b", "--stor", "/x"])
    assert "--stor" in capsys.readouterr().err


def test_the_job_is_told_all_that_could_differ_there() -> None:
    words = search_words(["--track", "b"], "n", "none", None, "/shared")
    options = search_parser().parse_args(words)
    assert (options.name, options.profile, options.storage, options.address) == ("n", "none", "/shared", "auto")
    assert search_words(["--resume", "n"], None, None, None, "/s") == [
        "--resume", "n", "--storage", "/s", "--address", "auto"
    ]  # fmt: skip


def test_the_environment_has_mlflow_rays_settings_and_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key")
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush")
    found = environment("http://mlflow:5000", ["WANDB_API_KEY", "HF_HOME=/own", "A=b=c"], caches_below("/shared/"))
    assert found["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert (found["WANDB_API_KEY"], found["A"]) == ("key", "b=c")
    assert (found["HF_HOME"], found["PHASEGPT_CACHE"]) == ("/own", "/shared/caches/phasegpt")
    assert found["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not any("TOKEN" in name for name in found)
    assert "hush" not in found.values()


def test_a_job_knows_the_commit_of_the_code_that_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "git_state", lambda: ("abc123", True))
    sent = environment("http://m", [], None)[lineage.COMMIT]
    monkeypatch.undo()
    monkeypatch.setenv(lineage.COMMIT, sent)
    assert lineage.git_state() == ("abc123", True)
    monkeypatch.setenv(lineage.COMMIT, "abc123")
    assert lineage.git_state() == ("abc123", False)


def test_a_value_that_is_not_set_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(RequestError, match="--env NOT_SET: not set here; give NOT_SET=VALUE"):
        environment("http://m", ["NOT_SET"], None)


def test_object_storage_has_no_place_for_caches() -> None:
    assert caches_below("s3://bucket") is None
    assert "HF_HOME" not in environment("http://m", [], None)


def test_a_runtime_environment_has_the_copy_and_what_is_to_be_installed(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# pinned\npeft==0.21.2  # adapters\n\noptuna==5.0.0\n")
    plain = Surroundings(Package(), {"A": "b"}).runtime_env(tmp_path)
    assert plain == {"env_vars": {"A": "b"}, "working_dir": str(tmp_path)}
    found = Surroundings(Package(), {}, uv=str(tmp_path / "r.txt")).runtime_env(tmp_path)
    assert found["uv"] == {"packages": ["peft==0.21.2", "optuna==5.0.0"]}
    assert found["config"]["setup_timeout_seconds"] == 1800


def test_an_image_has_the_project_in_it_so_nothing_travels(tmp_path: Path) -> None:
    around = Surroundings(Package(), {"A": "b"}, image="registry/phasegpt:1.4")
    assert around.runtime_env(tmp_path) == {"env_vars": {"A": "b"}, "image_uri": "registry/phasegpt:1.4"}
    assert str(around) == "registry/phasegpt:1.4"


def test_ray_takes_every_kind_of_runtime_environment(tmp_path: Path) -> None:
    from ray.runtime_env import RuntimeEnv

    (tmp_path / "r.txt").write_text("peft==0.21.2\n")
    for kind in ({}, {"pip": str(tmp_path / "r.txt")}, {"uv": str(tmp_path / "r.txt")}, {"image": "x"}):
        found = Surroundings(Package(), {"A": "b"}, **kind).runtime_env(tmp_path)
        found.pop("working_dir", None)  # uploaded before Ray looks at it
        json.dumps(RuntimeEnv(**found).to_dict())


def test_a_missing_file_of_requirements_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a file of requirements, found none"):
        requirements(str(tmp_path / "none.txt"))


def test_the_command_that_goes_on_names_only_what_is_not_the_clusters_own() -> None:
    local = LocalCluster("", "", "http://127.0.0.1:8265", "http://127.0.0.1:5000", "/store", "", 0.0)
    here = Target(Dashboard(local.address), local)
    base = ["python", "-m", "cluster.submit", "--track", "b", "--resume", "n"]
    assert again_words("b", "n", here, "/store", "http://127.0.0.1:5000") == base
    assert again_words("b", "n", here, "/other", "http://127.0.0.1:5000") == [*base, "--storage", "/other"]
    there = Target(Dashboard("http://head:8265"))
    assert again_words("b", "n", there, "/s", "http://m") == [
        *base, "--address", "http://head:8265", "--storage", "/s", "--tracking-uri", "http://m"
    ]  # fmt: skip


def test_the_tracks_own_files_travel_and_none_must_be_there_already() -> None:
    config = load_config(track_config("b"), "laptop")
    assert set(named_paths(config)) == {
        "data/preferences_v14_100pairs.jsonl", "data/eval_prompts.jsonl", "data/fluency.txt"
    }  # fmt: skip
    package, elsewhere = with_inputs(Package(), [config])
    assert set(package.files) == set(named_paths(config))
    assert elsewhere == []


def test_what_a_config_names_by_its_full_path_must_be_on_every_node(toy_request: ToyRequest) -> None:  # noqa: F811
    config = toy_request().config
    package, elsewhere = with_inputs(Package(), [config])
    assert package.files == {}
    assert config.model.base_model in elsewhere
    assert config.training.preference_dataset in elsewhere


def test_a_model_in_a_folder_that_git_ignores_travels_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.inputs.PROJECT", tmp_path)
    monkeypatch.setattr("cluster.package.PROJECT", tmp_path)
    monkeypatch.setenv("PHASEGPT_ROOT", str(tmp_path))
    (tmp_path / "checkpoints/mine").mkdir(parents=True)
    (tmp_path / "checkpoints/mine/config.json").write_text("{}")
    data = {
        "training.preference_dataset": "preferences_v14_100pairs.jsonl",
        "evaluation.prompts": "eval_prompts.jsonl",
        "evaluation.fluency_text": "fluency.txt",
    }
    overrides = ["model.base_model=checkpoints/mine", *(f"{k}={PROJECT}/data/{name}" for k, name in data.items())]
    package, _ = with_inputs(Package(), [load_config(track_config("a"), None, overrides)])
    assert set(package.files) == {"checkpoints/mine/config.json"}
