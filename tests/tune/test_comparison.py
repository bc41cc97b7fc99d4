"""python -m tune.report --compare on searches played by hand: who is compared with whom, what stands on the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import read_json, write_json
from phasegpt.statistics import p_best, paired_gain
from tests.tune.conftest import ToyRequest
from tests.tune.played import HOSTILE, Played
from tests.tune.report_pages import Page
from tests.tune.test_report import PARAMETERS, told
from tune.compared import Side, compare, hindrance
from tune.comparison import LONGEST, Entry, comparison_folder, gather_entries, requests_of, worked_by
from tune.comparison_pictures import winning_value
from tune.comparison_sections import write_comparison
from tune.finalists import prompt_scores
from tune.keepsakes import leave_comparison
from tune.report import main
from tune.report_jobs import Piece
from tune.request import Request, RequestError, new_request
from tune.scaling import NoLawError
from tune.scaling_view import Measure, Size, law_of, law_sentence, size_of
from tune.spool import SPOOL, read_spool

FAR = "search.parameters={training.learning_rate: {loguniform: [1e-4, 1e-3]}, model.lora_config.r: {choice: [4, 8]}}"
NEAR = "search.parameters={training.learning_rate: {loguniform: [8e-6, 2e-5]}, training.beta: {uniform: [0.08, 0.12]}}"
BETTER = ("training.learning_rate=1e-5", "training.beta=0.1")
SECTIONS = ["verdict", "winners", "courses", "chosen", "budget", "origin", "limits"]


def searched(storage: Path, sets: Sequence[str], *more: str, name: str, track: str = "b") -> Played:
    """A search without constraints whose winner has two seeds, played to its end."""
    laid = [*sets, "search.trials=4", "search.constraints={}", "search.finalists={count: 2, seeds: 2}", *more]
    return Played(new_request(track, profile="laptop", overrides=laid, name=name, storage=str(storage)))


def concluded(storage: Path, sets: Sequence[str], *more: str, name: str, track: str = "b") -> Request:
    played = searched(storage, sets, *more, name=name, track=track)
    played.play().conclude()
    return played.request


@dataclass(frozen=True)
class Compared4:
    """Four searches: `far` begins far from the best values, `near` at them, `other` decides by another metric, `cut`
    has not ended; and their page.
    """

    storage: Path
    requests: list[Request]
    entries: list[Entry]
    page: Page


@pytest.fixture(scope="module")
def four(toy_sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> Compared4:
    storage = tmp_path_factory.mktemp("four")
    cut = searched(storage, toy_sets, PARAMETERS, name="cut").play(jobs=4)
    requests = [
        concluded(storage, toy_sets, FAR, name="far"),
        concluded(storage, toy_sets, NEAR, *BETTER, name="near"),
        concluded(storage, toy_sets, FAR, "search.objectives={perplexity: min}", name="other"),
        cut.request,
    ]
    entries = gather_entries(requests)
    return Compared4(storage, requests, entries, read(entries, storage / "page"))


def read(entries: Sequence[Entry], folder: Path, *, scaling: bool = False) -> Page:
    """The page of a comparison, which is well-formed and loads nothing."""
    page = Page(write_comparison(entries, folder, scaling=scaling).read_text(encoding="utf-8"))
    assert (page.open, page.wrong, page.loads, page.scripts) == ([], [], [], 1)
    assert len(page.ids) == len(set(page.ids))
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted(page.pictures)
    return page


def final_scores(request: Request) -> list[dict[str, float]]:
    winner = read_json(request.places.summary)["winner"]["trial"].removeprefix("trial-")
    paths = sorted(request.places.results.glob(f"final-{winner}-seed-*.json"))
    return [prompt_scores(read_json(path), "eval_loss") for path in paths]


# --- who is compared with whom ----------------------------------------------------------------------------------------


def test_a_gain_is_over_the_first_winner_paired_by_pair(four: Compared4) -> None:
    far, near, other = compare(four.requests)
    scores = [final_scores(request) for request in four.requests[:2]]
    expected = paired_gain(scores[1], scores[0], "min")
    assert near.gain is not None
    assert (near.gain.mean, near.gain.low, near.gain.high) == (expected.mean, expected.low, expected.high)
    assert near.gain.word == "better"
    assert [far.p_best, near.p_best] == p_best(scores, "min")
    assert (far.gain, far.hindrance) == (None, "")
    assert (other.gain, other.p_best) == (None, None)
    assert other.hindrance == "decides by another metric: perplexity (min), not eval_loss (min)"


def test_intervals_of_several_gains_hold_together(four: Compared4, toy_sets: list[str]) -> None:
    third = concluded(four.storage, toy_sets, NEAR, name="third")
    found = compare([*four.requests[:2], third])
    alone, together = compare(four.requests[:2])[1].gain, found[1].gain
    assert alone is not None
    assert together is not None
    assert together.mean == alone.mean
    assert together.high - together.low > alone.high - alone.low
    assert sum(one.p_best or 0.0 for one in found) == pytest.approx(1)


def test_means_and_gains_over_the_untuned_model_are_those_of_the_summary(four: Compared4) -> None:
    for request, found in zip(four.requests, compare(four.requests), strict=False):
        best = read_json(request.places.summary)["finalists"][0]
        assert found.mean == pytest.approx(best["mean"])
        assert (None if found.interval is None else [found.interval.low, found.interval.high]) == best["interval"]
        assert (found.over_untuned and found.over_untuned.as_dict()) == best["over_baseline"]


SPIRAL = "search.objectives={spiral_score: max}"


def answered(
    metric: str, *, hashes: Mapping[str, str] | None = None, prompts: str = "Tell."
) -> list[Mapping[str, Any]]:
    kind = "pairs" if metric == "eval_loss" else "answers"
    rows = [{"id": f"p{n}", metric: n / 10, **({"prompt": prompts} if kind == "answers" else {})} for n in range(4)]
    return [{kind: rows, "hashes": {"scorer": "1.2", "data": "d", **(hashes or {})}}]


@pytest.mark.parametrize(
    ("metric", "sets", "other", "reason"),
    [
        ("spiral_score", [], {}, ""),
        ("spiral_score", ["model.base_model=elsewhere"], {}, ""),
        ("spiral_score", [], {"hashes": {"data": "e"}}, ""),
        ("spiral_score", [], {"hashes": {"scorer": "1.1"}}, "another version of the scorer: 1.1, not 1.2"),
        ("spiral_score", [], {"prompts": "Say."}, "other prompts: 0 that both have"),
        ("spiral_score", ["evaluation.max_new_tokens=5"], {}, "answers of up to 5 tokens, not"),
        ("eval_loss", ["evaluation.max_new_tokens=5"], {}, ""),
        ("eval_loss", [], {"hashes": {"scorer": "1.1"}}, ""),
        ("eval_loss", [], {"hashes": {"data": "e"}}, "other preference data"),
        ("eval_loss", ["model.base_model=elsewhere"], {}, "another base model than"),
    ],
)
def test_what_cannot_be_compared_is_said(
    toy_request: ToyRequest, metric: str, sets: list[str], other: Mapping[str, Any], reason: str
) -> None:
    objective = SPIRAL if metric == "spiral_score" else "search.objectives={eval_loss: min}"
    first = Side(toy_request(objective, name="one"), {}, answered(metric))
    side = Side(toy_request(objective, *sets, name="two"), {}, answered(metric, **other))
    said = hindrance(side, first)
    assert reason in said
    assert bool(said) == bool(reason)


def test_a_metric_without_values_for_prompts_has_nothing_to_pair_by(toy_request: ToyRequest) -> None:
    sides = [Side(toy_request("search.objectives={perplexity: min}", name=n), {}, [{}]) for n in ("one", "two")]
    assert "perplexity has no value for each prompt" in hindrance(*sides)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_section_with_its_numbers(four: Compared4) -> None:
    text = four.page.text
    assert four.page.sections == SECTIONS
    assert list(four.page.pictures) == ["winners", "courses", "chosen"]
    near = compare(four.requests)[1]
    assert near.gain is not None
    assert "Better than far: near" in text
    assert f"near against far: better, {near.gain}." in text
    assert f"{near.gain.mean:+.3f} [{near.gain.low:+.3f}, {near.gain.high:+.3f}]" in text
    assert "other is not compared with far: decides by another metric" in text
    assert "cut has no winner (stopped before its end)." in text
    assert all(f"{request.name}: Champion's seat: phasegpt-track-b" in text for request in four.requests[:3])


def test_pictures_say_what_they_show(four: Compared4) -> None:
    far, near, _ = compare(four.requests)
    for found in (far, near):
        assert found.interval is not None
        said = f"{found.name} {found.mean:.3g} [{found.interval.low:.3g}, {found.interval.high:.3g}]"
        assert said in four.page.pictures["winners"]
    for entry in four.entries:
        assert f"{entry.label}: {entry.course.sentence()}" in four.page.pictures["courses"]


def test_values_are_chosen_fixed_or_not_read(four: Compared4) -> None:
    far, near, _, cut = four.entries
    assert far.found is not None
    assert winning_value(far, "training.learning_rate") == far.found.values["training.learning_rate"]
    assert winning_value(far, "training.beta") == far.material.request.config.training.beta
    assert winning_value(near, "training.desirable_weight") is None
    assert winning_value(cut, "training.learning_rate") is None
    assert "(fixed)" in four.page.text


def test_the_budget_counts_what_was_run(four: Compared4) -> None:
    far = four.entries[0]
    assert (len(far.material.trials), sum(map(len, far.material.finals.values()))) == (4, 4)
    assert far.cost.steps == 8 * 9
    assert f"{8 * 9 * 800 // 9:,}" in four.page.text


def test_hostile_reasons_are_text(four: Compared4) -> None:
    source = (four.storage / "page/report.html").read_text(encoding="utf-8")
    assert HOSTILE in four.page.text
    assert "<img" not in source


def test_the_page_comes_with_what_it_takes_to_run_each_again(four: Compared4) -> None:
    for request in four.requests:
        again = new_request("b", config=str(four.storage / "page" / f"{request.name}.yaml"), profile="none", name="x")
        assert again.config == request.config
        assert f"--config {request.name}.yaml --name {request.name}-again" in four.page.text
    assert "python -m tune.report --compare b/far b/near b/other b/cut" in four.page.text


def test_searches_without_a_winner_have_a_page(toy_request: ToyRequest, tmp_path: Path) -> None:
    requests = [toy_request(name=name) for name in ("one", "two")]
    for request in requests:
        request.save()
    page = read(gather_entries(requests), tmp_path / "page", scaling=True)
    assert page.sections == [*SECTIONS[:5], "scaling", *SECTIONS[5:]]
    assert "No search has a winner yet" in page.text
    assert "one: not begun" in page.text


def test_time_is_what_a_search_had_worked() -> None:
    """Ten seconds of work, a pause of ninety, five more; two jobs at once count once."""
    pieces = [
        Piece("trial-000", "trial", 0.0, 10.0, "complete"),
        Piece("trial-001", "trial", 2.0, 8.0, "cut"),
        Piece("trial-001", "trial", 100.0, 105.0, "complete"),
    ]
    assert [worked_by(pieces, moment) for moment in (4.0, 10.0, 50.0, 105.0)] == [4.0, 10.0, 10.0, 15.0]
    assert worked_by(pieces, None) is None


# --- over the size of the model ---------------------------------------------------------------------------------------


def model_of(folder: Path, hidden: int, vocabulary: int = 1000) -> str:
    """The folder of a model of which nothing is there but its sizes: two layers."""
    sizes = {
        "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": vocabulary,
    }  # fmt: skip
    write_json(folder / "config.json", sizes)
    return f"model.base_model={folder}"


def on_sizes(storage: Path, sets: list[str], *hidden: int, vocabulary: int = 1000) -> list[Entry]:
    """A search on a model of each width; the winner's spiral scores grow by its width."""
    requests = []
    for width in hidden:
        model = model_of(storage / f"model-{width}", width, vocabulary)
        request = concluded(storage, sets, NEAR, model, name=f"size-{width}")
        for path in request.places.results.glob("final-*.json"):
            result = read_json(path)
            rows = [{**row, "spiral_score": width / 100 + n / 100} for n, row in enumerate(result["answers"])]
            metrics = {**result["metrics"], "spiral_score": width / 100 + 2.5 / 100}
            result["clock"] |= {"memory_gb": [float(width), width / 2]}
            write_json(path, {**result, "answers": rows, "metrics": metrics})
        requests.append(request)
    return gather_entries(requests)


