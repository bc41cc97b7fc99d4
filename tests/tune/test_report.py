"""python -m tune.report on searches played by hand: what stands on the page, at every stage that a search may be at."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from phasegpt.config_io import resolve
from tests.toy import toy_pairs, write_jsonl
from tests.tune.conftest import ToyRequest
from tests.tune.played import HOSTILE, PROMPTS, Played
from tests.tune.report_pages import Page
from tune import control, insight
from tune.console import duration
from tune.keepsakes import MOST, leave
from tune.report import main
from tune.report_answers import SHOWN
from tune.report_cost import cost, saved
from tune.report_data import Material, gather
from tune.report_origin import data_section
from tune.report_pictures_trials import front, kind
from tune.report_sections import report_folder, sentence, write_report
from tune.request import Request, RequestError, new_request, resumed_request
from tune.spool import SPOOL, read_spool
from tune.tracking import Tracker

PARAMETERS = (
    "search.parameters={training.learning_rate: {loguniform: [1e-6, 1e-3]}, training.beta: {loguniform: [0.01, 1]}, "
    "training.kto_lambda: {loguniform: [0.001, 1.0], or: [0.0]}, model.lora_config.r: {choice: [4, 8, 16]}}"
)
TWO = "search.objectives={eval_loss: min, perplexity: min}"
SECTIONS = [
    "verdict", "finalists", "outcome", "curves", "parallel", "importance", "map", "budget", "schedule", "cost",
    "answers", "trials", "data", "origin", "limits",
]  # fmt: skip
PICTURES = ["forest", "front", "curves", "parallel", "importance", "map", "budget", "schedule"]


@dataclass(frozen=True)
class Whole:
    """A search that ran through, with its summary and its report."""

    played: Played
    summary: Mapping[str, Any]
    material: Material
    folder: Path
    page: Page


@pytest.fixture(scope="module")
def two(toy_sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Fourteen trials of two objectives: one stopped, one failed; three finalists on two seeds."""
    sets = [*toy_sets, PARAMETERS, TWO, "search.trials=14", "search.finalists={count: 3, seeds: 2}"]
    sets += ["search.constraints={kl_divergence: '<= 2.0', perplexity: '<= 1.10 * baseline'}", "search.scheduler=asha"]
    storage = tmp_path_factory.mktemp("two")
    request = new_request("b", profile="laptop", overrides=sets, name="toy", storage=str(storage))
    played = Played(request, stop={5}, fail={7}).play()
    summary, material = played.conclude(), gather(request)
    return Whole(played, summary, material, storage / "page", read(material, storage / "page"))


def one(toy_request: ToyRequest, **ends: set[int]) -> Played:
    """Six trials of one objective."""
    return Played(toy_request(PARAMETERS, "search.trials=6", "search.constraints={}"), **ends)


def written(request: Request, folder: Path) -> Page:
    return read(gather(request), folder)


def read(material: Material, folder: Path) -> Page:
    """The page of a search's report, which is well-formed and loads nothing."""
    page = Page(write_report(material, folder).read_text(encoding="utf-8"))
    assert (page.open, page.wrong, page.loads, page.scripts) == ([], [], [], 1)
    assert len(page.ids) == len(set(page.ids))
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted(page.pictures)
    return page


# --- the page of a search that ran through ----------------------------------------------------------------------------


def test_every_section_and_picture_is_there_in_order(two: Whole) -> None:
    assert two.page.sections == SECTIONS
    assert list(two.page.pictures) == PICTURES
    assert all(two.page.pictures.values())


def test_the_numbers_are_those_of_the_summary(two: Whole) -> None:
    best, text = two.summary["finalists"][0], two.page.text
    said, _, rest = two.summary["verdict"].partition(": ")
    assert said[0].upper() + said[1:] in text
    assert rest in text
    low, high = best["interval"]
    assert f"95 % interval [{low:.3g}, {high:.3g}]" in text
    for gain in (best["over_defaults"], best["over_baseline"]):
        assert f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" in text
    assert f"{best['p_best']:.2f}" in text
    assert all(finalist["trial"] in text for finalist in two.summary["finalists"])
    assert "is now champion: uncontested" in text


def test_the_forest_says_what_it_shows(two: Whole) -> None:
    for finalist in two.summary["finalists"]:
        low, high = finalist["interval"]
        assert f"{finalist['mean']:.3g} [{low:.3g}, {high:.3g}]" in two.page.pictures["forest"]


