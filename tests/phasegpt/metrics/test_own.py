"""A user's own metric: found by its name, believed only where it gives a number in its range."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phasegpt.metrics.own import OwnMetricError, load_own

SOURCE = """
import math

NOT_A_FUNCTION = 3

def letters(text):
    return len(text)

def letters_over(text, least=2):
    return len(text) - least

def echoes(prompt, text):
    return 1.0 if prompt in text else 0.0

echoes.direction, echoes.range, echoes.unit = "max", (0, 1), "share of answers"

class Counter:
    def __call__(self, text):
        return text.count("a")

a_counter = Counter()

def broken(text):
    return 1 / len(text)

def no_number(text):
    return "0.5"

def not_finite(text):
    return math.nan

def three(a, b, c):
    return 0.0

def none():
    return 0.0

def by_name(*, text):
    return 0.0

def odd_direction(text):
    return 0.0

odd_direction.direction = "up"

def odd_range(text):
    return 0.0

odd_range.range = (1, 0)
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules `mine_for_tests` and `mine_in_a_package.metrics` in a folder on the path."""
    (tmp_path / "mine_for_tests.py").write_text(SOURCE)
    (tmp_path / "mine_in_a_package").mkdir()
    (tmp_path / "mine_in_a_package" / "metrics.py").write_text(SOURCE)
    (tmp_path / "mine_needs_more.py").write_text("import there_is_no_such_module_either")
    (tmp_path / "mine_raises.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        del sys.modules[name]


def test_a_function_of_the_text_is_called_with_the_answer_alone() -> None:
    metric = load_own("mine_for_tests:letters")
    assert metric.score("p1", "a prompt", "four") == 4.0
    assert (metric.better, metric.low, metric.high, metric.unit) == (None, -math.inf, math.inf, "")


def test_a_function_of_prompt_and_text_is_called_with_both_and_says_what_it_declares() -> None:
    metric = load_own("mine_in_a_package.metrics:echoes")
    assert (metric.score("p1", "four", "four lamps"), metric.score("p1", "five", "four lamps")) == (1.0, 0.0)
    assert (metric.better, metric.low, metric.high, metric.unit) == ("max", 0.0, 1.0, "share of answers")


def test_arguments_with_a_default_do_not_count_and_objects_may_be_called() -> None:
    assert load_own("mine_for_tests:letters_over").score("p1", "a prompt", "four") == 2.0
    assert load_own("mine_for_tests:a_counter").score("p1", "a prompt", "a lamp") == 2.0


def test_the_direction_of_an_objective_counts_where_the_function_says_none() -> None:
    assert load_own("mine_for_tests:letters", "min").better == "min"
    assert load_own("mine_for_tests:echoes", "max").better == "max"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there_is_no_such_module:f", "there is no module there_is_no_such_module; install it, put its folder on PYTH"),
        ("mine_for_tests.deeper:f", "mine_for_tests.deeper"),
        ("mine_needs_more:f", "mine_needs_more needs the module there_is_no_such_module_either, which is not install"),
        ("mine_raises:f", "mine_raises cannot be imported: RuntimeError: no licence"),
        ("mine_for_tests:leters", "mine_for_tests has no function leters; did you mean letters?"),
        ("mine_for_tests:NOT_A_FUNCTION", "mine_for_tests has no function NOT_A_FUNCTION"),
        ("mine_for_tests:three", r"expected a function of \(text\) or of \(prompt, text\), found \(a, b, c\)"),
        ("mine_for_tests:none", r"found \(\) without a default"),
        ("mine_for_tests:by_name", r"found \(text\) without a default"),
        ("mine_for_tests:odd_direction", "expected its attribute direction to be 'max' or 'min', found the text 'up'"),
        ("mine_for_tests:odd_range", r"to be \(low, high\) with low < high, found \(1, 0\)"),
    ],
)
def test_a_metric_that_cannot_be_had_is_an_error_with_a_cure(name: str, message: str) -> None:
    with pytest.raises(OwnMetricError, match=f"^{name}: .*{message}|^{name}: {message}"):
        load_own(name)


def test_two_directions_that_disagree_are_an_error() -> None:
    with pytest.raises(OwnMetricError, match=r"search\.objectives says min, its attribute direction max; make them"):
        load_own("mine_for_tests:echoes", "min")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "ZeroDivisionError: .*; make the function cope with every answer, an empty one too"),
        ("no_number", "expected a finite number, found the text '0.5'; return a float"),
        ("not_finite", "expected a finite number, found nan; return a float"),
    ],
)
def test_what_is_no_number_is_an_error_that_names_the_prompt(function: str, message: str) -> None:
    with pytest.raises(OwnMetricError, match=f"mine_for_tests:{function} on prompt p7: {message}"):
        load_own(f"mine_for_tests:{function}").score("p7", "a prompt", "")


def test_a_value_outside_the_declared_range_is_an_error() -> None:
    metric = load_own("mine_for_tests:letters")
    ranged = type(metric)(**{**vars(metric), "low": 0.0, "high": 3.0})
    with pytest.raises(OwnMetricError, match="on prompt p7: 4 is outside its declared range 0 to 3; correct"):
        ranged.score("p7", "a prompt", "four")


def test_a_module_is_also_found_in_the_folder_that_the_process_runs_in(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "sub").mkdir()
    (modules / "sub" / "mine_beside.py").write_text(SOURCE)
    monkeypatch.chdir(modules / "sub")
    assert load_own("mine_beside:letters").score("p1", "a prompt", "four") == 4.0
