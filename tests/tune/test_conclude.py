"""The end of a search from results on disk: who won, what is told, and what a search without results comes to."""

import json
from pathlib import Path
from typing import Any

import pytest

from phasegpt.files import write_json
from phasegpt.metrics.spiral import spiral_score
from phasegpt.statistics import paired_gain
from tests.tune.conftest import ToyRequest
from tune.conclude import conclude, final_results, summary
from tune.finalists import prompt_scores
from tune.jobs import from_config
from tune.request import Request
from tune.searcher import FINISHED_KEY, JobSearcher
from tune.study import Study

LOSSES = (0.60, 0.55, 0.65)
"""What the three trials came to on the search half."""


class Played:
    """A toy search whose jobs were played by hand: `losses` on the search half, `finals` by trial on the final half."""

    def __init__(self, request: Request) -> None:
        config, places = request.config, request.places
        self.request = request
        study = Study("toy", places.folder / "study.journal", config.search, request.own_values(), seed=42)
        self.searcher = JobSearcher(study, config.search, {}, places.results, config.experiment.seed)

    def baselines(self) -> "Played":
        for half in ("search", "final"):
            self._run(result(f"toy/baseline-{half}", 0.69))
        return self

    def trials(self, losses: tuple[float, ...] = LOSSES) -> "Played":
        for number, loss in enumerate(losses):
            self._run(result(f"toy/trial-{number:03d}", loss))
        return self

    def finals(self, losses: dict[int, float]) -> "Played":
        for job in list(self.searcher.final_jobs()):
            self._run(result(f"toy/{job.name}", losses[job.number], job.values["experiment.seed"]))
        return self

    def write(self, found: dict[str, Any]) -> None:
        write_json(self.searcher.results / f"{found['name'].split('/')[1]}.json", found)

    def _run(self, found: dict[str, Any]) -> None:
        job = from_config(self.searcher.suggest(found["name"]))[0]
        assert job.name == found["name"].split("/")[1]
        self.write(found)
        told = {"step": 4, FINISHED_KEY: True} | {f"metric/{n}": v for n, v in found["metrics"].items()}
        self.searcher.on_trial_complete(found["name"], result=told)


def result(name: str, loss: float, seed: int = 42) -> dict[str, Any]:
    """A run's result with three held-out pairs around `loss`."""
    rows = [{"id": f"p{n}", "eval_loss": loss + n / 100} for n in (-1, 0, 1)]
    return {
        "name": name,
        "metrics": {"eval_loss": loss, "kl_divergence": 0.1},
        "answers": [],
        "pairs": rows,
        "adapter": f"/somewhere/{name}/adapter_model",
        "config": {"experiment": {"seed": seed}},
        "steps": 4,
        "seconds": {"total": 2.5},
    }


@pytest.fixture
def played(toy_request: ToyRequest) -> Played:
    return Played(toy_request("search.constraints={kl_divergence: '<= 2.0'}"))


def test_a_search_without_baselines_or_trials_has_no_conclusion(played: Played) -> None:
    assert conclude(played.request, played.searcher) is None
    assert conclude(played.request, played.baselines().searcher) is None


def test_a_search_without_finals_has_no_conclusion(played: Played) -> None:
    assert conclude(played.request, played.baselines().trials().searcher) is None


def test_the_winner_is_decided_by_the_finals_and_compared_with_the_own_values(played: Played) -> None:
    played.baselines().trials().finals({1: 0.50, 0: 0.62})
    found = conclude(played.request, played.searcher)
    assert found is not None
    assert [f.number for f in found.finalists] == [1, 0]
    assert found.winner is found.finalists[0]
    assert (found.winner.seeds, found.winner.metrics["eval_loss"]) == ((1042, 1043), 0.50)
    assert found.winner.gain is not None
    assert found.winner.gain.mean == pytest.approx(0.12)
    assert found.finalists[1].gain is None
    assert found.verdict == (
        "better than the config's own values: +0.120 [+0.120, +0.120] over 3 prompts, ratio 0.81, "
        "win rate 1.00 [0.40, 1.00]"
    )
    assert found.run_name == "final-001-seed-1042"
    assert found.adapter == Path("/somewhere/toy/final-001-seed-1042/adapter_model")