def test_the_front_is_the_summarys_and_each_trial_is_what_it_is(two: Whole) -> None:
    assert [trial.name for trial in front(two.material)] == two.summary["front"]["trials"]
    kinds = {trial.name: kind(two.material, trial) for trial in two.material.trials}
    assert kinds[two.summary["winner"]["trial"]] == "winner"
    assert (kinds["trial-000"], kinds["trial-005"], kinds["trial-007"]) == ("own", "pruned", "failed")
    assert kinds["trial-001"] == "bad"


def test_hostile_prompts_answers_and_reasons_are_text(two: Whole) -> None:
    assert two.page.text.count(HOSTILE) == 4 * PROMPTS + 2  # a prompt and three answers each, a failure, the seat
    source = (two.folder / "report.html").read_text(encoding="utf-8")
    assert source.count("<script>") == 1
    assert "<img" not in source


def test_answers_stand_side_by_side_for_prompts_that_the_seed_drew(two: Whole) -> None:
    text, winner = two.page.text, two.summary["winner"]["trial"]
    assert f"{SHOWN} of {PROMPTS} prompts of the final half, drawn by the search's seed (42)" in text
    assert f"The other {PROMPTS - SHOWN} prompts" in text
    for name in ("baseline-final", "final-000-seed-1042", f"final-{winner[-3:]}-seed-1042"):
        assert all(text.count(f"Answer {n} of {name} ") == 1 for n in range(PROMPTS))
    assert text.count(f"winner, {winner}, seed 1042") == PROMPTS


def test_a_stopped_run_has_its_curve_and_losses_up_to_where_it_was_stopped(two: Whole) -> None:
    stopped = two.material.trials[5]
    assert [step for step, _ in stopped.points("eval_loss")] == [3]
    assert [step for step, _ in stopped.run.losses] == [1, 2, 3]


def test_what_it_takes_to_run_it_again_lies_beside_the_page(two: Whole, tmp_path: Path) -> None:
    assert "python -m tune.search --track b --config config.yaml --name toy-again" in two.page.text
    assert "abc123, with changes that are not in it" in two.page.text
    again = new_request("b", config=str(two.folder / "config.yaml"), name="again", storage=str(tmp_path))
    assert again.config == two.played.request.config


def test_the_same_material_is_the_same_page(two: Whole, tmp_path: Path) -> None:
    again = write_report(two.material, tmp_path)
    assert again.read_bytes() == (two.folder / "report.html").read_bytes()


# --- the cost ---------------------------------------------------------------------------------------------------------


def test_the_cost_adds_up_as_by_hand(two: Whole) -> None:
    """12 trials and 6 finals took 8 s of steps each, 9 steps; the stopped one 3 of 9, as did the one that failed."""
    found = cost(two.material)
    assert found.jobs["baseline"] == (2, 8.0)
    assert (found.jobs["trial"][0], found.jobs["final"][0]) == (14, 6)
    assert found.work["training steps"] == 18 * 8.0
    assert found.work["from the call to the first step"] == 18 * 1.5
    assert found.work["answers and their scores"] == pytest.approx(18 * 3 * 1.5 + 2 * 1.5 + 2 * 3.0)
    assert sum(found.work.values()) == pytest.approx(found.busy)
    assert (found.steps, found.tokens) == (18 * 9 + 2 * 3, 18 * 800)
    assert (found.stopped, found.unused, found.whole) == (1, 6, 9 * 13)
    assert saved(found) == ["1 trial was stopped early, which left out 6 of 117 steps (5%)."]
    assert found.wall < found.busy <= 2 * found.wall


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.25 s"), (42.4, "42 s"), (396, "6 min 36 s"), (7500, "2 h 05 min")]
)
def test_a_duration_is_told_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --- searches that are not so -----------------------------------------------------------------------------------------


def test_one_objective_is_shown_by_trial(toy_request: ToyRequest, tmp_path: Path) -> None:
    played = one(toy_request)
    played.play().conclude()
    page = written(played.request, tmp_path)
    assert page.sections == SECTIONS
    assert "trials" in page.pictures
    assert "front" not in page.pictures
    assert "too few trials to tell: 6 finished, 10 are needed" in page.text


def test_a_search_that_runs_is_told_as_running(toy_request: ToyRequest, tmp_path: Path) -> None:
    played = one(toy_request, stop={3}).play(jobs=6)
    with FileLock(played.request.places.folder / "driver.lock"):
        page = written(played.request, tmp_path)
    assert page.sections == SECTIONS
    assert "No verdict yet (running)" in page.text
    assert "4 of 5 trials that were begun have ended, 0 finals are done." in page.text
    assert "So far: best " in page.text
    assert "--resume" not in page.text
    assert "forest" not in page.pictures


