"""Is a winner that is declared better really better? Whole searches on settings whose truth is known.

Scores are *prompt + setting on this prompt + run + noise*, in units of the prompts' standard deviation, as in
`coverage.py`. Trials are ranked on the search half by one run each; `tune.finalists.choose` sends the best and the
config's own values to the finals on new prompts and new runs; the best mean wins; it is declared better where the
lower bound of its gain over the config's own values is above zero. Four minutes of one quiet core:
`python tests/benchmarks/decision.py [--searches 1000] [--seed 1] [--json]`; docs/methods.md quotes it.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from phasegpt import spread
from phasegpt.config_search import Search
from phasegpt.statistics import p_best, paired_interval
from tests.benchmarks.coverage import NOISE_SD, SETTING_SD, Array, as_runs, studentised
from tune.finalists import Candidate, choose

TRIALS, PROMPTS, FINALS, RUN_SD = (8, 24), (12, 24), ((2, 2), (3, 3)), (0.0, 0.3)
"""Trials of a search, prompts of each half, (finalists, runs of each), standard deviation between runs."""

TRUTHS = ("all equal", "one better by 0.2", "one better by 0.5", "one better by 1.0", "spread by 0.5")
RULES = ("before", "plain", "first choice", "simultaneous")
"""`before`: studentised bootstrap over prompts; `plain`: a 95 % interval of the winner's own; `first choice`: the same
for the challenger that the search ranked first, whatever the finals say; `simultaneous`: what the tool uses."""

RESAMPLES = 1000


def gains(truth: str, trials: int, rng: np.random.Generator) -> Array:
    """By how much each setting is truly better than trial 0, the config's own values."""
    true = np.zeros(trials)
    if truth.startswith("one better"):
        true[rng.integers(1, trials)] = float(truth.rsplit(" ", 1)[1])
    elif truth.startswith("spread"):
        true[1:] = 0.5 * rng.normal(size=trials - 1)
    return true


def scores(true: Array, runs: int, prompts: int, run_sd: float, rng: np.random.Generator) -> Array:
    """[settings, runs, prompts] on new prompts and new runs."""
    n = len(true)
    shared, setting = rng.normal(size=prompts), SETTING_SD * rng.normal(size=(n, 1, prompts))
    run, noise = run_sd * rng.normal(size=(n, runs, 1)), NOISE_SD * rng.normal(size=(n, runs, prompts))
    return np.asarray(true[:, None, None] + shared + setting + run + noise)


def finalists(found: Array, count: int) -> list[int]:
    """The trials that go to the finals by their means in the search, best first."""
    search = Search.model_validate({"objectives": {"spiral_score": "max"}, "finalists": {"count": count, "seeds": 2}})
    return [c.number for c in choose(search, [Candidate(i, {}, {"spiral_score": m}, {}) for i, m in enumerate(found)])]


def one_search(truth: str, trials: int, prompts: int, count: int, runs: int, run_sd: float, rng: np.random.Generator):
    """What each rule declares (None or the true gain of what it declares better), and what was to be found."""
    true = gains(truth, trials, rng)
    chosen = finalists(scores(true, 1, prompts, run_sd, rng).mean((1, 2)), count)
    final = scores(true[chosen], runs, prompts, run_sd, rng)
    own, best, first = chosen.index(0), int(final.mean((1, 2)).argmax()), 1 if chosen[0] == 0 else 0
    sides = [as_runs(side) for side in final]

    def declared(place: int, comparisons: int) -> float | None:
        better = place != own and paired_interval(sides[place], sides[own], comparisons=comparisons).low > 0
        return float(true[chosen[place]]) if better else None

    before = studentised(final[best][None], final[own][None])[0].item() > 0 and best != own
    found = {
        "before": float(true[chosen[best]]) if before else None,
        "plain": declared(best, 1),
        "first choice": declared(first, 1),
        "simultaneous": declared(best, len(chosen) - 1),
    }
    said = p_best(sides)[best]
    return found, true[chosen].max() > 0, said, true[chosen[best]] == true[chosen].max()


def measure(searches: int, seed: int) -> Iterator[dict[str, object]]:
    """A row for each truth and size of search; shares are of all searches, `right` of the declared ones."""
    cases = itertools.product(TRUTHS, TRIALS, PROMPTS, FINALS, RUN_SD)
    for number, (truth, trials, prompts, (count, runs), run_sd) in enumerate(cases):
        rng = np.random.default_rng([seed, number])
        found = [one_search(truth, trials, prompts, count, runs, run_sd, rng) for _ in range(searches)]
        row: dict[str, object] = {"truth": truth, "trials": trials, "prompts": prompts, "finalists": count}
        row |= {"runs": runs, "run_sd": run_sd, "searches": searches}
        row["better_in_finals"] = float(np.mean([there for _, there, _, _ in found]))
        row["p_best"] = {"said": float(np.mean([f[2] for f in found])), "was": float(np.mean([f[3] for f in found]))}
        for rule in RULES:
            declared = [said[rule] for said, _, _, _ in found if said[rule] is not None]
            true = sum(gain > 0 for gain in declared)
            row[rule] = {"declared": len(declared), "truly_better": true}
        yield row


def _pooled(rows: list[dict], rule: str) -> str:
    """Shares over rows: declared, and of these truly better."""
    said, true = (sum(row[rule][key] for row in rows) for key in ("declared", "truly_better"))
    right = f"{100 * true / said:.0f}" if said else "–"
    return f"{100 * said / sum(row['searches'] for row in rows):.1f} ({right})"


def table(rows: list[dict]) -> Iterator[str]:
    """By truth, finals and run deviation, over both numbers of trials: % declared (% of them truly better).

    Each cell is for 12 prompts, then for 24.
    """
    yield f"| truth | finalists x runs | run sd | better one in finals | {' | '.join(RULES)} |"
    yield "|---" * (4 + len(RULES)) + "|"
    for truth, (count, runs), run_sd in itertools.product(TRUTHS, FINALS, RUN_SD):
        mine = [
            [r for r in rows if (r["truth"], r["runs"], r["run_sd"], r["prompts"]) == (truth, runs, run_sd, prompts)]
            for prompts in PROMPTS
        ]
        there = "; ".join(f"{100 * np.mean([row['better_in_finals'] for row in some]):.0f}" for some in mine)
        cells = " | ".join("; ".join(_pooled(some, rule) for some in mine) for rule in RULES)
        yield f"| {truth} | {count} x {runs} | {run_sd} | {there} | {cells} |"


def main() -> None:
    """Print the table, or every row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    spread.RESAMPLES = RESAMPLES
    rows = list(measure(options.searches, options.seed))
    print(json.dumps(rows, indent=1) if options.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
