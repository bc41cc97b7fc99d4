"""python -m tune.insight on the files of a toy search: what it prints, draws and asks, and that it changes nothing."""

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from matplotlib.figure import Figure

from phasegpt.files import write_json
from tests.tune.conftest import ToyRequest
from tune.commands import Command, give
from tune.insight import main
from tune.insight_budget import budget_curve
from tune.insight_importance import importance
from tune.insight_map import parameter_map
from tune.insight_next import NextPoint
from tune.insight_pictures import budget_figure, importance_figure, labelled, map_figure
from tune.insight_records import Record, read_records
from tune.insight_summary import look
from tune.request import Request
from tune.study import Asked, Study

RATE, BETA = "training.learning_rate", "training.beta"
PARAMETERS = (
    "search.parameters={training.learning_rate: {loguniform: [1e-6, 1e-4]}, training.beta: {loguniform: [0.01, 1]}}"
)
PNG = b"\x89PNG\r\n\x1a\n"
Made = tuple[Request, Study]


def opened(request: Request) -> Study:
    search, journal = request.config.search, request.places.folder / "study.journal"
    return Study(request.name, journal, search, request.own_values(), request.config.experiment.seed)


def bowl(values: Mapping[str, Any]) -> float:
    return (math.log10(values[RATE]) + 5) ** 2 + (math.log10(values[BETA]) + 1) ** 2


def run_some(request: Request, count: int) -> Study:
    """A search with `count` ended trials: every fifth was stopped at step 3, the fourth breaks a constraint."""
    request.save()
    study = opened(request)
    for number in range(count):
        asked = study.ask()
        assert asked is not None
        metrics = {"eval_loss": bowl(asked.values)}
        if number % 5 == 4:
            study.report(number, 3, metrics)
            study.prune(number, "stopped by the scheduler")
        else:
            write_json(request.places.results / f"trial-{number:03d}.json", {"steps": 9})
            study.complete(number, metrics, {"kl_divergence": 1.0 if number == 3 else -1.0})
    return study


@pytest.fixture
def made(toy_request: ToyRequest) -> Made:
    """A search of twelve trials under ASHA, ten of which have ended."""
    request = toy_request(PARAMETERS, "search.trials=12", "search.scheduler=asha")
    return request, run_some(request, 10)


def say(request: Request, *words: str) -> int:
    return main([request.name, "--storage", str(request.places.storage), *words])


