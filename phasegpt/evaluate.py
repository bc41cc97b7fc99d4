"""The evaluation suite on a policy: per-prompt and per-pair rows, and their summary.

Workers that share a run share its evaluations: prompts and pairs are dealt out, and every worker has all rows in the
end. Knows nothing of training: the same suite judges the untuned model, every trial, the finalists and a champion.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from phasegpt import ranks
from phasegpt.config import METRICS
from phasegpt.encoding import pad, prompt_ids
from phasegpt.forward import PairModel
from phasegpt.metrics import preference
from phasegpt.metrics.declared import DECLARED, GUARDS, Direction
from phasegpt.metrics.fluency import Prose, perplexity
from phasegpt.metrics.own import OwnMetric
from phasegpt.metrics.samples import sample_divergences
from phasegpt.metrics.text import TEXT_METRICS
from phasegpt.models import Policy
from phasegpt.pairs import Prompt
from phasegpt.shared_work import SharedWork

Row = Mapping[str, float | str]


@dataclass(frozen=True)
class Answer:
    """What the policy wrote: token ids of prompt and answer, the answer's text, and whether it ended by itself.

    An answer that ended holds its end token; one that did not was cut at the most tokens it may have.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True)
class Suite:
    """What an evaluation looks at. `prose` is the neutral prose; `metrics` the names wanted.

    `own` are the user's metrics among them.
    """

    metrics: tuple[str, ...]
    pair_ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    prose: Prose
    beta: float
    max_new_tokens: int
    batch_size: int
    own: tuple[OwnMetric, ...] = ()

    def better(self, name: str) -> Direction | None:
        """Which way a metric is better; None where a metric of the user's own does not say it."""
        return METRICS.get(name) or next((metric.better for metric in self.own if metric.name == name), None)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, at `step` of `steps`.

    `summary` {metric: mean}, `answers` a row a prompt, `pairs` a row a held-out pair, `seconds` by part; `worked` is
    how many seconds the run had taken by its end, earlier processes included.
    """

    step: int
    steps: int
    summary: Mapping[str, float]
    answers: tuple[Row, ...] = ()
    pairs: tuple[Row, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    worked: float = 0.0


def evaluate(model: PairModel, shared: SharedWork | None, suite: Suite, step: int = 0, steps: int = 0) -> Evaluation:
    """Run `suite` on the policy as it stands. Metrics of answers are means over prompts, of pairs means over pairs.

    Where answers are made, their guards against broken text come with them. Without shared work no pair is judged.
    Pairs are dealt out to workers in the batches that one worker makes, so that their values do not depend on how many
    there are; answers in other batches may differ where two tokens are all but equally likely. Raises OwnMetricError.
    """
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    pairs = _judge_pairs(model, shared, suite)
    seconds["pairs"] = time.monotonic() - begun
    begun = time.monotonic()
    answers = _judge_answers(model.policy, suite)
    seconds["answers"] = time.monotonic() - begun
    begun = time.monotonic()
    summary = {**_means(pairs), **_means(answers)}
    if "perplexity" in suite.metrics and suite.prose.windows:
        summary["perplexity"] = ranks.by_first(lambda: perplexity(model.policy, suite.prose))
    seconds["perplexity"] = time.monotonic() - begun
    if "inference_latency" in suite.metrics and suite.prompts:
        summary["inference_latency"] = ranks.by_first(lambda: seconds_a_token(model.policy, suite))
    return Evaluation(step, steps, summary, tuple(answers), tuple(pairs), seconds)


def _judge_pairs(model: PairModel, shared: SharedWork | None, suite: Suite) -> list[Row]:
    if shared is None or not suite.pair_ids or not set(suite.metrics) & set(preference.NAMES):
        return []
    with_kl = "kl_divergence" in suite.metrics
    batch_size = max(1, suite.batch_size // 4)
    mine = ranks.dealt(suite.pair_ids, batch_size)
    rows = list(preference.pair_rows(model, shared, mine, suite.beta, batch_size, with_kl=with_kl))
    return ranks.collected(rows, len(suite.pair_ids), batch_size)


def _judge_answers(policy: Policy, suite: Suite) -> list[Row]:
    of_answers = [name for name in suite.metrics if name in DECLARED and DECLARED[name].of == "prompt"]
    if not (of_answers or suite.own):
        return []
    mine = ranks.dealt(suite.prompts)
    answers = answer_prompts(policy, [prompt.prompt for prompt in mine], suite.max_new_tokens, suite.batch_size)
    rows: list[Row] = [_row(suite, prompt, given) for prompt, given in zip(mine, answers, strict=True)]
    if "kl_on_samples" in suite.metrics:
        batch_size = max(1, suite.batch_size // 4)
        found = sample_divergences(policy, [a.prompt_ids for a in answers], [a.ids for a in answers], batch_size)
        rows = [{**row, "kl_on_samples": value} for row, value in zip(rows, found, strict=True)]
    return ranks.collected(rows, len(suite.prompts))


def _row(suite: Suite, prompt: Prompt, given: Answer) -> Row:
    """One answer with its text metrics, its guards and the user's own metrics."""
    wanted = dict.fromkeys((*suite.metrics, *GUARDS))
    return {
        "id": prompt.id,
        "domain": prompt.domain,
        "prompt": prompt.prompt,
        "answer": given.text,
        **{name: TEXT_METRICS[name](given.text) for name in wanted if name in TEXT_METRICS},
        "ended": float(given.ended),
        **{metric.name: metric.score(prompt.id, prompt.prompt, given.text) for metric in suite.own},
    }


def seconds_a_token(policy: Policy, suite: Suite) -> float:
    """How long a user waits for each token of an answer: the first prompt of the suite, answered alone."""
    begun = time.monotonic()
    [given] = answer_prompts(policy, [suite.prompts[0].prompt], suite.max_new_tokens)
    return (time.monotonic() - begun) / len(given.ids)


def generate(policy: Policy, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 16) -> list[str]:
    """The texts of `answer_prompts`."""
    return [given.text for given in answer_prompts(policy, prompts, max_new_tokens, batch_size)]


def answer_prompts(policy: Policy, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 16) -> list[Answer]:
    """Greedy answers to `prompts`, in order. Batches hold prompts of similar length and are padded on the left."""
    tokenizer, model = policy.base.tokenizer, policy.model
    encoded = [tuple(prompt_ids(tokenizer, prompt)) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answers: dict[int, Answer] = {}
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
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
        for index, tokens in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
            answers[index] = _answer(policy, encoded[index], tokens)
    return [answers[index] for index in range(len(prompts))]


def _answer(policy: Policy, prompt: tuple[int, ...], tokens: list[int]) -> Answer:
    """What was generated up to the first end token; what follows it is padding."""
    end = policy.base.model.generation_config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), None)
    kept = tuple(tokens[:length])
    text = policy.base.tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Answer(prompt, kept, text, ended=length is not None)


def _means(rows: Iterable[Row]) -> dict[str, float]:
    """The mean of every numeric column."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, str):
                columns.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}
