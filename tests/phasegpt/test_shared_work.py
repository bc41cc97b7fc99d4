"""Shared work: computed once, found again by what it was made from, and equal to computing it directly."""

import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt import shared_work
from phasegpt.answers import answers_of, couples_of
from phasegpt.encoding import EncodedPair, encode_pair, sequence_batch
from phasegpt.forward import PairModel, completion_hidden
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base
from phasegpt.pairs import Pair, read_pairs
from phasegpt.shared_work import TENSORS, Lengths, model_fingerprint, prepare, shared_key
from tests.toy import DOMAINS

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = LoraSettings(r=4, alpha=8, dropout=0.5, target_modules=("q_proj", "v_proj"))
LENGTHS = Lengths(max_length=512, max_prompt_length=256)


@pytest.fixture(scope="module")
def pairs(toy_pairs_file: Path) -> tuple[Pair, ...]:
    return read_pairs(toy_pairs_file, DOMAINS)[:6]


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture
def policy(base: Base) -> Iterator[Policy]:
    policy = attach_policy(base, LORA, seed=0)
    yield policy
    policy.detach()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of answers of each reference pass through the model."""
    found: list[int] = []
    original = shared_work._reference_pass

    def counted(policy: Policy, sequences: Any, on_progress: Any) -> Any:
        found.append(len(sequences))
        return original(policy, sequences, on_progress)

    monkeypatch.setattr(shared_work, "_reference_pass", counted)
    return found


def entries(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_dir())


def chosen_first(pairs: list[EncodedPair]) -> list[Any]:
    return [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]


def test_the_second_call_computes_nothing_whatever_the_order_the_seed_and_the_lines(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], passes: list[int], tmp_path: Path
) -> None:
    first = prepare(tmp_path, policy, pairs, LENGTHS)
    policy.detach()
    other = attach_policy(base, replace(LORA, r=2), seed=9)
    second = prepare(tmp_path, other, [replace(pair, line=0) for pair in reversed(pairs)], LENGTHS)
    assert passes == [12]
    assert second.folder == first.folder
    assert entries(tmp_path) == [first.folder.name]
    other.detach()


def test_the_key_changes_with_all_that_the_content_depends_on(pairs: tuple[Pair, ...]) -> None:
    own = ("base", "reference", pairs, "template", LENGTHS)
    others = [
        ("other", *own[1:]),
        ("base", "", *own[2:]),
        ("base", "reference", pairs[1:], *own[3:]),
        ("base", "reference", (replace(pairs[0], chosen="Other."), *pairs[1:]), *own[3:]),
        (*own[:3], "other", LENGTHS),
        (*own[:4], Lengths(512, 255)),
        (*own[:4], Lengths(511, 256)),
    ]
    keys = {shared_key(*own), *(shared_key(*other) for other in others)}
    assert len(keys) == len(others) + 1
    assert shared_key("base", "reference", pairs[::-1], "template", LENGTHS) == shared_key(*own)


def test_another_precision_is_another_entry(
    toy_model_dir: Path, policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    single = prepare(tmp_path, policy, pairs, LENGTHS)
    exact = attach_policy(load_base(str(toy_model_dir), Path("/"), torch.float64), LORA, seed=0)
    assert prepare(tmp_path, exact, pairs, LENGTHS).folder != single.folder


def test_a_reference_adapter_is_another_entry(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    bare = prepare(tmp_path / "store", policy, pairs, LENGTHS)
    policy.save(tmp_path / "ref")
    policy.detach()
    on_top = attach_policy(base, LORA, seed=0, reference_adapter=tmp_path / "ref")
    assert prepare(tmp_path / "store", on_top, pairs, LENGTHS).folder != bare.folder
    on_top.detach()


def test_a_models_fingerprint_follows_its_content_and_not_its_place(toy_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy_model_dir, tmp_path / "copy")
    assert model_fingerprint(copy) == model_fingerprint(toy_model_dir)
    (copy / "README.md").write_text("not a part of the model")
    assert model_fingerprint(copy) == model_fingerprint(toy_model_dir)
    (copy / "chat_template.jinja").write_text("other")
    assert model_fingerprint(copy) != model_fingerprint(toy_model_dir)


def test_a_large_file_is_known_by_its_size_its_head_and_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    found = set()
    for place in (None, 0, 10_999_999):
        content = bytearray(11_000_000)
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        found.add(model_fingerprint(tmp_path))
    assert len(found) == 3


def test_a_batch_equals_computing_it_directly(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    shared = prepare(tmp_path, policy, pairs, LENGTHS)
    tokenizer = policy.base.tokenizer
    chosen = [pairs[4], pairs[1], pairs[2]]
    encoded = [encode_pair(tokenizer, pair, 512, 256) for pair in chosen]
    direct = sequence_batch(chosen_first(encoded), tokenizer.pad_token_id)
    direct["reference_logps"] = torch.zeros(6)
    with policy.as_reference():
        outputs = PairModel(policy)(direct)
        hidden, _, _ = completion_hidden(policy, direct)
    batch = shared.batch([pair.id for pair in chosen], tokenizer.pad_token_id, with_hidden=True)
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(batch[name], direct[name])
    expected = torch.cat([outputs.policy_chosen_logps, outputs.policy_rejected_logps])
    torch.testing.assert_close(batch["reference_logps"], expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(batch["reference_hidden"], hidden, rtol=1e-4, atol=1e-4)
    assert "reference_hidden" not in shared.batch([pairs[0].id], tokenizer.pad_token_id, with_hidden=False)


def test_an_untrained_policy_has_no_margin_and_no_divergence(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    shared = prepare(tmp_path, policy, pairs, LENGTHS)
    batch = shared.batch([pair.id for pair in pairs], policy.base.tokenizer.pad_token_id, with_hidden=True)
    with torch.no_grad():
        outputs = PairModel(policy)(batch, with_divergence=True)
    torch.testing.assert_close(outputs.policy_chosen_logps, outputs.reference_chosen_logps, rtol=0, atol=1e-3)
    assert outputs.divergences is not None
    assert outputs.divergences.abs().max() < 1e-6


def test_what_truncation_took_is_counted(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    assert prepare(tmp_path, policy, pairs, LENGTHS).cut_tokens == 0
    short = Lengths(max_length=24, max_prompt_length=8)
    cut = [encode_pair(policy.base.tokenizer, pair, 24, 8) for pair in pairs]
    shared = prepare(tmp_path, policy, pairs, short)
    assert shared.cut_tokens == sum(pair.cut_tokens for pair in cut) > 0
    assert shared.max_length == 24
    for name, completion in (("chosen", cut[3].chosen), ("rejected", cut[3].rejected)):
        assert shared.sequence(f"{pairs[3].id}-{name}") == (cut[3].prompt, completion)


def test_unpaired_answers_are_what_they_are_in_pairs(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    by_pairs = prepare(tmp_path, policy, pairs, LENGTHS)
    answers = answers_of(pairs)
    turned = prepare(tmp_path, policy, answers[::-1], LENGTHS)
    couples = {"across": (answers[0].id, answers[3].id)}
    across = prepare(tmp_path, policy, answers[::-1], LENGTHS, couples=couples)
    assert turned.folder == across.folder != by_pairs.folder
    assert dict(turned.couples) == {f"{pair.id}-chosen": couples_of(pairs)[pair.id] for pair in pairs}
    ids = [pair.id for pair in pairs[:2]]
    expected = by_pairs.batch(ids, 0, with_hidden=True)
    found = turned.batch([f"{name}-chosen" for name in ids], 0, with_hidden=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-4)
    crossed = across.batch(["across"], 0, with_hidden=False)
    assert torch.equal(crossed["input_ids"], across.answers(couples["across"], 0, with_hidden=False)["input_ids"])


def test_many_small_batches_equal_one(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, pad_id = [pair.id for pair in pairs], policy.base.tokenizer.pad_token_id
    one = prepare(tmp_path / "one", policy, pairs, LENGTHS).batch(ids, pad_id, with_hidden=True)
    monkeypatch.setattr(shared_work, "BATCH_TOKENS", 1)
    steps: list[tuple[str, int, int]] = []
    many = prepare(tmp_path / "many", policy, pairs, LENGTHS, lambda *step: steps.append(step))
    assert steps == [("reference", done, 12) for done in range(1, 13)]
    for name, value in many.batch(ids, pad_id, with_hidden=True).items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4)


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: corrupt(folder / TENSORS),
        lambda folder: (folder / TENSORS).unlink(),
        lambda folder: (folder / "about.json").write_text("{"),
        lambda folder: (folder / "about.json").write_text("{}"),
        lambda folder: (folder / "about.json").unlink(),
    ],
    ids=["a bit", "no tensors", "half a file", "no hash", "no file"],
)
def test_a_damaged_entry_is_computed_again_with_a_warning(
    policy: Policy,
    pairs: tuple[Pair, ...],
    passes: list[int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
) -> None:
    first = prepare(tmp_path, policy, pairs, LENGTHS)
    whole = first.batch([pairs[0].id], 0, with_hidden=True)
    damage(first.folder)
    with caplog.at_level(logging.WARNING, "phasegpt"):
        again = prepare(tmp_path, policy, pairs, LENGTHS)
    assert passes == [12, 12]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"shared work in {first.folder} is damaged and is computed again"
    ]
    for name, value in again.batch([pairs[0].id], 0, with_hidden=True).items():
        assert torch.equal(value, whole[name])


@pytest.mark.parametrize("where", ["save_file", "write_json"])
def test_a_crash_in_the_middle_leaves_nothing(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shared_work, where, crash)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, policy, pairs, LENGTHS)
    assert entries(tmp_path) == []
    assert prepare(tmp_path, policy, pairs, LENGTHS).folder.is_dir()


def test_two_threads_at_once_compute_once(
    toy_model_dir: Path, pairs: tuple[Pair, ...], passes: list[int], tmp_path: Path
) -> None:
    policies = [attach_policy(load_base(str(toy_model_dir), Path("/")), LORA, seed) for seed in range(2)]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda policy=policy: found.append(prepare(tmp_path, policy, pairs, LENGTHS).folder))
        for policy in policies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passes == [12]
    assert len(found) == 2
    assert found[0] == found[1]
