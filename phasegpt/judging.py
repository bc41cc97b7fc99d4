"""A checkpoint judged on given terms: the suite run on it batch by batch, save what its own run has stored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from phasegpt.base_model import ModelError
from phasegpt.checkpoints import Checkpoint
from phasegpt.config import Config
from phasegpt.evaluate import Row, Suite, evaluate
from phasegpt.forward import PairModel
from phasegpt.judged import Judged
from phasegpt.metrics.declared import unit_of
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_policy
from phasegpt.parts import Workbench, own_metrics, suite_of
from phasegpt.shared_store import Lengths, Progress, SharedStore, prepare
from phasegpt.stored import ANSWERS, PAIRS, PERPLEXITY, Parts, prompt_metrics, read_stored
from phasegpt.terms import Terms, on_base

T = TypeVar("T")


def judge(
    checkpoint: Checkpoint,
    terms: Terms,
    work: Path,
    bench: Workbench,
    on_progress: Progress,
    *,
    use_stored: bool = False,
) -> Judged:
    """Judge one checkpoint; `work` is a folder for what several have in common, `on_progress(what, done, total)`.

    `use_stored` takes what its run has stored where that was made on these terms. Raises ModelError, RunError,
    OwnMetricError.
    """
    name = checkpoint.base_model or terms.config.model.base_model
    config = on_base(terms.config, name)
    own = own_metrics(config)
    wanted = _wanted(config, terms)
    stored = read_stored(checkpoint, terms, own) if use_stored else {}
    found = {part: stored[part] for part in wanted if part in stored}
    missing = [part for part in wanted if part not in stored]
    run = _run(checkpoint, config, terms, missing, work, bench, on_progress) if missing else {}
    judged = Judged(
        checkpoint.address if checkpoint.adapter or checkpoint.base_model else f"{checkpoint.address} ({name})",
        name,
        **{**found, **run},
        stored=tuple(found),
        better={metric.name: metric.better for metric in own if metric.better},
    )
    _check_finite(judged)
    return judged


def _wanted(config: Config, terms: Terms) -> list[str]:
    metrics = config.evaluation.metrics
    wanted = {
        ANSWERS: bool(prompt_metrics(metrics)),
        PAIRS: bool(terms.couples) and any(unit_of(name) == "pair" for name in metrics),
        PERPLEXITY: PERPLEXITY in metrics,
    }
    return [part for part, is_wanted in wanted.items() if is_wanted]


def _run(
    checkpoint: Checkpoint,
    config: Config,
    terms: Terms,
    wanted: Sequence[str],
    work: Path,
    bench: Workbench,
    on_progress: Progress,
) -> Parts:
    """The parts of the suite that are wanted, one after another."""
    base = bench.base(config)
    suite = suite_of(config, base, terms.couples, terms.half)
    policy = _policy(checkpoint, base, config)
    store = bench.store(work / "shared_work", config.shared_work.max_gb)
    try:
        run = {ANSWERS: _answers, PAIRS: _pairs, PERPLEXITY: _perplexity}
        return {part: run[part](_Run(checkpoint.address, policy, suite, terms, store, on_progress)) for part in wanted}
    finally:
        policy.detach()


def _policy(checkpoint: Checkpoint, base: Base, config: Config) -> Policy:
    """The checkpoint's adapter on its base; for an untuned model a fresh one, which changes nothing: its B is zero."""
    if checkpoint.adapter is not None:
        return load_policy(base, checkpoint.adapter)
    targets = config.model.lora_config.target_modules
    return attach_policy(base, LoraSettings(r=1, alpha=1, dropout=0.0, target_modules=targets), seed=0)


@dataclass(frozen=True)
class _Run:
    address: str
    policy: Policy
    suite: Suite
    terms: Terms
    store: SharedStore
    on_progress: Progress


def _answers(run: _Run) -> tuple[Row, ...]:
    suite = replace(run.suite, metrics=prompt_metrics(run.suite.metrics), pair_ids=())
    rows: list[Row] = []
    for prompts in _batches(suite.prompts, suite.batch_size):
        rows += evaluate(PairModel(run.policy), None, replace(suite, prompts=prompts)).answers
        run.on_progress(f"{run.address}: answers", len(rows), len(suite.prompts))
    return tuple(rows)


def _pairs(run: _Run) -> tuple[Row, ...]:
    training, terms = run.terms.config.training, run.terms
    lengths = Lengths(training.max_length, training.max_prompt_length)
    with_hidden = "kl_divergence" in run.suite.metrics
    shared = prepare(
        run.store, run.policy, terms.pairs, lengths, run.on_progress, terms.couples, with_hidden=with_hidden
    )
    suite = replace(run.suite, metrics=tuple(n for n in run.suite.metrics if unit_of(n) == "pair"), own=())
    rows: list[Row] = []
    for pair_ids in _batches(suite.pair_ids, suite.batch_size):
        rows += evaluate(PairModel(run.policy), shared, replace(suite, pair_ids=pair_ids)).pairs
        run.on_progress(f"{run.address}: pairs", len(rows), len(suite.pair_ids))
    return tuple(rows)


def _perplexity(run: _Run) -> float:
    run.on_progress(f"{run.address}: neutral prose", 0, 1)
    suite = replace(run.suite, metrics=(PERPLEXITY,), pair_ids=(), own=())
    value = evaluate(PairModel(run.policy), None, suite).summary[PERPLEXITY]
    run.on_progress(f"{run.address}: neutral prose", 1, 1)
    return value


def _batches(rows: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(rows[begin : begin + size]) for begin in range(0, len(rows), size)]


def _check_finite(judged: Judged) -> None:
    bad = [f"{name} is {value}" for name, value in judged.summary.items() if not math.isfinite(value)]
    if bad:
        raise ModelError(f"{judged.address}: {', '.join(bad)}; the checkpoint is broken, take an earlier one")
