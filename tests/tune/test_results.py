"""The searches of docs/results.md: what is missing is run in order and published, and one finalist can be checked."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from phasegpt.files import write_json
from tune.published import SEARCHES, Published, named
from tune.rerun import rerun, winner
from tune.results import NO_RESULT, WON, budget, main, run_all

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the shipped data, and nothing run."""
    monkeypatch.setenv("PHASEGPT_ROOT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


class Played:
    """A command line that notes what was asked, and leaves what a search leaves: its summary, where it ends with 0."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.asked = list(statuses), list[str]()

    def __call__(self, words: Sequence[str]) -> int:
        self.asked.append(" ".join(words))
        status = self.statuses.pop(0) if self.statuses else WON
        name = words[1 + next(place for place, word in enumerate(words) if word in ("--name", "--resume"))]
        if status == WON:
            write_json(named(name).places.summary, {"name": name})
        return status


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_each_search_of_the_list_can_be_asked_for(search: Published, root: Path) -> None:
    request = search.request(name="asked")
    assert request.profile is None
    assert request.config.model.base_model == "smollm2-135m"
    assert bool(request.arms) == ("--ablate" in search.words)


def test_every_published_result_is_of_the_list() -> None:
    there = {path.stem for path in (ROOT / "docs" / "results").glob("smollm2-*.json")}
    assert there
    assert there <= {search.name for search in SEARCHES}


def test_missing_searches_run_in_order_and_are_published(root: Path) -> None:
    command = Played()
    assert run_all(SEARCHES, ["--max-concurrent", "7"], command) == WON
    assert [words.split("--name ")[1].split()[0] for words in command.asked] == [search.name for search in SEARCHES]
    assert all(words.endswith("--max-concurrent 7") for words in command.asked)
    assert {search.state for search in SEARCHES} == {"published"}


def test_what_is_published_is_left_alone(root: Path) -> None:
    first, second, *_ = SEARCHES
    write_json(first.summary, {"name": "as it was"})
    command = Played()
    run_all([first, second], [], command)
    assert [words.rpartition(" ")[2] for words in command.asked] == [second.name]
    assert [search.found() for search in (first, second)] == [{"name": "as it was"}, {"name": second.name}]


def test_what_was_begun_is_resumed_and_what_ended_is_published(root: Path) -> None:
    begun, ended, *_ = SEARCHES
    write_json(begun.places.request, {})
    write_json(ended.places.summary, {"name": "ended"})
    command = Played()
    run_all([begun, ended], [], command)
    assert command.asked == [f"-m tune.search --track {begun.track} --resume {begun.name}"]
    assert (begun.state, ended.state, ended.found()) == ("published", "published", {"name": "ended"})


def test_a_search_that_is_cut_stops_the_row_and_one_without_a_result_does_not(root: Path) -> None:
    command = Played(NO_RESULT, 130)
    assert run_all(SEARCHES[:3], [], command) == 130
    assert len(command.asked) == 2
    assert [search.state for search in SEARCHES[:3]] == ["new"] * 3


def test_the_budget_names_every_search_and_counts_the_fits_of_those_that_are_missing(root: Path) -> None:
    write_json(SEARCHES[0].summary, {})
    lines = budget(SEARCHES).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        [search.name, "published" if search is SEARCHES[0] else "new"] for search in SEARCHES
    ]
    fits = {line.split()[0]: line.split()[2] for line in lines[1:]}
    assert (fits["smollm2-lambdas"], fits["smollm2-own"], fits["smollm2-factors"]) == ("15", "20", "12")


def test_before_the_model_is_here_the_budget_says_why_it_knows_no_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "empty"))
    *_, last, reason = budget(SEARCHES).splitlines()
    assert last.split()[:5] == ["smollm2-c", "new", "14", "?", "?"]
    assert reason == "?: unknown until the base model is here"


def test_an_unknown_name_is_answered_with_the_names_there_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "smollm2-z"]) == 2
    assert f"there are: {', '.join(search.name for search in SEARCHES)}" in capsys.readouterr().err


def test_only_a_published_search_with_a_winner_can_be_checked(root: Path) -> None:
    search = SEARCHES[0]
    with pytest.raises(ValueError, match="not published yet; run it with"):
        winner(search)
    write_json(search.summary, {"winner": None, "finalists": []})
    with pytest.raises(ValueError, match="no winner with an interval"):
        winner(search)


def test_the_published_results_can_be_checked() -> None:
    assert winner(named("smollm2-a"))["trial"] == "trial-014"


def test_a_finalist_runs_again_and_holds_where_its_value_lies_in_the_interval(
    root: Path, toy_sets: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for each in toy_sets for word in ("--set", each)]
    options = shlex.join(["--profile", "laptop", *sets])
    search = Published("toy", "b", "nothing", "../v14/kto_regularized.yaml", options)
    finalist = {"trial": "trial-002", "params": {"training.beta": 0.3}, "interval": [0.0, 9.0]}
    write_json(search.summary, {"winner": {"trial": "trial-002"}, "finalists": [finalist]})
    again = rerun(search)
    assert again.holds
    assert (again.trial, again.seed, again.metric) == ("trial-002", 1042, "eval_loss")
    [written] = root.glob("results/v14/track_b/toy-check/*.json")
    config = json.loads(written.read_text())["config"]
    assert (config["training"]["beta"], config["experiment"]["seed"]) == (0.3, 1042)
    monkeypatch.setattr("tune.published.SEARCHES", [search])
    write_json(search.summary, {"winner": finalist, "finalists": [finalist | {"interval": [8.0, 9.0]}]})
    assert main(["--check", "toy"]) == 1, "it is read back, and lies outside"
    assert "lies outside the published interval [8.000, 9.000]" in capsys.readouterr().out
