"""The fit of the Spiral Score's weights: reproducible, blind to the held-out domain, right on small cases."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phasegpt.metrics import damage
from phasegpt.metrics.fit_weights import (
    ANSWER_FILE,
    DOMAINS,
    HELD_OUT,
    PAIR_FILES,
    WEIGHT_FILE,
    Material,
    Row,
    calibrated,
    fit_combination,
    fit_places,
    judged_vectors,
    table,
)
from phasegpt.metrics.kinship import Example, chance, fit_direction

ROOT = Path(__file__).parents[3]


def test_the_script_makes_the_shipped_weights() -> None:
    shipped, made = json.loads(WEIGHT_FILE.read_text(encoding="utf-8")), table(ROOT)
    assert (made["version"], made["fitted_on"]) == (shipped["version"], shipped["fitted_on"])
    assert made["lexical"] == pytest.approx(shipped["lexical"], abs=1e-6)
    for place, cues in shipped["order"].items():
        assert made["order"][place] == pytest.approx(cues, abs=1e-6)


@pytest.mark.slow
def test_the_script_makes_the_shipped_judge() -> None:
    shipped, made = json.loads(WEIGHT_FILE.read_text(encoding="utf-8")), table(ROOT, judged_vectors())
    assert made["judged"] == pytest.approx(shipped["judged"], abs=2e-3)
    assert made["kinship"]["bias"] == pytest.approx(shipped["kinship"]["bias"], abs=1e-3)
    assert made["kinship"]["direction"] == pytest.approx(shipped["kinship"]["direction"], abs=1e-4)


def test_the_direction_points_from_texts_that_do_not_move_to_those_that_do() -> None:
    draw = np.random.default_rng(0)
    away = np.array([3.0, 0.0, 0.0, 0.0])
    examples = [Example(draw.normal(size=4) + away * moves, float(moves), 1.0) for moves in (0, 1) for _ in range(50)]
    found = fit_direction(examples)
    assert abs(found["direction"][0]) > 3 * max(map(abs, found["direction"][1:]))
    chances = [chance(example.vector, found["bias"], found["direction"]) for example in examples]
    assert np.mean(chances[50:]) - np.mean(chances[:50]) > 0.25
    assert chance(np.zeros(4), 0.0, found["direction"]) == 0.5


def test_the_held_out_domain_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=f"{HELD_OUT!r} is held out"):
        Material.read(ROOT, [*DOMAINS, HELD_OUT])


def test_no_text_of_the_held_out_domain_is_read(tmp_path: Path) -> None:
    row = {"chosen": "kept", "rejected": "kept", "answer": "kept", "label": 2, "domain": "science"}
    hidden = {**row, "chosen": "seen", "rejected": "seen", "answer": "seen", "domain": HELD_OUT}
    (tmp_path / "data").mkdir()
    for name in (*PAIR_FILES, ANSWER_FILE):
        (tmp_path / name).write_text("\n".join(map(json.dumps, [row, hidden])), encoding="utf-8")
    assert set(Material.read(tmp_path).texts()) == {"kept"}


def test_the_script_writes_where_it_is_told(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "phasegpt.metrics.fit_weights", "--help"], capture_output=True, text=True, check=True
    )
    assert "--out" in shown.stdout


def test_balanced_labels_without_a_difference_give_even_chances() -> None:
    rows = [Row({"a": 0.5}, label, 1.0) for label in (0, 1)]
    assert fit_combination(rows) == {"bias": 0.0, "a": 0.0}


def test_a_component_that_speaks_against_movement_gets_no_weight() -> None:
    rows = [Row({"a": 0.0}, 1, 1.0), Row({"a": 1.0}, 0, 1.0)]
    assert fit_combination(rows)["a"] == 0.0


def test_a_comparison_moves_only_the_component_that_differs() -> None:
    base = [Row({"a": 0.5, "b": 0.5}, label, 1.0) for label in (0, 1)]
    found = fit_combination([*base, Row({"a": 0.9, "b": 0.5}, 1, 1.0, {"a": 0.1, "b": 0.5})])
    assert found["a"] > 0
    assert found["b"] == 0.0


def test_calibration_moves_the_bias_until_the_scores_add_up() -> None:
    rows = [Row({"a": 0.0}, 1, 1.0), *[Row({"a": 0.0}, 0, 1.0)] * 3]
    assert calibrated({"bias": 5.0, "a": 2.0}, rows) == {"bias": round(math.log(1 / 3), 4), "a": 2.0}


def test_a_cue_of_every_opening_speaks_for_the_opening() -> None:
    texts = [f"Once there was a {thing}. The {thing} broke. Then it was mended." for thing in "abcdefghij"]
    places = fit_places(texts)
    assert places.first["word once"] > 0.2
    assert places.last["word then"] > 0.2
    assert places.first["word then"] < 0


def test_damage_keeps_what_it_should_and_spoils_the_rest() -> None:
    texts = [f"{letter} one. {letter} two. {letter} three. {letter} four." for letter in "abcdefgh"]
    assert sorted(damage.split(damage.shuffled(texts[0], 0))) == sorted(damage.split(texts[0]))
    assert damage.shuffled(texts[0], 0) != texts[0]
    assert damage.shuffled("One.", 0) == "One."
    assert damage.with_foreign_ends(texts)[0] == "a one. a two. a three. h four."
    assert damage.stuffed("One. Two. Three.", ["So, "], every=2) == "One. So, two. Three."
    assert len(damage.split(damage.glued(texts, 0))) == 7