def test_a_search_that_was_cut_says_how_it_goes_on(toy_request: ToyRequest, tmp_path: Path) -> None:
    played = one(toy_request).play(jobs=9)
    page = written(played.request, tmp_path)
    assert "No verdict yet (stopped before its end)" in page.text
    assert "6 of 6 trials that were begun have ended, 1 finals are done." in page.text
    assert "python -m tune.search --track b --resume toy" in page.text
    assert "No finals have come to a result yet." in page.text


def test_a_search_that_has_not_begun_has_a_page(toy_request: ToyRequest, tmp_path: Path) -> None:
    request = toy_request(PARAMETERS)
    request.save()
    page = written(request, tmp_path)
    assert page.sections == SECTIONS
    assert page.pictures == {}
    assert "No verdict yet (not begun)" in page.text


def test_a_search_without_a_result_says_so(toy_request: ToyRequest, tmp_path: Path) -> None:
    played = one(toy_request, fail=set(range(6)))
    played.play().conclude()
    page = written(played.request, tmp_path)
    assert "No trial came to a result" in page.text
    assert str(played.request.places.log) in page.text
    assert page.text.count("non-finite loss") == 6


def test_an_ablation_is_shown_arm_by_arm(toy_sets: list[str], tmp_path: Path) -> None:
    words = ["training.kto_lambda=0,0.1", "training.beta=0.5"]
    request = new_request(
        "b", profile="laptop", overrides=toy_sets, name="arms", storage=str(tmp_path / "store"), ablate=words
    )
    played = Played(request)
    found = played.play().conclude()
    page = written(request, tmp_path)
    assert page.sections == [
        "verdict", "ablation", "curves", "schedule", "cost", "answers", "data", "origin", "limits",
    ]  # fmt: skip
    assert list(page.pictures) == ["ablation", "curves", "schedule"]
    for arm in found["equal_steps"]:
        assert arm["arm"] in page.text
        assert f"{arm['mean']:.3g}" in page.text
    assert "--ablate training.kto_lambda=0,0.1 --ablate training.beta=0.5" in page.text


# --- the command, and the end of a search -----------------------------------------------------------------------------


