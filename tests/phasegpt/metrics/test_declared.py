"""What metrics say of themselves."""

import math
import subprocess
import sys

import pytest

from phasegpt.metrics.declared import COSTS, DECLARED, GUARDS, is_own
from phasegpt.metrics.text import JUDGED, TEXT_METRICS, VERSIONED, scorer


def test_every_metric_declares_itself_under_its_own_name() -> None:
    for name, metric in DECLARED.items():
        assert metric.name == name
        assert metric.low < metric.high
        assert metric.unit
        assert metric.meaning
        assert COSTS[metric.cost]


def test_a_range_is_told_in_words() -> None:
    names = ("spiral_score", "perplexity", "reward_margin", "kl_on_samples")
    assert [DECLARED[name].range for name in names] == ["0 to 1", "1 and up", "any", "0 and up"]
    assert math.isinf(DECLARED["reward_margin"].low)


def test_metrics_of_text_are_declared_as_metrics_of_answers() -> None:
    costs = {name: DECLARED[name].cost for name in (*TEXT_METRICS, *GUARDS, *VERSIONED)}
    assert {name for name, cost in costs.items() if cost == "answers + judge"} == JUDGED
    assert set(costs.values()) == {"answers", "answers + judge"}
    assert {metric.of for metric in DECLARED.values() if metric.cost.startswith("answers")} == {"prompt"}


def test_every_metric_of_answers_alone_is_counted_from_the_text_save_how_the_answer_ended() -> None:
    counted = {name for name, metric in DECLARED.items() if metric.cost in ("answers", "answers + judge")}
    assert counted == {*TEXT_METRICS, "ended"}


@pytest.mark.parametrize("name", ["mine:rhyme", "mine.deep.metrics:rhyme", "_m:f1"])
def test_a_metric_of_ones_own_is_module_colon_function(name: str) -> None:
    assert is_own(name)


@pytest.mark.parametrize(
    "name", ["rhyme", ":rhyme", "mine:", "mine.:rhyme", ".mine:rhyme", "a:b:c", "my metrics:rhyme", "mine:f()", "m/x:f"]
)
def test_other_forms_are_not_metrics_of_ones_own(name: str) -> None:
    assert not is_own(name)


def test_the_scorer_names_version_and_weights() -> None:
    word, version, digest = scorer().split()
    assert (word, len(digest)) == ("spiral", 12)
    assert version[0].isdigit()


def test_declarations_and_text_metrics_are_read_without_torch() -> None:
    code = "import sys, phasegpt.metrics.text, phasegpt.metrics.declared; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
