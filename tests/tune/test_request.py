"""Requests for a search: every refusal names its place and cure, and a resumed request equals the first."""

import json
from pathlib import Path

import pytest

from phasegpt.config import config_hash
from phasegpt.config_io import track_config
from phasegpt.mirror import address_of
from tests.toy import toy_pairs, toy_prompts, write_jsonl
from tests.tune.conftest import ToyRequest
from tune.request import (
    RequestError,
    choose_profile,
    is_own_file,
    new_request,
    require_storage,
    resumed_request,
    storage_folder,
)


def refusal(make: ToyRequest, *sets: str, name: str = "toy") -> str:
    with pytest.raises(RequestError) as error:
        make(*sets, name=name)
    return str(error.value)


def test_a_request_lies_where_the_seed_looks_for_it(toy_request: ToyRequest, tmp_path: Path) -> None:
    places = toy_request(name="one").places
    assert places.request == tmp_path / "store/experiments/v14/track_b/one/request.json"
    assert places.log == tmp_path / "store/experiments/v14/track_b/one.log"
    assert places.results == tmp_path / "store/results/v14/track_b/one"
    assert places.summary == tmp_path / "store/results/v14/track_b/one.json"


def test_a_request_writes_nothing_before_it_is_saved(toy_request: ToyRequest, tmp_path: Path) -> None:
    toy_request()
    assert list(tmp_path.iterdir()) == []


def test_the_own_values_are_those_of_the_config(toy_request: ToyRequest) -> None:
    request = toy_request("training.beta=0.3", "search.parameters.model.lora_config.r={choice: [8, 16]}")
    assert request.own_values() == {
        "training.kto_lambda": 0.1,
        "training.beta": 0.3,
        "training.learning_rate": 1e-3,
        "model.lora_config.r": 16,
    }


def test_without_a_name_the_search_is_called_after_its_track_and_the_time(toy_sets: list[str], tmp_path: Path) -> None:
    request = new_request("b", profile="laptop", overrides=toy_sets, storage=str(tmp_path))
    assert request.name[:2] == "b-"
    assert len(request.name) == len("b-20260101-120000")


def test_a_config_of_ones_own_runs_as_it_is_written(tmp_path: Path) -> None:
    assert choose_profile("auto", gpu=False, own=True) == (
        None, "no profile: your own config, as written (--profile laptop fits it to two cores)",
    )  # fmt: skip
    assert choose_profile("laptop", gpu=False, own=True)[0] == "laptop"
    (tmp_path / "mine.yaml").write_text("")
    assert is_own_file(str(tmp_path / "mine.yaml"))
    assert not is_own_file(str(track_config("a")))
    assert not is_own_file(None)


@pytest.mark.parametrize(
    ("asked", "gpu", "profile", "reason"),
    [
        ("auto", False, "laptop", "no GPU here"),
        ("auto", True, None, "a GPU is here"),
        ("laptop", True, "laptop", "as asked"),
        ("gpu", False, "gpu", "as asked"),
        ("none", False, None, "the track's own settings"),
    ],
)
def test_the_profile_follows_the_machine_only_where_it_is_auto(
    asked: str, gpu: bool, profile: str | None, reason: str
) -> None:
    assert choose_profile(asked, gpu)[0] == profile
    assert reason in choose_profile(asked, gpu)[1]


@pytest.mark.parametrize(("gpu", "prompts"), [(False, 12), (True, None)])
def test_auto_lays_the_laptop_profile_only_without_a_gpu(
    toy_sets: list[str], tmp_path: Path, gpu: bool, prompts: int | None
) -> None:
    request = new_request("b", overrides=toy_sets, storage=str(tmp_path), gpu=gpu)
    assert request.config.evaluation.max_prompts == prompts


def test_a_taken_name_is_refused_with_both_ways_on(toy_request: ToyRequest) -> None:
    toy_request().save()
    assert refusal(toy_request) == (
        "--name toy: there is a search of this name; go on with --resume toy or take another"
    )
    assert toy_request(name="other").name == "other"


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", ".hidden", "-x", "a b", "é", "x" * 81, "x\n"])
def test_a_name_that_is_no_plain_word_is_refused(toy_request: ToyRequest, name: str) -> None:
    assert refusal(toy_request, name=name).startswith(f"--name {name!r}: expected letters, digits")
    with pytest.raises(RequestError, match="no such name can exist"):
        resumed_request("b", name)


