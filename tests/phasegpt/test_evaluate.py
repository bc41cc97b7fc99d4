"""The suite: a summary of means, and greedy answers that no batch mate changes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt import evaluate as evaluation
from phasegpt.adapters import PhaseSettings
from phasegpt.evaluate import Row, Suite, answer_prompts, evaluate, generate
from phasegpt.forward import PairModel
from phasegpt.metrics.declared import DECLARED, GUARDS
from phasegpt.metrics.degeneration import distinct_2, repetition
from phasegpt.metrics.fluency import perplexity, prose_of
from phasegpt.metrics.own import OwnMetric, OwnMetricError
from phasegpt.metrics.samples import sample_divergences
from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.subtlety import subtlety
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base
from phasegpt.pairs import Pair, read_pairs, read_prompts
from phasegpt.shared_store import Lengths, SharedStore, prepare
from phasegpt.shared_work import SharedWork
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
PHASE = PhaseSettings((1,), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
EVERYTHING = (
    "spiral_score",
    "subtlety",
    "perplexity",
    "eval_loss",
    "reward_margin",
    "reward_accuracy",
    "kl_divergence",
)


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"), dtype=torch.float64)


def moved(base: Base, phase: PhaseSettings | None = None) -> Policy:
    policy = attach_policy(base, LORA, seed=1, phase=phase)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.fixture
def policy(base: Base) -> Iterator[Policy]:
    policy = moved(base)
    yield policy
    policy.detach()


@pytest.fixture
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:5]


@pytest.fixture
def shared(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> SharedWork:
    return prepare(SharedStore(tmp_path), policy, pairs, Lengths(512, 256))


@pytest.fixture
def suite(policy: Policy, pairs: tuple[Pair, ...], toy_prompts_file: Path) -> Suite:
    text = "People say the river stays. The facts push back, for it moves. " * 4
    return Suite(
        metrics=EVERYTHING,
        pair_ids=tuple(pair.id for pair in pairs),
        prompts=read_prompts(toy_prompts_file),
        prose=prose_of(policy.base.tokenizer(text)["input_ids"]),
        beta=0.1,
        max_new_tokens=12,
        batch_size=4,
    )


def test_the_summary_holds_the_means_of_the_rows(policy: Policy, shared: SharedWork, suite: Suite) -> None:
    found = evaluate(PairModel(policy), shared, suite, step=3, steps=6)
    assert (found.step, found.steps) == (3, 6)
    assert set(found.summary) == {*EVERYTHING, *GUARDS}
    for name in ("eval_loss", "reward_margin", "reward_accuracy", "kl_divergence"):
        assert found.summary[name] == pytest.approx(sum(float(row[name]) for row in found.pairs) / 5)
    for name in ("spiral_score", "subtlety"):
        assert found.summary[name] == pytest.approx(sum(float(row[name]) for row in found.answers) / 8)
    assert found.summary["perplexity"] == perplexity(policy, suite.prose)
    assert found.seconds.keys() == {"pairs", "answers", "perplexity"}


def test_a_row_keeps_its_prompt_its_answer_and_its_scores(policy: Policy, shared: SharedWork, suite: Suite) -> None:
    found = evaluate(PairModel(policy), shared, suite)
    assert [row["id"] for row in found.answers] == [prompt.id for prompt in suite.prompts]
    assert [row["id"] for row in found.pairs] == list(suite.pair_ids)
    for row, prompt in zip(found.answers, suite.prompts, strict=True):
        answer = str(row["answer"])
        assert row == {
            "id": prompt.id,
            "domain": prompt.domain,
            "prompt": prompt.prompt,
            "answer": answer,
            "spiral_score": spiral_score(answer),
            "subtlety": subtlety(answer),
            "repetition": repetition(answer),
            "distinct_2": distinct_2(answer),
            "ended": row["ended"],
        }


def test_the_means_of_rows_are_worked_by_hand() -> None:
    rows: list[Row] = [{"id": "a", "x": 1.0, "y": 4.0}, {"id": "b", "x": 2.0}]
    assert evaluation._means(rows) == {"x": 1.5, "y": 4.0}
    assert evaluation._means([]) == {}


def test_only_what_is_asked_for_is_computed(
    policy: Policy, shared: SharedWork, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("not asked for")

    monkeypatch.setattr(evaluation, "answer_prompts", never)
    without_text = evaluate(PairModel(policy), shared, replace(suite, metrics=("perplexity",)))
    assert (set(without_text.summary), without_text.answers, without_text.pairs) == ({"perplexity"}, (), ())
    monkeypatch.setattr(evaluation, "perplexity", never)
    pairs_alone = evaluate(PairModel(policy), shared, replace(suite, metrics=("eval_loss",)))
    assert "kl_divergence" not in pairs_alone.summary
    assert pairs_alone.answers == ()


def test_every_value_lies_in_its_declared_range(policy: Policy, shared: SharedWork, suite: Suite) -> None:
    measured = tuple(name for name, metric in DECLARED.items() if metric.cost != "clock")
    found = evaluate(PairModel(policy), shared, replace(suite, metrics=measured))
    assert found.summary.keys() == set(measured)
    for name, value in found.summary.items():
        assert DECLARED[name].low - 1e-9 <= value <= DECLARED[name].high
        rows = {"prompt": found.answers, "pair": found.pairs}.get(DECLARED[name].of, ())
        assert all(name in row for row in rows)


def test_guards_come_with_answers_and_only_with_them(policy: Policy, shared: SharedWork, suite: Suite) -> None:
    answered = evaluate(PairModel(policy), shared, replace(suite, metrics=("subtlety",))).summary
    assert answered.keys() == {"subtlety", *GUARDS}
    assert evaluate(PairModel(policy), shared, replace(suite, metrics=("ended",))).summary.keys() == set(GUARDS)
    assert not evaluate(PairModel(policy), shared, replace(suite, metrics=("eval_loss",))).summary.keys() & set(GUARDS)


def test_divergence_on_samples_is_that_of_the_answers_that_were_given(
    policy: Policy, shared: SharedWork, suite: Suite
) -> None:
    found = evaluate(PairModel(policy), shared, replace(suite, metrics=("kl_on_samples",)))
    given = answer_prompts(policy, [prompt.prompt for prompt in suite.prompts], suite.max_new_tokens)
    expected = sample_divergences(policy, [a.prompt_ids for a in given], [a.ids for a in given])
    assert [row["kl_on_samples"] for row in found.answers] == pytest.approx(expected, rel=1e-9)
    assert found.summary["kl_on_samples"] == pytest.approx(sum(expected) / len(expected))


def test_a_metric_of_ones_own_sees_each_answer_and_its_mean_is_the_summary(
    policy: Policy, shared: SharedWork, suite: Suite
) -> None:
    own = OwnMetric("mine:letters", len, takes_prompt=False, better="min")
    found = evaluate(PairModel(policy), shared, replace(suite, metrics=("mine:letters",), own=(own,)))
    lengths = [float(len(str(row["answer"]))) for row in found.answers]
    assert [row["mine:letters"] for row in found.answers] == lengths
    assert found.summary["mine:letters"] == pytest.approx(sum(lengths) / len(lengths))
    assert replace(suite, own=(own,)).better("mine:letters") == "min"
    assert (suite.better("perplexity"), suite.better("mine:letters")) == ("min", None)


def test_a_metric_of_ones_own_that_gives_no_number_ends_the_evaluation(
    policy: Policy, shared: SharedWork, suite: Suite
) -> None:
    own = OwnMetric("mine:broken", lambda prompt, text: float("nan"), takes_prompt=True)
    with pytest.raises(OwnMetricError, match="mine:broken on prompt toy-prompt-00: expected a finite number"):
        evaluate(PairModel(policy), shared, replace(suite, metrics=("mine:broken",), own=(own,)))


def test_a_suite_with_nothing_to_look_at_finds_nothing(policy: Policy, shared: SharedWork, suite: Suite) -> None:
    nothing = replace(suite, pair_ids=(), prompts=(), prose=prose_of([]))
    assert evaluate(PairModel(policy), shared, nothing).summary == {}


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_an_answer_is_the_same_in_a_batch_and_alone(base: Base, phase: PhaseSettings | None) -> None:
    policy = moved(base, phase)
    prompts = [
        "Tell of the river.",
        "What can a clock teach about an old song in case 7?",
        "A lamp?",
        "Tell of a lamp.",
    ]
    together = generate(policy, prompts, max_new_tokens=16, batch_size=4)
    assert together == generate(policy, prompts, max_new_tokens=16, batch_size=1)
    assert generate(policy, prompts[::-1], max_new_tokens=16, batch_size=3) == together[::-1]
    assert len(set(together)) > 1
    policy.detach()


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_an_answer_is_the_greedy_continuation_up_to_the_end_token(base: Base, phase: PhaseSettings | None) -> None:
    policy = moved(base, phase)
    tokenizer = policy.base.tokenizer
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Tell of a lamp."}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(head)["input_ids"]
    length = len(ids)
    with torch.no_grad():
        while len(ids) < length + 10 and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(policy.model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[length:], skip_special_tokens=True).strip()
    assert generate(policy, ["Tell of a lamp."], max_new_tokens=10) == [expected]
    [given] = answer_prompts(policy, ["Tell of a lamp."], max_new_tokens=10)
    assert (given.prompt_ids + given.ids, given.text) == (tuple(ids), expected)
    assert given.ended == (ids[-1] == tokenizer.eos_token_id)
    policy.detach()


def test_an_answer_is_cut_after_its_end_token_and_only_such_an_answer_ended(policy: Policy) -> None:
    end, pad = policy.base.tokenizer.eos_token_id, policy.base.tokenizer.pad_token_id
    words = policy.base.tokenizer("People say")["input_ids"]
    by_itself = evaluation._answer(policy, (1,), [*words, end, pad, pad])
    assert (by_itself.ids, by_itself.text, by_itself.ended) == ((*words, end), "People say", True)
    at_last = evaluation._answer(policy, (1,), [*words, end])
    assert (at_last.ids, at_last.ended) == ((*words, end), True)
    cut = evaluation._answer(policy, (1,), words)
    assert (cut.ids, cut.ended) == (tuple(words), False)


def test_any_of_several_end_tokens_ends_an_answer(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.base.model.generation_config, "eos_token_id", [7, 9])
    assert evaluation._answer(policy, (1,), [5, 9, 7]).ids == (5, 9)
    assert not evaluation._answer(policy, (1,), [5, 6]).ended


def test_generation_leaves_no_gradient_and_no_prompts_give_no_answers(policy: Policy) -> None:
    assert generate(policy, [], max_new_tokens=4) == []
    generate(policy, ["Tell."], max_new_tokens=2)
    assert all(parameter.grad is None for parameter in policy.trainable().values())
