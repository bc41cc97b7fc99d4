"""The evaluation part of a model card: metrics with intervals, gains, and sample answers chosen by a stated rule."""

from collections.abc import Mapping, Sequence
from typing import Any

from phasegpt.metrics.declared import DECLARED, Direction
from phasegpt.statistics import Interval, mean_by_prompt
from tune.finalists import score_interval
from tune.gate import Candidate, Evidence, interval_text, runs_of

BETTER: Mapping[Direction | None, str] = {"max": "higher", "min": "lower", None: "-"}
SAMPLE_WORDS = 120


def metric_intervals(evidence: Evidence) -> dict[str, Interval]:
    """The 95 % interval of each metric that has at least two rows, over new prompts and new runs, cut to its range."""
    found = {}
    for name in evidence.scores:
        runs = runs_of(evidence, name)
        if name in evidence.metrics and len({prompt for run in runs for prompt in run}) > 1:
            found[name] = score_interval(runs, name)
    return found


def evaluation(candidate: Candidate) -> str:
    """The table of metrics with their intervals, and the gains that decided."""
    between, own = metric_intervals(candidate), candidate.own
    rows = [
        f"| {name} | {BETTER[_better(candidate, name)]} | {value:.4g} | {_span(between.get(name))} | "
        f"{_number(candidate.untuned.get(name))} | {_number(own.get(name))} |"
        for name, value in sorted(candidate.metrics.items())
    ]
    table = "\n".join(
        [
            "| metric | better | value | 95 % interval | untuned | config's own values |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    gains = bullets(
        ("decides", f"`{candidate.objective}`"),
        ("over the untuned model", _gain(candidate.interval_vs_reference)),
        ("over the config's own values", _gain(candidate.interval_vs_own)),
        ("constraints", "; ".join(candidate.constraints) or "none"),
        ("finalists", f"{candidate.finalists}, of which it is the best, on prompts that the search did not see"),
        ("scorer", candidate.scorer),
    )
    return f"Means over {seeds_text(candidate)}.\n\n{table}\n\n{gains}"


def _gain(gain: Any) -> str:
    return interval_text(gain) if gain else "not measured"


def _better(evidence: Evidence, name: str | None = None) -> Direction | None:
    """Which way a metric improves (None: the objective); None for one that says so nowhere."""
    if name in (None, evidence.objective) and evidence.better:
        return evidence.better
    declared = DECLARED.get(name or evidence.objective)
    return declared.better if declared else None


def _span(interval: Interval | None) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}" if interval else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def seeds_text(candidate: Candidate) -> str:
    """On how many seeds a candidate was judged."""
    count = max((len(v) for v in candidate.scores.get(candidate.objective, {}).values()), default=1)
    return f"{count} fresh seeds" if count > 1 else "one fresh seed"


def sample_prompts(evidence: Evidence) -> list[tuple[str, str]]:
    """(what it is, prompt id) of the answers that a card shows: the best, the middle and the worst by the objective.

    The first and the last by their ids where the objective scores no answers, or fewer than three.
    """
    answered, means = sorted(evidence.answers), mean_by_prompt(runs_of(evidence, evidence.objective))
    scored = sorted(
        (p for p in answered if p in means), key=lambda p: (means[p], p), reverse=_better(evidence) == "max"
    )
    if len(scored) > 2:
        return [("the best", scored[0]), ("the middle", scored[len(scored) // 2]), ("the worst", scored[-1])]
    return [("the first", answered[0]), ("the last", answered[-1])] if len(answered) > 1 else []


def samples(candidate: Candidate) -> str:
    """Two or three answers, with the rule by which they were chosen; empty where none are stored."""
    chosen = sample_prompts(candidate)
    if not chosen:
        return ""
    by = "by their ids" if chosen[0][0] == "the first" else f"by the mean {candidate.objective} over the seeds"
    rule = f"Chosen {by}; the answers are those of the first seed, cut after {SAMPLE_WORDS} words."
    return "\n\n".join([rule, *(_sample(candidate, what, prompt) for what, prompt in chosen)])


def _sample(candidate: Candidate, what: str, prompt: str) -> str:
    scores = candidate.scores.get(candidate.objective, {}).get(prompt, [None])
    score = "" if scores[0] is None else f", {candidate.objective} {scores[0]:.3f}"
    asked, words = candidate.prompts.get(prompt, ""), candidate.answers[prompt][0].split()
    said = " ".join(words[:SAMPLE_WORDS]) + (" …" if len(words) > SAMPLE_WORDS else "")
    return f"*{what.capitalize()}* (`{prompt}`{score}): **{asked}**\n\n> {said or '(nothing)'}"


def bullets(*facts: Sequence[Any]) -> str:
    """A line for each fact that is known."""
    return "\n".join(f"- {name}: {value}" for name, value in facts if value or value == 0)
