"""The order from easy to hard, and a run from a config that climbs it."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasegpt import material
from phasegpt.config import Config
from phasegpt.config_io import load_config, track_config
from phasegpt.curriculum import CurriculumError, easy_to_hard, order_hash, reference_margins
from phasegpt.forward import PairModel
from phasegpt.models import LoraSettings, attach_policy, load_base
from phasegpt.pairs import COMPLEXITIES, SUBTLETIES, Pair, read_pairs
from phasegpt.runs import RunResult, run_paths
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.train import fit
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)


def pair(identity: str, complexity: str | None, subtlety: str | None) -> Pair:
    return Pair(identity, f"Why {identity}?", "Yes.", "No.", "science", complexity, subtlety, line=1)


def test_complexity_comes_first_then_subtlety_then_the_references_margin_then_the_id() -> None:
    climb = (
        pair("e", "simple", "explicit"),
        pair("f", "simple", "implicit"),  # margin 0.5
        pair("d", "simple", "implicit"),  # margin −1
        pair("c", "medium", "explicit"),  # margin 0, as the next: the id decides
        pair("g", "medium", "explicit"),
        pair("a", "complex", "explicit"),  # margin 9: the labels come first
    )
    margins = {"e": -9.0, "f": 0.5, "d": -1.0, "c": 0.0, "g": 0.0, "a": 9.0}
    assert easy_to_hard(climb[::-1], margins) == climb


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_the_order_is_the_same_whatever_the_order_of_rows(random: Any, values: list[float]) -> None:
    rows = [pair(f"p{n}", COMPLEXITIES[n % 3], SUBTLETIES[n // 3 % 3]) for n in range(12)]
    margins = {row.id: value for row, value in zip(rows, values, strict=True)}
    shuffled = rows.copy()
    random.shuffle(shuffled)
    climb = easy_to_hard(rows, margins)
    assert easy_to_hard(shuffled, margins) == climb
    assert sorted(climb, key=lambda row: row.id) == sorted(rows, key=lambda row: row.id)
    assert order_hash(climb) == order_hash(easy_to_hard(shuffled, margins)) != order_hash(climb[::-1])


@pytest.mark.parametrize("labels", [(None, "explicit"), ("simple", None)])
def test_a_pair_without_labels_is_an_error_that_names_it(labels: tuple[str | None, str | None]) -> None:
    with pytest.raises(CurriculumError, match=r"pair x \(line 1\) has no complexity or no subtlety"):
        easy_to_hard([pair("x", *labels)], {"x": 0.0})


def test_a_margin_is_the_references_own_a_token(toy_model_dir: Path, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), Path("/")), LoraSettings(4, 8, 0.0, ("q_proj",)), seed=0)
    shared = prepare(SharedStore(tmp_path), policy, pairs[:3], Lengths(512, 256))
    margins = reference_margins(shared, [row.id for row in pairs[:3]])
    for row in pairs[:3]:
        with policy.as_reference():
            outputs = PairModel(policy)(shared.batch([row.id], with_hidden=False))
        chosen, rejected = outputs.completion_tokens.tolist()
        expected = outputs.policy_chosen_logps.item() / chosen - outputs.policy_rejected_logps.item() / rejected
        assert margins[row.id] == pytest.approx(expected, abs=1e-5)
    policy.detach()


# --- a run from a config ---------------------------------------------------------------------------------------------

STAGES = "[{name: easy, epochs: 1, data_fraction: 0.3}, {name: all, epochs: 1, data_fraction: 1.0}]"


def config_of(toy_sets: list[str], *sets: str, track: str = "a") -> Config:
    own = [text for text in toy_sets if not text.startswith(("search.", "training.max_steps"))]
    climb = (
        "training.curriculum_learning.enabled=true",
        f"training.curriculum_learning.stages={STAGES}",
        "training.max_steps=null",
        "training.batch_size=4",
        "evaluation.eval_interval=100",
    )
    return load_config(track_config(track), "laptop", [*own, *climb, *sets])


@pytest.mark.parametrize("track", ["a", "b"])
def test_a_config_with_a_curriculum_climbs_it_and_logs_the_order_and_its_stages(
    toy_sets: list[str], pairs: tuple[Pair, ...], tmp_path: Path, track: str, caplog: pytest.LogCaptureFixture
) -> None:
    paths = run_paths(tmp_path, track, "run")
    with caplog.at_level(logging.INFO, "phasegpt"):
        result = fit(config_of(toy_sets, track=track), paths=paths)
    assert result.data["train"] == 23
    assert result.steps == 2 + 6  # ⌈7/4⌉ steps on the easiest 7 of 23, then ⌈23/4⌉ on all
    text = paths.log.read_text()
    assert f"curriculum: 23 pairs from easy to hard, order {result.hashes['curriculum']}" in text
    assert "step 1: stage easy, epoch 1 of 1 over 7 examples" in text
    assert "step 3: stage all, epoch 1 of 1 over 23 examples" in text


def test_the_same_seed_gives_the_same_order_and_another_split_another(toy_sets: list[str], tmp_path: Path) -> None:
    def order(name: str, *sets: str) -> RunResult:
        return fit(config_of(toy_sets, "training.max_steps=2", *sets), paths=run_paths(tmp_path, "a", name))

    one, same, other = order("one"), order("same"), order("other", "experiment.seed=7")
    assert one.hashes["curriculum"] == same.hashes["curriculum"] != other.hashes["curriculum"]
    assert one.training_log == same.training_log


def test_a_plain_run_has_no_order(toy_sets: list[str], tmp_path: Path) -> None:
    config = config_of(toy_sets, "training.curriculum_learning.enabled=false", "training.max_steps=1")
    result = fit(config, paths=run_paths(tmp_path, "a", "plain"))
    assert "curriculum" not in result.hashes


def test_pairs_without_labels_end_the_run_before_any_work(
    toy_sets: list[str], toy_pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "prepare", lambda *_: pytest.fail("shared work was begun"))
    lines = toy_pairs_file.read_text().replace('"subtlety": "implicit"', '"subtlety": null')
    (tmp_path / "unlabelled.jsonl").write_text(lines)
    sets = (f"training.preference_dataset={tmp_path / 'unlabelled.jsonl'}", "data.stratify_by=[domain]")
    with pytest.raises(CurriculumError, match="label it, or set training"):
        fit(config_of(toy_sets, *sets), paths=run_paths(tmp_path, "a", "run"))
