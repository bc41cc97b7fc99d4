"""The gate: who may sit in a track's seat, what a model has to show for it, and the decision.

Pure types and functions on what is given: it knows no MLflow, opens no file and moves no alias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phasegpt.config_io import TRACKS
from phasegpt.metrics.declared import DECLARED, Direction, unit_of
from phasegpt.metrics.text import TEXT_METRICS, VERSIONED, scorer
from phasegpt.statistics import Gain, paired_gain

CHAMPION, PREVIOUS = "champion", "previous"
LONGEST_TAG = 5000

Scores = Mapping[str, Mapping[str, Sequence[float | None]]]
Answers = Mapping[str, Sequence[str]]


class RegistryError(ValueError):
    """A version, track or address that is not there; the message names what is."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model has to show for itself. `scores` is {metric: {prompt id: [one value a seed]}} on the final half,
    None where a seed has no such prompt or pair.

    `answers` is {prompt id: [one answer a seed]}, `objective` the metric that decides and `better` its direction (None:
    as declared), `constraints` says how each one stands, `metrics` is the summary, `interval_vs_reference` the gain
    over the untuned model, `scorer` the version behind the scores: those of different versions are not compared.
    `finalists` is out of how many it was the best, on the very scores that judge it. `base_identity` tells the base
    model from another one under the same name; `untuned` and `own` are the metrics of the untuned model and of the
    config's own values, `interval_vs_own` the gain over the latter. `prompts` is {prompt id: its text}, `answer_tokens`
    how long an answer may be, `data_hash` of the preference data. Versions from before these were kept have none.
    """

    base_model: str
    objective: str
    scores: Scores
    metrics: Mapping[str, float]
    constraints_met: bool
    constraints: Sequence[str]
    interval_vs_reference: Gain | None
    scorer: str = ""
    answers: Answers = field(default_factory=dict)
    better: Direction | None = None
    finalists: int = 1
    base_identity: str = ""
    untuned: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, float] = field(default_factory=dict)
    interval_vs_own: Gain | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    answer_tokens: int = 0
    data_hash: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate(Evidence):
    """The winner of a search, before the gate. `run_id` is its MLflow run, `adapter` a PEFT folder.

    `dirty` says that the code differed from its commit, `data` is {what: how many rows}, `seconds` what its runs took
    together, `versions` the libraries that it was made with.
    """

    track: str
    search: str
    run_id: str
    adapter: Path
    config: Mapping[str, Any]
    trial: str = ""
    config_hash: str = ""
    commit: str = ""
    dirty: bool = False
    data: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Champion(Evidence):
    """A registered version with its evidence."""

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
    interval: Gain | None = None
    uncontested: bool = False
    version: str = ""
    forced: bool = False


def model_name(track: str) -> str:
    """The registered model of a track; raises RegistryError for another letter than a, b or c."""
    if track not in TRACKS:
        raise RegistryError(f"expected a track out of {', '.join(TRACKS)}, found {track!r}")
    return f"phasegpt-track-{track}"


def decide(candidate: Evidence, champion: Evidence | None) -> Decision:
    """Whether a candidate takes the seat: constraints first, then the lower bound of its gain.

    A pure function. An empty seat is taken uncontested. The gain is paired by prompt, those left out whose text is
    another by now, in the direction in which the objective improves. Where the metric has changed since, stored answers
    are scored again, on both sides alike.
    """
    if not candidate.constraints_met:
        return Decision(False, f"constraints not met: {'; '.join(candidate.constraints)}")
    if champion is None:
        return Decision(True, "uncontested: the seat was empty", candidate.interval_vs_reference, uncontested=True)
    ours, theirs = rescored(candidate, candidate.objective), rescored(champion, candidate.objective)
    if hindrance := _not_comparable(ours, theirs):
        return Decision(False, hindrance)
    try:
        gain = _gain(ours, theirs)
    except ValueError as error:
        return Decision(False, f"{candidate.objective} cannot be compared with the champion's: {error}")
    verb = "beats" if gain.low > 0 else "does not surely beat"
    again = "" if theirs is champion else f"; the champion's answers were scored again by {theirs.scorer}"
    return Decision(gain.low > 0, f"{verb} the champion in {candidate.objective}: {interval_text(gain)}{again}", gain)


def rescored(evidence: Evidence, metric: str) -> Evidence:
    """Evidence whose answers are scored in `metric` by the present scorer.

    As it is where that scorer made it, where no version matters to the metric, and where no answers are stored.
    """
    if evidence.scorer == scorer() or metric not in VERSIONED or not evidence.answers:
        return evidence
    score = TEXT_METRICS[metric]
    scores = {prompt: [score(text) for text in texts] for prompt, texts in evidence.answers.items()}
    return replace(evidence, scorer=scorer(), scores={**evidence.scores, metric: scores})


def _not_comparable(candidate: Evidence, champion: Evidence) -> str | None:
    name = candidate.objective
    if not _same_base(candidate, champion):
        return f"another base model ({candidate.base_model}) than the champion's ({champion.base_model})"
    if name not in champion.scores:
        return f"the champion has no scores of {name}"
    if name in VERSIONED and candidate.scorer != champion.scorer:
        return (
            f"{name} of another version ({candidate.scorer}) than the champion's ({champion.scorer}), and no stored "
            f"answers to score again; search anew, or seat it with --force"
        )
    return _measured_otherwise(candidate, champion)


def _measured_otherwise(candidate: Evidence, champion: Evidence) -> str | None:
    """As far as both sides say how they were measured."""
    name = candidate.objective
    if unit_of(name) == "pair":
        known = candidate.data_hash and champion.data_hash
        if known and candidate.data_hash != champion.data_hash:
            return f"{name} is measured on pairs held out of other preference data than the champion's"
        return None
    ours, theirs = candidate.answer_tokens, champion.answer_tokens
    if ours and theirs and ours != theirs:
        return (
            f"answers of up to {ours} tokens, the champion's of up to {theirs}; search anew with "
            f"--set evaluation.max_new_tokens={theirs}, or seat it with --force"
        )
    return None


def _same_base(candidate: Evidence, champion: Evidence) -> bool:
    """By what the models are where both sides say it, else by their names."""
    if candidate.base_identity and champion.base_identity:
        return candidate.base_identity == champion.base_identity
    return candidate.base_model == champion.base_model


def _gain(candidate: Evidence, champion: Evidence) -> Gain:
    name = candidate.objective
    better = candidate.better or DECLARED[name].better
    rewritten = {p for p, text in candidate.prompts.items() if champion.prompts.get(p, text) != text}
    ours, theirs = (
        [{p: score for p, score in run.items() if p not in rewritten} for run in runs_of(evidence, name)]
        for evidence in (candidate, champion)
    )
    return paired_gain(ours, theirs, better, candidate.finalists)


def runs_of(evidence: Evidence, metric: str) -> list[dict[str, float]]:
    """The scores of a metric as one {prompt: value} a seed."""
    scores = evidence.scores.get(metric, {})
    seeds = max(map(len, scores.values()), default=0)
    slots = [{prompt: values[i] for prompt, values in scores.items() if i < len(values)} for i in range(seeds)]
    return [{prompt: value for prompt, value in slot.items() if value is not None} for slot in slots]


def interval_text(gain: Gain) -> str:
    """A gain for people: mean, 95% interval, number of prompts, P(better), ratio of the means, win rate."""
    return (
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.n} prompts, "
        f"P(better) {gain.p_positive:.2f}{gain.beside}"
    )
