"""From the runs of an ablation on disk to what they say side by side."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from phasegpt.checkpoint_files import evaluation_files
from phasegpt.files import read_json
from phasegpt.runs import run_paths
from phasegpt.statistics import mean_by_prompt
from tune.ablation import (
    KL,
    Ablation,
    Evaluated,
    Measured,
    common_kl,
    compared,
    last_shared_step,
    scores_at_kl,
    until_step,
)
from tune.finalists import prompt_scores
from tune.jobs import Job
from tune.request import Request
from tune.searcher import JobSearcher


def ablated(request: Request, searcher: JobSearcher) -> Ablation | None:
    """What the arms came to; None without the baseline or where fewer than two arms ran on every seed."""
    if not all(searcher.done(job) for job in searcher.baselines):
        return None
    jobs = searcher.final_jobs()
    of_arm = {n: [job for job in jobs if job.number == n] for n in dict.fromkeys(job.number for job in jobs)}
    whole = [number for number, own in of_arm.items() if all(searcher.done(job) for job in own)]
    if len(whole) < 2:
        return None
    runs = [[_evaluations(request, job) for job in of_arm[number]] for number in whole]
    return put_together(request, whole, runs, searcher.read(searcher.baselines[0].name))


def _evaluations(request: Request, job: Job) -> list[Evaluated]:
    paths = run_paths(request.places.storage, request.track, f"{request.name}/{job.name}")
    return [read_json(path) for path in evaluation_files(paths.checkpoints)]


def put_together(
    request: Request, whole: Sequence[int], runs: Sequence[Sequence[Sequence[Evaluated]]], baseline: Mapping[str, Any]
) -> Ablation:
    """`runs` [arms][seeds][evaluations] compared at their last shared step and at equal KL; `whole` says which arms.

    Without the first arm, the control, there are no gains.
    """
    arms, controlled = [request.arms[number] for number in whole], whole[0] == 0
    metric, way = next(iter(request.config.search.objectives.items()))
    step = last_shared_step([run for of_arm in runs for run in of_arm])
    cut = [[until_step(run, step) for run in of_arm] for of_arm in runs]
    labels, values = [arm.label for arm in arms], [arm.values for arm in arms]
    spent = [_mean(of_arm, KL) for of_arm in cut]
    at_steps = compared(
        labels, values, [[prompt_scores(run[-1], metric) for run in of_arm] for of_arm in cut],
        [fmean(run[-1]["summary"][metric] for run in of_arm) for of_arm in cut], spent, way, controlled,
    )  # fmt: skip
    kl = common_kl(runs, step) if all(value is not None for value in spent) else None
    at_kl: list[Measured] = []
    reference_known = request.config.evaluation.baseline_checkpoint is None
    if kl is not None and reference_known:
        scores = [[scores_at_kl(run, baseline, metric, kl) for run in of_arm] for of_arm in cut]
        if all(len(mean_by_prompt(of_arm)) > 1 for of_arm in scores):
            unused, spent_alike = [0.0] * len(arms), [kl] * len(arms)
            at_kl = compared(labels, values, scores, unused, spent_alike, way, controlled)
    return Ablation(
        metric=metric,
        better=way,
        step=step,
        evaluations=min(len(run) for of_arm in cut for run in of_arm),
        baseline=baseline["metrics"].get(metric),
        at_steps=at_steps,
        kl=kl if at_kl else None,
        at_kl=at_kl,
        left_out=[arm.label for number, arm in enumerate(request.arms) if number not in whole],
    )


def _mean(of_arm: Sequence[Sequence[Evaluated]], metric: str) -> float | None:
    """The mean over seeds of the last evaluations; None where it was not measured."""
    found = [run[-1]["summary"].get(metric) for run in of_arm]
    return None if None in found else fmean(found)


def table(found: Ablation) -> list[dict[str, Any]]:
    """The arms as rows for MLflow."""
    rows = []
    for where, arms in (("equal steps", found.at_steps), ("equal KL", found.at_kl)):
        for arm in arms:
            low, high = (arm.interval.low, arm.interval.high) if arm.interval else (None, None)
            gain = {} if arm.gain is None else {"over_first": arm.gain.mean, "low": arm.gain.low, "high": arm.gain.high}
            rows.append(
                {"compared_at": where, "arm": arm.label, found.metric: arm.mean, "from": low, "to": high,
                 "kl_divergence": arm.kl, "p_best": arm.best, **gain}
            )  # fmt: skip
    return rows