def test_what_is_told_and_drawn_leaves_the_search_as_it_is(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    request, _ = made
    journal = request.places.folder / "study.journal"
    before = journal.read_bytes()
    assert say(request) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: track b, not running; trials: 8 complete, 2 pruned"
    assert "  too few trials to tell: 8 finished, 10 are needed" in lines
    assert "  eval_loss over lr and β: no surface: 8 trials came to a result, 10 are needed" in lines
    pictures = [Path(line.strip()) for line in lines[lines.index("Pictures") + 1 :]]
    folder = request.places.results.with_name("toy-insight")
    assert pictures == [folder / f"{name}.png" for name in ("importance", "map", "budget")]
    assert all(path.read_bytes().startswith(PNG) for path in pictures)
    assert journal.read_bytes() == before


def test_the_object_has_the_same_for_scripts(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request, study = made
    assert say(request, "--json", "--map", BETA, RATE, "--out", str(tmp_path / "here")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {"complete": 8, "pruned": 2}
    assert (found["map"]["x_key"], found["map"]["y_key"], len(found["map"]["points"])) == (BETA, RATE, 10)
    broken = [point["trial"] for point in found["map"]["points"] if not point["feasible"]]
    assert broken == [3]
    assert (found["budget"]["unit"], found["budget"]["total"]) == ("optimiser steps", 8 * 9 + 2 * 3)
    feasible = {t.number: t.values[0] for t in study.trials() if t.values and t.number != 3}
    assert found["budget"]["best_trial"] == min(feasible, key=lambda number: feasible[number])
    assert found["importance"][0]["verdict"].startswith("too few trials to tell")
    assert [Path(path).parent for path in found["pictures"]] == [tmp_path / "here"] * 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_the_next_points_are_those_that_the_search_then_asks(toy_request: ToyRequest, sampler: str) -> None:
    request = toy_request(PARAMETERS, "search.trials=12", f"search.sampler={sampler}")
    run_some(request, 10)
    insight, _ = look(request, None)
    study = opened(request)
    study.extend(1)
    asked = [study.ask() for _ in range(3)]
    assert [Asked(p.number, dict(p.values), p.origin) for p in insight.next] == asked
    assert [point.beyond for point in insight.next] == [False, False, True]


def test_what_was_asked_by_command_comes_first(made: Made) -> None:
    request, study = made
    give(request.places.folder, Command("clone", trial=2, values={BETA: 0.5}))
    first, *_ = look(request, None)[0].next
    assert first.values == {**study.values(study.trial(2)), BETA: 0.5}
    assert first.why == "queued by command: a clone of trial 2"


def test_trials_that_were_running_resume_first_unless_a_driver_has_them(made: Made) -> None:
    request, study = made
    study.ask()
    insight, _ = look(request, None)
    assert (insight.running, insight.resumes, insight.next[0].number) == (False, (10,), 11)
    assert "  first trial-010 from where it stopped" in insight.as_text().splitlines()
    with FileLock(request.places.folder / "driver.lock"):
        insight, _ = look(request, None)
    assert (insight.running, insight.resumes, insight.next[0].number) == (True, (), 11)


def test_a_search_that_has_not_begun_has_its_first_points_to_tell(toy_request: ToyRequest, tmp_path: Path) -> None:
    request = toy_request(PARAMETERS)
    request.save()
    insight, pictures = look(request, tmp_path)
    assert insight.next[0].why == "queued: the config's own values come first"
    assert insight.budget.sentence() == "no trial has come to a result that counts after 0 fits"
    assert len(pictures) == 3


def test_a_record_says_whether_a_clone_differs_in_more_than_the_searched_values(made: Made) -> None:
    request, study = made
    study.clone(0, 2, {BETA: 0.5}, warm=False)
    study.clone(1, 2, {"training.max_steps": 3}, warm=False)
    study.clone(2, 2, {}, warm=True)
    for _ in range(3):
        study.ask()
    records = read_records(study, request.places.results)
    assert [record.altered for record in records[10:]] == [False, True, True]
    assert {record.steps for record in records if record.state == "complete"} == {9}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--map", BETA, "training.bta"),
            "--map training.bta: expected a parameter that is searched in a range; there are",
        ),
        (("--map", BETA, BETA), "expected two different parameters"),
    ],
)
def test_a_map_of_what_is_no_range_is_refused(
    made: Made, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert say(made[0], *words) == 2
    assert said in capsys.readouterr().err


def test_a_search_that_is_not_there_is_named_with_those_that_are(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tuy", "--storage", str(made[0].places.storage)]) == 2
    assert "there are: toy" in capsys.readouterr().err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "transformers", "optuna", "matplotlib", "sklearn", "numpy")
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', *[name for name in {heavy} if name in sys.modules]))\n"
        "from tune.insight import main\n"
        "sys.exit(main(['--help']))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m tune.insight b-20260101-120000 --json" in done.stdout
    assert done.stdout.endswith("heavy:\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


# --- pictures --------------------------------------------------------------------------------------------------------


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def records() -> list[Record]:
    """Twelve finished trials on a lattice, one of which breaks a constraint, then one stopped and one failed."""
    points = [(10 ** (-6 + i / 2), 10 ** (-2 + j)) for i in range(4) for j in range(3)]
    found = [
        Record(n, {RATE: x, BETA: y}, metrics={"eval_loss": bowl({RATE: x, BETA: y})}, ended=float(n))
        for n, (x, y) in enumerate(points)
    ]
    found[4] = Record(4, found[4].values, "complete", found[4].metrics, violations={"kl": 1.0}, ended=4.0)
    others = [
        Record(12 + i, {RATE: 1e-5, BETA: 0.3}, state, ended=12.0 + i) for i, state in enumerate(("pruned", "failed"))
    ]
    return [*found, *others]


def test_a_map_marks_what_each_trial_was_and_names_its_axes(records: list[Record], made: Made) -> None:
    parameters = made[0].config.search.parameters
    coming = [NextPoint(14, {RATE: 2e-5, BETA: 0.2}, "sampler", False, None, None, "")]
    found = parameter_map(records, parameters, (RATE, BETA), "eval_loss", "min", seed=0)
    figure = map_figure(found, parameters, coming, "toy")
    axes, bar = figure.axes
    assert legend(figure) == ["pruned", "failed", "ran to its end", "breaks a constraint", "would come next"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (f"{RATE} (logarithmic)", f"{BETA} (logarithmic)")
    assert bar.get_ylabel() == "eval_loss (nats, lower is better)"
    assert [text.get_text() for text in axes.texts if text.get_text() == "14"] == ["14"]


def test_a_budget_curve_ends_with_the_budget_and_has_the_own_value_as_a_line(records: list[Record]) -> None:
    found = budget_curve(records, "eval_loss", "min", by_steps=False)
    figure = budget_figure(found, "toy")
    axes = figure.axes[0]
    best = next(line for line in axes.lines if line.get_label() == "best so far")
    own = next(line for line in axes.lines if line.get_label() == "the config's own values")
    assert (best.get_xdata()[-1], best.get_ydata()[-1]) == (14, found.points[-1].best)  # type: ignore[index]
    assert set(own.get_ydata()) == {found.own}  # type: ignore[arg-type]
    assert "breaks a constraint: does not count" in legend(figure)


def test_importances_are_bars_with_intervals_or_the_sentence_that_there_are_too_few(
    records: list[Record], made: Made
) -> None:
    request = made[0]
    words = (request.config.search.parameters, request.own_values(), "eval_loss", "min", 0)
    told, silent = (importance(some, *words, resamples=20) for some in (records, records[:9]))
    bars, sentence = importance_figure([told, silent], "toy").axes
    assert len(bars.patches) == 2
    assert [label.get_text() for label in bars.get_yticklabels()] == [
        {RATE: "lr", BETA: "β"}[s.key] for s in told.shares
    ]
    assert len(sentence.patches) == 0
    assert "too few trials to tell: 9 finished, 10 are needed" in sentence.get_title()


def test_a_label_has_the_unit_and_the_better_way() -> None:
    assert labelled("spiral_density", "max") == "spiral_density (moves per 100 words, higher is better)"
    assert labelled("mine:own_metric", "min") == "mine:own_metric (lower is better)"