@pytest.mark.parametrize("name", ["b1.json", "b1.log", "b1.png", "b1-report", "b1-insight"])
def test_a_name_that_a_file_beside_another_search_may_have_is_refused(toy_request: ToyRequest, name: str) -> None:
    assert refusal(toy_request, name=name).startswith(f"--name {name}: it may not end in .json, .png, .log, -report")


def test_every_problem_of_a_config_is_told_at_once(toy_request: ToyRequest) -> None:
    lines = refusal(toy_request, "training.learning_rat=1e-4", "training.batch_size=0").splitlines()
    assert len(lines) == 2
    assert "training.batch_size: expected a number >= 1, found 0" in lines[0]
    assert "training.learning_rat" in lines[1]
    assert "did you mean learning_rate?" in lines[1]


def test_a_config_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"missing\.yaml"):
        new_request("b", config=str(tmp_path / "missing.yaml"), storage=str(tmp_path))


def test_every_problem_of_the_data_is_told_with_its_line(toy_request: ToyRequest, tmp_path: Path) -> None:
    rows = toy_pairs()
    rows[3]["chosen"] = rows[3]["rejected"]
    rows[9].pop("prompt")
    prompts = toy_prompts()
    prompts[2]["half"] = "both"
    pairs_file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    prompts_file = write_jsonl(tmp_path / "prompts.jsonl", prompts)
    sets = (f"training.preference_dataset={pairs_file}", f"evaluation.prompts={prompts_file}")
    assert refusal(toy_request, *sets).splitlines() == [
        f"{pairs_file}:4: chosen and rejected are the same text",
        f"{pairs_file}:10: the field prompt is missing",
        f"{prompts_file}:3: half: expected one of search, final, found 'both'",
    ]


def test_warnings_of_the_data_are_told_one_line_a_kind_and_stop_nothing(
    toy_request: ToyRequest, tmp_path: Path
) -> None:
    rows = toy_pairs()
    for row in rows[1:4]:
        row["prompt"] = rows[0]["prompt"]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    request = toy_request(f"training.preference_dataset={pairs}")
    assert request.data.errors == []
    assert [(f.line, f.code) for f in request.data.warnings if f.code == "duplicate_prompt"] == [
        (line, "duplicate_prompt") for line in (2, 3, 4)
    ]
    told = [line for line in request.warnings if "duplicate_prompt" in line]
    assert told == [f"{pairs}:2: the same prompt as in line 1 (duplicate_prompt, 3 in all)"]


def test_too_little_data_is_refused(toy_request: ToyRequest, tmp_path: Path) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", toy_pairs(1))
    assert refusal(toy_request, f"training.preference_dataset={few}") == (
        f"{few}: too few pairs to train on and to evaluate on"
    )
    one_sided = write_jsonl(tmp_path / "prompts.jsonl", toy_prompts(3))
    assert refusal(toy_request, f"evaluation.prompts={one_sided}") == (
        f"{one_sided}: expected at least two prompts of the final half"
    )


def test_a_search_of_nothing_is_refused_with_the_way_to_a_single_run(toy_request: ToyRequest) -> None:
    message = refusal(toy_request, "search.parameters={}")
    assert "search.parameters: expected at least one parameter to search, found none" in message
    assert "python train.py --config" in message


def test_a_search_on_a_text_is_refused_with_the_way_to_a_single_run(toy_request: ToyRequest, tmp_path: Path) -> None:
    text = tmp_path / "prose.txt"
    text.write_text("People say the river stays.")
    sets = (
        "training.method=lora",
        "training.kto_lambda=null",
        "search.parameters={training.learning_rate: {choice: [0.1]}}",
    )
    with pytest.raises(RequestError, match=r"a search compares by pairs, and a text has none; .*python train\.py"):
        toy_request(f"training.preference_dataset={text}", *sets)