def test_the_gains_of_all_finalists_hold_together_and_each_has_its_own_chance(toy_request: ToyRequest) -> None:
    """Pairs shift by other amounts in each finalist, so that an interval has a width to reckon with."""
    sets = ("search.constraints={kl_divergence: '<= 2.0'}", "search.finalists={count: 3, seeds: 2}")
    played = Played(toy_request(*sets)).baselines().trials().finals({0: 0.62, 1: 0.50, 2: 0.60})
    for job in played.searcher.final_jobs():
        found = dict(played.searcher.read(job.name))
        shifts = [0.01 * (job.number + 1) * shift for shift in (1, -2, 2)]
        rows = [{**row, "eval_loss": row["eval_loss"] + s} for row, s in zip(found["pairs"], shifts, strict=True)]
        played.write({**found, "pairs": rows})
    concluded = conclude(played.request, played.searcher)
    assert concluded is not None
    best, own = concluded.winner, next(f for f in concluded.finalists if f.number == 0)
    untuned = [prompt_scores(concluded.baseline, "eval_loss")]
    assert [f.number for f in concluded.finalists] == [1, 0, 2]
    assert best.gain == paired_gain(best.scores, own.scores, "min", 2) != paired_gain(best.scores, own.scores, "min")
    assert best.over_baseline == paired_gain(best.scores, untuned, "min", 3)
    assert own.over_baseline == paired_gain(own.scores, untuned, "min", 3) != paired_gain(own.scores, untuned, "min")
    assert best.p_best is not None
    assert best.p_best > 0.9
    assert all((f.p_best or 0) < 0.1 for f in concluded.finalists if f is not best)


def spoken(name: str, text: str, seed: int = 42) -> dict[str, Any]:
    """A result whose answers an older scorer gave 9.0."""
    rows = [{"id": f"p{n}", "answer": text, "spiral_score": 9.0} for n in range(3)]
    metrics = {"spiral_score": 9.0, "kl_divergence": 0.1}
    return {**result(name, 0.5, seed), "metrics": metrics, "answers": rows, "hashes": {"scorer": "spiral 0.1"}}


def test_answers_that_an_older_scorer_judged_are_scored_again_before_they_decide(toy_request: ToyRequest) -> None:
    played = Played(toy_request("search.objectives={spiral_score: max}", "search.constraints={}", "search.trials=1"))
    plain, moving = "Walking is good. It is healthy.", "Leave it alone, and yet it dies; so we tend what we would free."
    for half in ("search", "final"):
        played._run(spoken(f"toy/baseline-{half}", plain))
    played._run(spoken("toy/trial-000", moving))
    for job in list(played.searcher.final_jobs()):
        played._run(spoken(f"toy/{job.name}", moving, job.values["experiment.seed"]))
    found = conclude(played.request, played.searcher)
    assert found is not None
    assert found.baseline["metrics"]["spiral_score"] == pytest.approx(spiral_score(plain))
    assert found.winner.metrics["spiral_score"] == pytest.approx(spiral_score(moving))
    assert found.winner.scores == [dict.fromkeys(("p0", "p1", "p2"), spiral_score(moving))] * 2
    assert found.winner.over_baseline is not None
    assert found.winner.over_baseline.mean == pytest.approx(spiral_score(moving) - spiral_score(plain))


def test_the_best_of_the_search_may_lose_the_finals(played: Played) -> None:
    played.baselines().trials().finals({1: 0.66, 0: 0.60})
    found = conclude(played.request, played.searcher)
    assert found is not None
    assert found.winner.number == 0
    assert found.verdict == "the config's own values won: no other setting was better"


