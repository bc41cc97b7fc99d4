"""The gate: who may sit in a track's seat, what a model has to show for it, and the decision.

Pure types and functions on numbers that are given: it knows no MLflow, opens no file and moves no alias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from phasegpt.config import METRICS
from phasegpt.statistics import Interval, paired_interval

TRACKS = ("a", "b", "c")
CHAMPION, PREVIOUS = "champion", "previous"

Scores = Mapping[str, Mapping[str, Sequence[float]]]


class RegistryError(ValueError):
    """A version, track or address that is not there; the message names what is."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model has to show for itself. `scores` is {metric: {prompt id: [one value a seed]}} on the final half.

    `objective` is the metric that decides, `constraints` says how each one stands, `metrics` is the summary,
    `interval_vs_reference` the gain over the untuned model, `scorer` the version of the metric behind the scores:
    scores of different versions are not compared.
    """

    base_model: str
    objective: str
    scores: Scores
    metrics: Mapping[str, float]
    constraints_met: bool
    constraints: Sequence[str]
    interval_vs_reference: Interval | None
    scorer: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate(Evidence):
    """The winner of a search, before the gate. `run_id` is its MLflow run, `adapter` a PEFT folder."""

    track: str
    search: str
    run_id: str
    adapter: Path
    config: Mapping[str, Any]
    trial: str = ""
    data_hash: str = ""
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Champion(Evidence):
    """A registered version with its evidence. `fetch_adapter(champion.address, folder)` brings its adapter."""

    track: str
    version: str
    tags: Mapping[str, str]

    @property
    def address(self) -> str:
        """The address that MLflow loads, by version: it stays this one when the alias moves."""
        return f"models:/{model_name(self.track)}/{self.version}"


@dataclass(frozen=True)
class Decision:
    """What the gate said. `interval` is the gain over the champion, or over the untuned model where uncontested."""

    promote: bool
    reason: str
    interval: Interval | None = None
    uncontested: bool = False
    version: str = ""
    forced: bool = False


def model_name(track: str) -> str:
    """The registered model of a track; raises RegistryError for another letter than a, b or c."""
    if track not in TRACKS:
        raise RegistryError(f"expected a track out of {', '.join(TRACKS)}, found {track!r}")
    return f"phasegpt-track-{track}"


def decide(candidate: Evidence, champion: Evidence | None) -> Decision:
    """Whether a candidate takes the seat (DESIGN decision 8): constraints first, then the lower bound of its gain.

    A pure function. An empty seat is taken uncontested. The gain is paired by prompt, in the direction in which the
    objective improves.
    """
    if not candidate.constraints_met:
        return Decision(False, f"constraints not met: {'; '.join(candidate.constraints)}")
    if champion is None:
        return Decision(True, "uncontested: the seat was empty", candidate.interval_vs_reference, uncontested=True)
    if hindrance := _not_comparable(candidate, champion):
        return Decision(False, hindrance)
    try:
        gain = _gain(candidate, champion)
    except ValueError as error:
        return Decision(False, f"{candidate.objective} cannot be compared with the champion's: {error}")
    verb = "beats" if gain.low > 0 else "does not surely beat"
    return Decision(gain.low > 0, f"{verb} the champion in {candidate.objective}: {interval_text(gain)}", gain)


def _not_comparable(candidate: Evidence, champion: Evidence) -> str | None:
    name = candidate.objective
    if candidate.base_model != champion.base_model:
        return f"another base model ({candidate.base_model}) than the champion's ({champion.base_model})"
    if name not in champion.scores:
        return f"the champion has no scores of {name}"
    if candidate.scorer != champion.scorer:
        return (
            f"{name} of another version ({candidate.scorer}) than the champion's ({champion.scorer}); score both alike"
        )
    return None


def _gain(candidate: Evidence, champion: Evidence) -> Interval:
    name = candidate.objective
    sign = -1 if METRICS.get(name) == "min" else 1
    ours, theirs = _by_prompt(candidate.scores.get(name, {}), sign), _by_prompt(champion.scores[name], sign)
    return paired_interval([ours], [theirs])


def _by_prompt(scores: Mapping[str, Sequence[float]], sign: int) -> dict[str, float]:
    return {prompt: sign * fmean(values) for prompt, values in scores.items()}


def interval_text(interval: Interval) -> str:
    """A gain for people: mean, 95% interval, number of prompts, P(better)."""
    return (
        f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] on {interval.n} prompts, "
        f"P(better) {interval.p_positive:.2f}"
    )
