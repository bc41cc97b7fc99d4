"""What a run is given, as its inputs: which files, under which digests, for what."""

import json
from pathlib import Path
from typing import Any

import pytest

from phasegpt.config import Config
from tests.toy import toy_pairs, write_jsonl
from tests.tune.conftest import ToyRequest
from tune.datasets import Inputs, datasets_of


def by_context(config: Config, *halves: str, trains: bool = True) -> dict[str, Any]:
    return {dataset.context: dataset for dataset in datasets_of(config, halves, trains=trains)}


def test_a_search_is_given_both_parts_of_the_pairs_both_halves_of_the_prompts_and_the_prose(
    toy_request: ToyRequest,
) -> None:
    found = by_context(toy_request().config, "search", "final")
    assert list(found) == ["training", "validation", "search", "final", "prose"]
    rows = {context: json.loads(found[context].profile).get("num_rows") for context in found}
    assert rows["training"] + rows["validation"] < 36, "the pairs of held-out domains are no part of either"
    assert (rows["search"], rows["final"], rows["prose"]) == (4, 4, None)
    assert len({dataset.digest for dataset in found.values()}) == 5
    assert all(len(dataset.digest) == 16 for dataset in found.values())
    columns = [column["name"] for column in json.loads(found["training"].schema)["mlflow_colspec"]]
    assert columns == ["id", "prompt", "chosen", "rejected", "domain", "complexity", "subtlety"]
    assert json.loads(found["training"].source)["uri"].endswith("pairs.jsonl")


def test_a_measurement_is_given_nothing_to_train_on(toy_request: ToyRequest) -> None:
    assert list(by_context(toy_request().config, "final", trains=False)) == ["validation", "final", "prose"]


def test_what_no_metric_asks_for_is_no_input(toy_request: ToyRequest) -> None:
    sets = ("evaluation.metrics=[eval_loss]", "evaluation.metric_for_best_model=eval_loss", "search.constraints={}")
    config = toy_request(*sets).config
    assert list(by_context(config, "search")) == ["training", "validation"]


def test_digests_follow_the_rows_and_not_the_place_or_the_order_of_the_file(
    toy_request: ToyRequest, tmp_path: Path
) -> None:
    own = by_context(toy_request().config, "search")
    moved = write_jsonl(tmp_path / "elsewhere.jsonl", toy_pairs()[::-1])
    other = by_context(toy_request(f"training.preference_dataset={moved}").config, "search")
    assert other["training"].name == "elsewhere"
    assert {c: d.digest for c, d in other.items()} == {c: d.digest for c, d in own.items()}


def test_another_seed_splits_otherwise_and_has_other_digests(toy_request: ToyRequest) -> None:
    own, other = (by_context(toy_request(f"experiment.seed={seed}").config, "search") for seed in (42, 1042))
    changed = [context for context in own if own[context].digest != other[context].digest]
    assert changed == ["training", "validation"]


def test_the_answers_of_an_unpaired_file_are_its_rows(toy_request: ToyRequest, tmp_path: Path) -> None:
    rows = [
        {"prompt": pair["prompt"], "completion": pair[key], "label": key == "chosen", "domain": pair["domain"],
         "complexity": pair["complexity"], "subtlety": pair["subtlety"]}
        for pair in toy_pairs() for key in ("chosen", "rejected")
    ]  # fmt: skip
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = toy_request(
        "training.method=kto_unpaired", f"training.preference_dataset={file}", "training.batch_size=4",
        "training.gradient_accumulation_steps=1", "search.parameters={training.beta: {uniform: [0.1, 1.0]}}",
    ).config  # fmt: skip
    columns = json.loads(by_context(config, "search")["training"].schema)["mlflow_colspec"]
    assert {column["name"]: column["type"] for column in columns}["label"] == "boolean"


def test_jobs_that_differ_in_what_they_search_alone_share_their_inputs(toy_request: ToyRequest) -> None:
    inputs = Inputs()
    plain, other = (toy_request(f"training.beta={beta}").config.dump() for beta in (0.1, 0.2))
    found = inputs.of(plain, ("search",), trains=True)
    assert found
    assert inputs.of(other, ("search",), trains=True) is found
    assert inputs.of(plain, ("final",), trains=True) is not found


def test_values_that_cannot_run_and_files_that_are_gone_leave_a_warning_and_no_input(
    toy_request: ToyRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = write_jsonl(tmp_path / "moved.jsonl", toy_pairs())
    plain = toy_request(f"training.preference_dataset={moved}").config.dump()
    moved.unlink()
    assert Inputs().of(plain, ("search",), trains=True) == ()
    assert "the inputs of a run are not recorded" in caplog.text
    broken = {**plain, "data": {**plain["data"], "val_split": 7.0}}
    assert Inputs().of(broken, ("search",), trains=True) == ()