def test_a_finalist_keeps_the_seeds_that_came_to_a_result(played: Played) -> None:
    played.baselines().trials().finals({1: 0.50, 0: 0.62})
    (played.searcher.results / "final-001-seed-1042.json").unlink()
    for name in ("final-000-seed-1042", "final-000-seed-1043"):
        (played.searcher.results / f"{name}.json").unlink()
    found = conclude(played.request, played.searcher)
    assert found is not None
    assert (found.winner.number, found.winner.seeds) == (1, (1043,))
    assert found.run_name == "final-001-seed-1043"
    assert found.verdict.startswith("not comparable with the config's own values")
    assert [r["name"] for r in final_results(played.request, played.searcher, found.winner)] == [
        "toy/final-001-seed-1043"
    ]


def test_the_summary_has_every_key_that_scripts_rely_on(played: Played) -> None:
    played.baselines().trials().finals({1: 0.50, 0: 0.62})
    found = conclude(played.request, played.searcher)
    champion = {"model": "phasegpt-track-b", "version": "1", "promoted": True, "reason": "uncontested"}
    report = summary(played.request, played.searcher, found, champion)
    assert (report["name"], report["track"], report["champion"]) == ("toy", "b", champion)
    assert (report["winner"]["trial"], report["winner"]["metrics"]["eval_loss"]) == ("trial-001", 0.50)
    assert report["winner"]["params"] == report["trials"][1]["params"]
    assert report["defaults"]["metrics"]["eval_loss"] == 0.60
    assert report["baseline"]["metrics"]["eval_loss"] == report["baseline_final"]["metrics"]["eval_loss"] == 0.69
    assert [(t["id"], t["state"], t["origin"], t["steps"], t["seconds"]) for t in report["trials"]] == [
        ("trial-000", "COMPLETE", "config", 4, 2.5),
        ("trial-001", "COMPLETE", "sampler", 4, 2.5),
        ("trial-002", "COMPLETE", "sampler", 4, 2.5),
    ]
    assert [t["metrics"]["eval_loss"] for t in report["trials"]] == list(LOSSES)
    first, second = report["finalists"]
    assert (first["seeds"], first["mean"], first["feasible"]) == ([1042, 1043], pytest.approx(0.50), True)
    assert first["interval"][0] < 0.50 < first["interval"][1]
    assert (first["over_defaults"]["n"], second["over_defaults"]) == (3, None)
    assert first["over_baseline"]["mean"] == pytest.approx(0.19)
    assert first["over_baseline"]["ratio"] == pytest.approx(0.50 / 0.69)
    assert first["over_baseline"]["wins"]["rate"] == 1.0
    assert first["over_defaults"]["wins"].keys() == {"rate", "low", "high", "n", "level"}
    write_json(played.request.places.summary, report)
    assert json.loads(played.request.places.summary.read_text()) == json.loads(json.dumps(report))


def test_a_search_without_a_usable_trial_still_has_a_summary(played: Played) -> None:
    played.baselines()
    for number in range(3):
        played.searcher.suggest(f"ray-{number}")
        played.searcher.on_trial_complete(f"ray-{number}", result={"step": 0, "failure": "MemoryError: no room"})
    assert conclude(played.request, played.searcher) is None
    report = summary(played.request, played.searcher, None, None)
    assert (report["winner"], report["defaults"], report["finalists"], report["champion"]) == (
        None,
        {"metrics": {}},
        [],
        None,
    )
    assert report["verdict"] == "no trial came to a result"
    assert {(t["state"], t["why"], t["steps"]) for t in report["trials"]} == {("FAIL", "MemoryError: no room", 0)}
    write_json(played.request.places.summary, report)


def test_an_objective_without_rows_is_concluded_without_intervals(toy_request: ToyRequest) -> None:
    played = Played(toy_request("search.objectives={kl_divergence: min}"))
    played.baselines().trials().finals({0: 0.5, 1: 0.5})
    found = conclude(played.request, played.searcher)
    assert found is not None
    report = summary(played.request, played.searcher, found, None)
    assert (report["finalists"][0]["mean"], report["finalists"][0]["interval"]) == (0.1, None)