def test_the_command_writes_beside_the_summary_and_changes_nothing(
    two: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    places = two.played.request.places
    before = {path: path.read_bytes() for path in places.folder.iterdir() if path.is_file()}
    assert main(["toy", "--storage", str(places.storage)]) == 0
    page = places.results.with_name("toy-report") / "report.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert {path: path.read_bytes() for path in before} == before


def test_the_object_names_the_page_its_pictures_and_the_verdict(
    toy_request: ToyRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played = one(toy_request)
    verdict = played.play().conclude()["verdict"]
    assert main(["toy", "--storage", str(tmp_path / "store"), "--json", "--out", str(tmp_path / "here")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "here/report.html")
    assert {Path(path).stem for path in found["pictures"]} == {*PICTURES, "trials"} - {"front", "importance"}
    assert found["verdict"] == verdict


def test_answers_are_printed_as_markdown_for_prompts_that_a_seed_draws(
    two: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> list[str]:
        assert main(["toy", "--storage", str(two.played.request.places.storage), *words]) == 0
        return capsys.readouterr().out.rstrip("\n").split("\n\n")

    winner = two.summary["winner"]["trial"]
    drawn = printed("--answers", "2")
    assert drawn == printed("--answers", "2", "--seed", "1")
    for shown in drawn:
        prompt, *sides = [line for line in shown.split("\n") if line != ">"]
        assert prompt.startswith("> **")
        assert [side.split(", seed")[0] for side in sides[1:]] == [
            "> *config's own values, trial-000",
            f"> *winner, {winner}",
        ]
        assert sides[0].startswith("> *untuned model")
    assert len(printed("--answers", "999")) == PROMPTS
    assert "<img" not in "".join(printed("--answers", "999"))


def test_answers_are_of_one_search_and_at_least_one_prompt(two: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "--storage", str(two.played.request.places.storage), "--answers", "0"]) == 2
    assert capsys.readouterr().err == "expected one prompt or more, found 0\n"
    with pytest.raises(SystemExit):
        main(["toy", "tay", "--compare", "--answers", "3"])
    assert "leave out --compare" in capsys.readouterr().err


def test_a_search_that_is_not_there_is_named_with_those_that_are(
    toy_request: ToyRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    request = toy_request()
    request.save()
    assert main(["tuy", "--storage", str(request.places.storage)]) == 2
    assert "there are: toy" in capsys.readouterr().err


def test_a_damaged_file_is_named_in_one_line(toy_request: ToyRequest, capsys: pytest.CaptureFixture[str]) -> None:
    played = one(toy_request).play(jobs=3)
    damaged = played.request.places.results / "trial-000.json"
    damaged.write_text("{")
    assert main(["toy", "--storage", str(played.request.places.storage)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{damaged} is damaged")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "transformers", "optuna", "matplotlib", "jinja2", "numpy")
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', *[name for name in {heavy} if name in sys.modules]))\n"
        "from tune.report import main\n"
        "sys.exit(main(['--help']))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m tune.report b-20260101-120000 --open" in done.stdout
    assert done.stdout.endswith("heavy:\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def told(played: Played) -> Tracker:
    """A tracker whose server is away: what it is told waits on its spool."""
    import mlflow  # noqa: F401 - before the tracker's thread imports it while pytest looks at all modules

    return Tracker("http://127.0.0.1:9", "phasegpt-v14", played.request.places.folder / "own" / SPOOL)


def test_a_search_ends_well_though_its_report_cannot_be_made(
    toy_request: ToyRequest, caplog: pytest.LogCaptureFixture
) -> None:
    played = one(toy_request)
    played.play().conclude()
    (played.request.places.results / "final-000-seed-1042.json").write_text("{")
    tracker = told(played)
    with caplog.at_level(logging.INFO, "phasegpt"):
        leave(played.request, tracker, finished=4, begun=6)
        leave(played.request, tracker, finished=MOST, begun=MOST + 1)
    tracker.close(0.0)
    assert "no report could be made" in caplog.messages
    assert "final-000-seed-1042.json is damaged" in caplog.text
    assert any(said.endswith("make it with: python -m tune.report toy") for said in caplog.messages)


@pytest.mark.parametrize(("finished", "sent"), [(4, ["report"]), (5, ["insight", "report"])])
def test_a_search_that_ends_leaves_its_report_and_sends_it(
    toy_request: ToyRequest, finished: int, sent: list[str]
) -> None:
    played = one(toy_request)
    played.play().conclude()
    places, tracker = played.request.places, told(played)
    with FileLock(places.folder / "driver.lock"):
        leave(played.request, tracker, finished=finished, begun=6)
    tracker.close(0.0)
    assert [event["to"] for event in read_spool(places.folder / "own" / SPOOL) if "to" in event] == sent
    assert "2026, ended" in (places.summary.with_name("toy-report") / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the surface is flat", "The surface is flat."),
        ("eval_loss: no", "eval_loss: no."),
        ("lr matters", "Lr matters."),
    ],
)
def test_a_sentence_begins_with_a_capital_and_names_stay(text: str, said: str) -> None:
    assert sentence(text) == said


def test_a_file_of_pairs_that_has_changed_since_is_told(toy_request: ToyRequest, tmp_path: Path) -> None:
    """The file grew after the search: its checks are those that were kept, its strata those of today."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", toy_pairs(30))
    played = Played(toy_request(PARAMETERS, "search.trials=2", f"training.preference_dataset={pairs}"))
    played.play(jobs=2)
    assert "The file has changed since" not in data_section(gather(played.request))
    write_jsonl(pairs, toy_pairs(36))
    said = data_section(gather(played.request))
    assert "30 rows of" in said
    assert "The file has changed since" in said


def test_a_search_can_be_looked_at_when_its_data_has_gone(toy_request: ToyRequest, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", toy_pairs(30))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(resolve("data/eval_prompts.jsonl").read_bytes())
    files = (f"training.preference_dataset={pairs}", f"evaluation.prompts={prompts}")
    played = Played(toy_request(PARAMETERS, "search.trials=6", *files))
    played.play()
    pairs.unlink()
    prompts.unlink()
    where = ["toy", "--storage", str(played.request.places.storage)]
    assert control.main(["status", *where]) == 0
    assert insight.main(where) == 0
    assert main(where) == 0
    said = (report_folder(played.request.places) / "report.html").read_text()
    assert "30 rows of" in said
    assert "cannot be read any more" in said
    played.request.places.data_checks.unlink()
    assert main(where) == 0
    said = (report_folder(played.request.places) / "report.html").read_text()
    assert "What the checks of the data found is not known" in said
    assert "0 rows of" not in said
    with pytest.raises(RequestError, match="expected a file, found none"):
        resumed_request(played.request.track, "toy", str(played.request.places.storage))