def test_a_range_around_a_value_that_is_null_is_refused(toy_request: ToyRequest) -> None:
    steps = "search.parameters.training.max_steps={randint: [2, 4]}"
    assert toy_request(steps).own_values()["training.max_steps"] == 4
    message = refusal(toy_request, steps, "training.max_steps=null")
    assert message.endswith(
        "search.parameters.training.max_steps: the first trial takes the config's own value, which is null; "
        "set training.max_steps"
    )


def test_storage_is_a_folder_that_can_be_written_to(toy_sets: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match=r"--storage .*file: expected a folder"):
        new_request("b", overrides=toy_sets, storage=str(tmp_path / "file"))


def test_object_storage_is_worked_on_in_a_folder_of_this_machine_that_knows_its_address(
    toy_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path))
    storage = new_request("b", overrides=toy_sets, storage="s3://bucket/x/").places.storage
    assert storage.is_relative_to(tmp_path / "storage")
    assert address_of(storage) == "s3://bucket/x"
    assert storage_folder("s3://bucket/x") == storage
    with pytest.raises(RequestError, match="leave user and password to the environment"):
        new_request("b", overrides=toy_sets, storage="s3://me:word@bucket/x")


def test_workers_that_share_a_trial_need_a_folder(
    toy_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path))
    two = [*toy_sets, "training.distributed.enabled=true", "training.distributed.num_gpus=2"]
    request = new_request("b", overrides=two, storage="s3://bucket/x")
    assert request.config.training.distributed.workers == 2
    with pytest.raises(RequestError, match="give a shared folder"):
        require_storage(request)


def test_a_relative_storage_counts_from_where_the_user_stands(
    toy_sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_request("b", overrides=toy_sets, storage="here").places.storage == tmp_path / "here"


def test_a_resumed_request_equals_the_first(toy_request: ToyRequest, tmp_path: Path) -> None:
    first = toy_request("training.beta=0.3", "search.objectives={spiral_score: max, perplexity: min, eval_loss: min}")
    first.save()
    again = resumed_request("b", "toy", str(tmp_path / "store"))
    assert again.config == first.config
    assert config_hash(again.config) == config_hash(first.config)
    assert list(again.config.search.objectives) == ["spiral_score", "perplexity", "eval_loss"]
    assert list(again.config.search.parameters) == list(first.config.search.parameters)
    assert (again.places, again.profile, again.resumed) == (first.places, "laptop", True)
    assert again.own_values() == first.own_values()


def test_resuming_an_unknown_search_lists_the_known_ones(toy_request: ToyRequest, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(RequestError, match="there are: none"):
        resumed_request("b", "toy", str(store))
    for name in ("two", "one"):
        toy_request(name=name).save()
    with pytest.raises(RequestError) as error:
        resumed_request("b", "three", str(store))
    folder = store / "experiments/v14/track_b"
    assert str(error.value) == f"--resume three: no such search in {folder}; there are: one, two"
    with pytest.raises(RequestError, match="there are: none"):
        resumed_request("a", "one", str(store))


def test_data_that_has_gone_bad_since_is_told_at_resume(toy_request: ToyRequest, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", toy_pairs())
    toy_request(f"training.preference_dataset={pairs}").save()
    pairs.write_text(pairs.read_text() + "{}\n")
    with pytest.raises(RequestError, match=r"pairs.jsonl:37: the field prompt is missing"):
        resumed_request("b", "toy", str(tmp_path / "store"))
    pairs.unlink()
    with pytest.raises(RequestError, match="expected a file, found none"):
        resumed_request("b", "toy", str(tmp_path / "store"))


def test_a_request_from_another_version_is_refused_by_its_keys(toy_request: ToyRequest, tmp_path: Path) -> None:
    request = toy_request()
    request.save()
    kept = json.loads(request.places.request.read_text())
    kept["config"]["training"]["new_key"] = 1
    request.places.request.write_text(json.dumps(kept))
    with pytest.raises(RequestError, match=r"request.json.*training.new_key"):
        resumed_request("b", "toy", str(tmp_path / "store"))
