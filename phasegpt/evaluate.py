"""The evaluation suite on a policy: per-prompt and per-pair rows, and their summary.

Knows nothing of training: the same suite judges the untuned model, every trial, the finalists and a champion.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from phasegpt.encoding import pad, prompt_ids
from phasegpt.forward import PairModel
from phasegpt.metrics import preference
from phasegpt.metrics.fluency import perplexity
from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.subtlety import subtlety
from phasegpt.models import Policy
from phasegpt.pairs import Prompt
from phasegpt.shared_work import SharedWork

TEXT_METRICS: Mapping[str, Callable[[str], float]] = {"spiral_score": spiral_score, "subtlety": subtlety}

Row = Mapping[str, float | str]


@dataclass(frozen=True)
class Suite:
    """What an evaluation looks at. `fluency_tokens` are the ids of the neutral prose; `metrics` the names wanted."""

    metrics: tuple[str, ...]
    pair_ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    fluency_tokens: tuple[int, ...]
    beta: float
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, at `step` of `steps`.

    `summary` {metric: mean}, `answers` a row a prompt, `pairs` a row a held-out pair, `seconds` by part.
    """

    step: int
    steps: int
    summary: Mapping[str, float]
    answers: tuple[Row, ...] = ()
    pairs: tuple[Row, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def evaluate(model: PairModel, shared: SharedWork, suite: Suite, step: int = 0, steps: int = 0) -> Evaluation:
    """Run `suite` on the policy as it stands. Metrics of text are means over prompts, of pairs means over pairs."""
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    pairs = _judge_pairs(model, shared, suite)
    seconds["pairs"] = time.monotonic() - begun
    begun = time.monotonic()
    answers = _judge_answers(model.policy, suite)
    seconds["answers"] = time.monotonic() - begun
    begun = time.monotonic()
    summary = {**_means(pairs), **_means(answers)}
    if "perplexity" in suite.metrics and suite.fluency_tokens:
        summary["perplexity"] = perplexity(model.policy, suite.fluency_tokens)
    seconds["perplexity"] = time.monotonic() - begun
    return Evaluation(step, steps, summary, tuple(answers), tuple(pairs), seconds)


def _judge_pairs(model: PairModel, shared: SharedWork, suite: Suite) -> list[Row]:
    if not suite.pair_ids or not set(suite.metrics) & set(preference.NAMES):
        return []
    with_kl = "kl_divergence" in suite.metrics
    batch_size = max(1, suite.batch_size // 4)
    return list(preference.pair_rows(model, shared, suite.pair_ids, suite.beta, batch_size, with_kl=with_kl))


def _judge_answers(policy: Policy, suite: Suite) -> list[Row]:
    wanted = [name for name in TEXT_METRICS if name in suite.metrics]
    if not wanted:
        return []
    answers = generate(policy, [p.prompt for p in suite.prompts], suite.max_new_tokens, suite.batch_size)
    return [
        {
            "id": prompt.id,
            "domain": prompt.domain,
            "prompt": prompt.prompt,
            "answer": answer,
            **{name: TEXT_METRICS[name](answer) for name in wanted},
        }
        for prompt, answer in zip(suite.prompts, answers, strict=True)
    ]


def generate(policy: Policy, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 16) -> list[str]:
    """Greedy answers to `prompts`, in order. Batches hold prompts of similar length and are padded on the left."""
    tokenizer, model = policy.base.tokenizer, policy.model
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answers = [""] * len(prompts)
    model.eval()
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        ids, attention = pad([encoded[index] for index in chosen], tokenizer.pad_token_id, left=True)
        device = policy.head.device
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=attention.to(device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=policy.phase is None,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
    return answers


def _means(rows: Iterable[Row]) -> dict[str, float]:
    """The mean of every numeric column."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, str):
                columns.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}