def test_three_trained_sizes_have_a_law_and_two_have_none(toy_sets: list[str], tmp_path: Path) -> None:
    entries = on_sizes(tmp_path, toy_sets, 16, 32, 64)
    sizes = [size_of(entry) for entry in entries]
    assert [size.parameters for size in sizes] == [2 * 10 * w * w + 1000 * w for w in (16, 32, 64)]
    assert [size.untrained for size in sizes] == ["", "", ""]
    assert [size.measures["memory_gb"].value for size in sizes] == [16.0, 32.0, 64.0]
    assert [size.measures["spiral_score"].value for size in sizes] == pytest.approx([0.185, 0.345, 0.665])
    law = law_of(sizes, "spiral_score")
    assert (law.sizes, law.low < law.exponent < law.high) == (3, True)
    with pytest.raises(NoLawError, match="there are 2"):
        law_of(sizes[:2], "spiral_score")
    page = read(entries, tmp_path / "page")
    assert page.sections == [*SECTIONS[:5], "scaling", *SECTIONS[5:]]
    assert law_sentence(sizes, "spiral_score") in page.text
    assert "from 3 sizes" in page.text
    assert "size-16 21,120" in page.pictures["scaling"]


def test_random_weights_count_for_no_law(toy_sets: list[str], tmp_path: Path) -> None:
    """The untuned model's perplexity is 40: of a vocabulary of 100, hardly better than guessing."""
    sizes = [size_of(entry) for entry in on_sizes(tmp_path, toy_sets, 16, 32, 64, vocabulary=100)]
    assert all(size.untrained.startswith("its untuned model has a perplexity of 40") for size in sizes)
    assert law_sentence(sizes, "memory_gb") == (
        "most memory of a worker: a power law takes 3 different trained sizes, and there are none."
    )


