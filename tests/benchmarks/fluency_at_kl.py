"""What λ does to perplexity at equal measured KL, out of all evaluations of a search's trials.

The rise of perplexity over the untuned model is a power of the KL that was spent, with one exponent for all trials and
a factor for those with λ > 0: log(rise) = a + b · log(KL) + c · [λ > 0]. exp(c) is what a trial with λ has of the rise
of one without, at equal KL. The interval draws whole trials anew, on either side (10,000 times, seed 0). Evaluations at
a KL below 0.001 nats a token are left out: there both numbers are mostly rounding.

    python tests/benchmarks/fluency_at_kl.py docs/results/smollm2-own.json docs/results/smollm2-front.json
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasegpt.files import read_json

LEAST_KL = 0.001
DRAWS = 10_000
Points = Sequence[tuple[float, float]]
"""(KL, rise of perplexity) of a trial's evaluations."""


def points_of(trial: Mapping[str, Any], untuned: float) -> Points:
    """Of a trial in a summary; the chosen evaluation once, also where the curve of an older summary lacks it."""
    rows = [*trial["curve"].values(), trial["metrics"]]
    found = {(row["kl_divergence"], row["perplexity"] - untuned) for row in rows if "perplexity" in row}
    return sorted((kl, rise) for kl, rise in found if kl >= LEAST_KL and rise > 0)


def fitted(without: Sequence[Points], with_lambda: Sequence[Points]) -> tuple[float, float]:
    """The exponent and the factor, by least squares in logarithms."""
    rows = [
        (kl, rise, side) for side, trials in enumerate((without, with_lambda)) for own in trials for kl, rise in own
    ]
    kl, rise, side = np.array(rows).T
    found, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(kl)), np.log(kl), side]), np.log(rise), rcond=None)
    return float(found[1]), math.exp(found[2])


def factors(without: Sequence[Points], with_lambda: Sequence[Points]) -> NDArray[np.float64]:
    """The factor for trials that are drawn anew, on either side."""
    rng = np.random.default_rng(0)

    def drawn(trials: Sequence[Points]) -> list[Points]:
        return [trials[place] for place in rng.integers(len(trials), size=len(trials))]

    return np.array([fitted(drawn(without), drawn(with_lambda))[1] for _ in range(DRAWS)])


def sides(summary: Mapping[str, Any]) -> tuple[list[Points], list[Points]]:
    """The trials without λ and those with it, as far as they have an evaluation to count."""
    untuned = summary["baseline"]["metrics"]["perplexity"]
    found: tuple[list[Points], list[Points]] = [], []
    for trial in summary["trials"]:
        if points := points_of(trial, untuned):
            found[trial["params"]["training.kto_lambda"] > 0].append(points)
    return found


def main() -> None:
    """A line for each summary."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("summaries", type=Path, nargs="+", metavar="FILE.json", help="docs/results/NAME.json")
    for path in p.parse_args().summaries:
        without, with_lambda = sides(read_json(path))
        power, factor = fitted(without, with_lambda)
        low, high = np.quantile(factors(without, with_lambda), (0.025, 0.975))
        counts = f"{len(without)} trials without λ, {len(with_lambda)} with it"
        evaluations = sum(map(len, (*without, *with_lambda)))
        print(
            f"{path.stem}: {counts}, {evaluations} evaluations; rise ~ KL^{power:.2f}; "
            f"with λ {factor:.3f} [{low:.3f}, {high:.3f}] of the rise without"
        )


if __name__ == "__main__":
    main()
