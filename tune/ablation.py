"""What an ablation found: every arm at equal steps and at equal measured KL, with intervals, and P(best).

λ and β both hold the policy back, so settings at equal steps differ in how far they went as well as in how well.
At equal KL they are compared where each had spent the same divergence from the reference: scores between two
evaluations of a run are interpolated in KL, from the untuned model at 0. Functions of results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phasegpt.metrics.declared import Direction
from phasegpt.statistics import Gain, Interval, Runs, mean_by_prompt, p_best, runs_interval, simultaneous_gains
from tune.finalists import prompt_scores

KL = "kl_divergence"
Evaluated = Mapping[str, Any]
"""One evaluation of a run as it lies on disk: step, summary, answers, pairs."""


@dataclass(frozen=True)
class Measured:
    """An arm where the arms are compared: one {prompt: score} a seed, with what they add up to.

    `gain` is over the first arm, None for that one itself, where that one came to no result, and where the arms share
    fewer than two prompts; `interval` is None where fewer than two prompts have scores.
    """

    label: str
    values: Mapping[str, Any]
    scores: Runs
    mean: float
    kl: float | None
    interval: Interval | None
    gain: Gain | None
    best: float | None


def last_shared_step(runs: Sequence[Sequence[Evaluated]]) -> int | None:
    """The last step that every run was evaluated at; None where there is none, as of arms of other lengths."""
    return max(set.intersection(*({int(evaluation["step"]) for evaluation in run} for run in runs)), default=None)


def until_step(run: Sequence[Evaluated], step: int | None) -> list[Evaluated]:
    """The evaluations of a run up to a step (None: all), in order."""
    return sorted((e for e in run if step is None or e["step"] <= step), key=lambda e: e["step"])


def common_kl(arms: Sequence[Sequence[Sequence[Evaluated]]], step: int | None) -> float:
    """The KL that every arm has spent by `step` (None: by its end): the least of their means over seeds."""
    return min(_mean([until_step(run, step)[-1]["summary"][KL] for run in runs]) for runs in arms)


def scores_at_kl(run: Sequence[Evaluated], reference: Evaluated, metric: str, kl: float) -> dict[str, float]:
    """{prompt: score} where the run first has spent `kl`, interpolated between two evaluations; its last where it never
    does.

    `reference` is what the reference, at KL 0, came to; its mean stands for pairs of another split.
    """
    before, spent = prompt_scores(reference, metric), 0.0
    for evaluation in run:
        after, now = prompt_scores(evaluation, metric), float(evaluation["summary"][KL])
        if now >= kl:
            share = (kl - spent) / (now - spent) if now > spent else 1.0
            mean = float(reference["metrics"][metric])
            return {p: (1 - share) * before.get(p, mean) + share * score for p, score in after.items()}
        before, spent = after, max(spent, now)
    return before


def compared(
    labels: Sequence[str],
    values: Sequence[Mapping[str, Any]],
    scores: Sequence[Runs],
    fallback: Sequence[float],
    kl: Sequence[float | None],
    better: Direction,
    controlled: bool = True,
) -> list[Measured]:
    """Arms with their intervals, simultaneous gains over the first and P(best); `fallback` are means without rows.

    Without `controlled` the first is not the control, which came to no result, and there is nothing to gain over.
    """
    prompts = [mean_by_prompt(runs).keys() for runs in scores]
    met, nothing = len(set.intersection(*map(set, prompts))) > 1, [None] * len(scores)
    gains = [None, *simultaneous_gains(scores[1:], scores[0], better)] if met and controlled else nothing
    best: Sequence[float | None] = p_best(scores, better) if met else nothing
    intervals = [runs_interval(runs) if len(own) > 1 else None for runs, own in zip(scores, prompts, strict=True)]
    means = [interval.mean if interval else fallback[i] for i, interval in enumerate(intervals)]
    columns = zip(labels, values, scores, means, kl, intervals, gains, best, strict=True)
    return [Measured(*column) for column in columns]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class Ablation:
    """All that was found; `kl` None and `at_kl` empty where no KL was measured or none was spent.

    `step` is None where no step was evaluated by all: then each stands where it ended. `left_out` are the arms that
    came to no result on some seed.
    """

    metric: str
    better: Direction
    step: int | None
    evaluations: int
    baseline: float | None
    at_steps: Sequence[Measured]
    kl: float | None
    at_kl: Sequence[Measured]
    left_out: Sequence[str] = ()

    @property
    def where(self) -> str:
        """Where the arms are compared first, for people."""
        return where_compared(self.step)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "step": self.step,
            "evaluations_a_run": self.evaluations,
            "baseline": self.baseline,
            "equal_steps": [_row(arm) for arm in self.at_steps],
            "kl": self.kl,
            "equal_kl": [_row(arm) for arm in self.at_kl],
            "left_out": list(self.left_out),
        }

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.metric} {self.where}:", *map(_line, self.at_steps)]
        if self.kl is not None:
            lines += [
                f"{self.metric} at equal KL ({self.kl:.3g} nats a token; {self.evaluations} evaluations a run):",
                *map(_line, self.at_kl),
            ]
        if self.baseline is not None:
            lines.append(f"  {'untuned model':32} {self.baseline:.3f}")
        lines += [f"left out, without a result on every seed: {', '.join(self.left_out)}"] if self.left_out else []
        return "\n".join(lines)


def where_compared(step: int | None) -> str:
    """Where arms are compared that share their last step, or none."""
    return "at the end of each run" if step is None else f"at equal steps ({step})"


def _row(arm: Measured) -> dict[str, Any]:
    return {
        "arm": arm.label,
        "values": dict(arm.values),
        "seeds": len(arm.scores),
        "mean": arm.mean,
        "interval": [arm.interval.low, arm.interval.high] if arm.interval else None,
        "kl_divergence": arm.kl,
        "over_first": arm.gain and arm.gain.as_dict(),
        "p_best": arm.best,
    }


def _line(arm: Measured) -> str:
    said = f"  {arm.label:32} {arm.mean:.3f}"
    said += f" [{arm.interval.low:.3f}, {arm.interval.high:.3f}]" if arm.interval else ""
    said += f"  KL {arm.kl:.3g}" if arm.kl is not None else ""
    said += f"  P(best) {arm.best:.2f}" if arm.best is not None else ""
    if arm.gain is None:
        return said
    span = f"[{arm.gain.low:+.3f}, {arm.gain.high:+.3f}]"
    return f"{said}  over the first {arm.gain.mean:+.3f} {span}: {arm.gain.word}"