def test_speeds_of_different_machines_make_no_law() -> None:
    sizes = [
        Size(f"s{n}", "m", 10**n, "", {"tokens_per_second": Measure(10.0 / n, by="a GPU" if n > 1 else "two cores")})
        for n in (1, 2, 3)
    ]
    assert law_sentence(sizes, "tokens_per_second") == (
        "training speed: no power law over what was measured differently (a GPU; two cores)."
    )


def test_a_model_that_is_not_here_has_no_size(toy_sets: list[str], tmp_path: Path) -> None:
    requests = [concluded(tmp_path, toy_sets, NEAR, "model.base_model=/gone", name=name) for name in ("one", "two")]
    page = read(gather_entries(requests), tmp_path / "page", scaling=True)
    assert "no: size not known" in page.text
    assert "scaling" not in page.pictures


def test_what_was_not_measured_is_a_dash(four: Compared4, tmp_path: Path) -> None:
    assert "spiral_score" not in size_of(four.entries[0]).measures
    assert size_of(four.entries[3]).untrained == "no winner was judged"
    page = read(four.entries, tmp_path, scaling=True)
    assert "no: no winner was judged" in page.text


# --- the command, and the end of all tracks ---------------------------------------------------------------------------


def test_the_command_writes_beside_the_results_and_changes_nothing(
    four: Compared4, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [request.places.folder for request in four.requests]
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir() if path.is_file()}
    assert main(["--compare", "far", "near", "--storage", str(four.storage), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(four.storage / "results/v14/far-vs-near/report.html")
    assert [(each["name"], each["winner"]) for each in found["comparison"]] == [
        (each.name, each.winner) for each in compare(four.requests[:2])
    ]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compare", "far"], "expected two searches or more"),
        (["--compare", "far", "fra"], "there are: cut, far, near"),
        (["--compare", "far", "b/far"], "far is named twice"),
        (["--compare", "far", "a/near"], "no such search"),
    ],
)
def test_a_bad_comparison_is_answered_in_one_line(
    four: Compared4, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*words, "--storage", str(four.storage)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("words", [["far", "near"], ["far", "--scaling"]])
def test_several_names_and_scaling_are_for_a_comparison(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--compare" in capsys.readouterr().err


def test_an_ablation_has_no_winner_to_compare(toy_sets: list[str], tmp_path: Path) -> None:
    for name, ablate in {"search": [], "arms": ["training.beta=0.5"]}.items():
        new_request("b", overrides=toy_sets, name=name, storage=str(tmp_path), ablate=ablate, gpu=False).save()
    with pytest.raises(RequestError, match="arms is an ablation"):
        requests_of(["search", "arms"], None, str(tmp_path))


def test_a_name_that_two_tracks_have_is_given_with_its_track(toy_sets: list[str], tmp_path: Path) -> None:
    for track in "ab":
        new_request(track, profile="laptop", overrides=toy_sets, name="same", storage=str(tmp_path)).save()
    requests = requests_of(["a/same", "b/same"], None, str(tmp_path))
    assert [entry.label for entry in gather_entries(requests)] == ["a/same", "b/same"]
    assert comparison_folder(requests) == tmp_path / "results/v14/a-same-vs-b-same"
    with pytest.raises(RequestError, match="tracks a and b have a search of this name"):
        requests_of(["same", "a/same"], None, str(tmp_path))


def test_a_folder_of_many_long_names_is_cut_and_told_apart(toy_request: ToyRequest) -> None:
    long, other = [[toy_request(name=f"{letter}{n}" + "x" * 70) for n in range(3)] for letter in "pq"]
    names = [comparison_folder(requests).name for requests in (long, [*long[:2], other[2]])]
    assert [len(name) for name in names] == [LONGEST + 9] * 2
    assert names[0] != names[1]


def test_all_tracks_leave_their_comparison_and_send_it(
    toy_sets: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    played = searched(tmp_path, toy_sets, FAR, name="one")
    played.play().conclude()
    requests = [played.request, concluded(tmp_path, toy_sets, NEAR, name="two")]
    tracker = told(played)
    leave_comparison(requests, tracker, "family", tmp_path / "family-report")
    (requests[1].places.results / "final-000-seed-1042.json").write_text("{")
    leave_comparison(requests, tracker, "family", tmp_path / "broken-report")
    tracker.close(0.0)
    sent = read_spool(played.request.places.folder / "own" / SPOOL)
    assert [event["to"] for event in sent if "to" in event] == ["report"]
    assert (tmp_path / "family-report/report.html").is_file()
    assert caplog.messages[-1] == "no report of the tracks side by side could be made"
