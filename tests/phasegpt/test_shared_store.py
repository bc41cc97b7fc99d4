"""Shared work: computed once, found again by what it was made from, and equal to computing it directly."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from phasegpt import shared_store
from phasegpt.answers import answers_of, couples_of
from phasegpt.base_model import model_fingerprint
from phasegpt.encoding import encode_pair
from phasegpt.forward import PairModel, completion_statistics, packed_completions
from phasegpt.models import Base, LoraSettings, Policy, attach_policy, load_base
from phasegpt.packing import pack
from phasegpt.pairs import Pair, read_pairs
from phasegpt.shared_parts import ANSWERS, HIDDEN, TRUNK
from phasegpt.shared_store import Lengths, Passages, SharedStore, prepare, shared_key
from phasegpt.shared_work import SharedWork, seal_of, tensors_of
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
    original = shared_store._Entry._reference_pass

    def counted(entry: Any, encoded: Any, *more: Any) -> Any:
        found.append(sum(map(len, encoded.ids)))
        return original(entry, encoded, *more)

    monkeypatch.setattr(shared_store._Entry, "_reference_pass", counted)
    return found


def entries(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_dir())


def prepared(folder: Path, policy: Policy, pairs: Any, lengths: Lengths = LENGTHS, **options: Any) -> SharedWork:
    """As a process would that has opened nothing yet."""
    return prepare(SharedStore(folder), policy, pairs, lengths, **options)


def test_the_second_call_computes_nothing_whatever_the_order_the_seed_and_the_lines(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], passes: list[int], tmp_path: Path
) -> None:
    first = prepared(tmp_path, policy, pairs)
    policy.detach()
    other = attach_policy(base, replace(LORA, r=2), seed=9)
    second = prepared(tmp_path, other, [replace(pair, line=0) for pair in reversed(pairs)])
    assert passes == [12]
    assert second.folder == first.folder
    assert entries(tmp_path) == [first.folder.name]
    other.detach()


def test_the_key_changes_with_all_that_the_content_depends_on(
    policy: Policy, pairs: tuple[Pair, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(rows: Any = pairs, lengths: Lengths = LENGTHS) -> str:
        return shared_key(policy, shared_store.preference_passages(policy, rows, lengths))

    own = key()
    keys = {
        own,
        key(pairs[1:]),
        key((replace(pairs[0], chosen="Other."), *pairs[1:])),
        key(lengths=Lengths(512, 255)),
        key(lengths=Lengths(511, 256)),
        shared_key(policy, Passages(("other",), lambda: pytest.fail("nothing is encoded for a key"))),
    }
    assert key(pairs[::-1]) == own
    monkeypatch.setattr(policy.base.tokenizer, "chat_template", "other")
    keys.add(key())
    monkeypatch.setattr(policy, "reference", "other")
    keys.add(key())
    monkeypatch.setitem(policy.base.__dict__, "fingerprint", "other")
    keys.add(key())
    assert len(keys) == 9


def test_another_precision_is_another_entry(
    toy_model_dir: Path, policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    single = prepared(tmp_path, policy, pairs)
    exact = attach_policy(load_base(str(toy_model_dir), Path("/"), torch.float64), LORA, seed=0)
    assert prepared(tmp_path, exact, pairs).folder != single.folder


def test_a_reference_adapter_is_another_entry(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    bare = prepared(tmp_path / "store", policy, pairs)
    policy.save(tmp_path / "ref")
    policy.detach()
    on_top = attach_policy(base, LORA, seed=0, reference_adapter=tmp_path / "ref")
    assert prepared(tmp_path / "store", on_top, pairs).folder != bare.folder
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
    shared = prepared(tmp_path, policy, pairs)
    chosen = [pairs[4], pairs[1], pairs[2]]
    direct = pack([encode_pair(policy.base.tokenizer, pair, 512, 256).group for pair in chosen])
    with policy.as_reference():
        expected = completion_statistics(policy, direct).logps
        hidden = packed_completions(policy, direct).hidden
    batch = shared.batch([pair.id for pair in chosen], with_hidden=True)
    for name in ("input_ids", "lengths"):
        assert torch.equal(batch[name], direct[name])
    torch.testing.assert_close(batch["reference_logps"], expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(batch["reference_hidden"], hidden, rtol=1e-4, atol=1e-4)
    assert "reference_hidden" not in shared.batch([pairs[0].id], with_hidden=False)
    for pair, logp in zip(chosen, expected[::2].tolist(), strict=True):
        name = f"{pair.id}-chosen"
        assert shared.reference_logp(name) == pytest.approx(logp, rel=1e-5)
        assert shared.completion_tokens(name) == len(shared.sequence(name)[1])


def test_answers_in_any_order_share_a_prompt_with_their_neighbours_alone(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    shared = prepared(tmp_path, policy, pairs)
    names = [f"{pairs[2].id}-rejected", f"{pairs[2].id}-chosen", f"{pairs[0].id}-chosen", f"{pairs[2].id}-chosen"]
    parts = [shared.sequence(name) for name in names]
    batch = shared.answers(names, with_hidden=True)
    direct = pack([(*parts[0], parts[1][1]), parts[2], parts[3]])
    assert torch.equal(batch["input_ids"], direct["input_ids"])
    assert torch.equal(batch["lengths"], direct["lengths"])
    with policy.as_reference():
        hidden = packed_completions(policy, direct).hidden
    torch.testing.assert_close(batch["reference_hidden"], hidden, rtol=1e-4, atol=1e-4)


def test_an_untrained_policy_has_no_margin_and_no_divergence(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    shared = prepared(tmp_path, policy, pairs)
    batch = shared.batch([pair.id for pair in pairs], with_hidden=True)
    with torch.no_grad():
        outputs = PairModel(policy)(batch, with_divergence=True)
    torch.testing.assert_close(outputs.policy_chosen_logps, outputs.reference_chosen_logps, rtol=0, atol=1e-3)
    assert outputs.divergences is not None
    assert outputs.divergences.abs().max() < 1e-6


def test_what_truncation_took_is_counted(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    assert prepared(tmp_path, policy, pairs).cut_tokens == 0
    short = Lengths(max_length=24, max_prompt_length=8)
    cut = [encode_pair(policy.base.tokenizer, pair, 24, 8) for pair in pairs]
    shared = prepared(tmp_path, policy, pairs, short)
    assert shared.cut_tokens == sum(pair.cut_tokens for pair in cut) > 0
    for name, completion in (("chosen", cut[3].chosen), ("rejected", cut[3].rejected)):
        assert shared.sequence(f"{pairs[3].id}-{name}") == (cut[3].prompt, completion)


def test_unpaired_answers_are_what_they_are_in_pairs(policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    by_pairs = prepared(tmp_path, policy, pairs)
    answers = answers_of(pairs)
    turned = prepared(tmp_path, policy, answers[::-1])
    couples = {"across": (answers[0].id, answers[3].id)}
    across = prepared(tmp_path, policy, answers[::-1], couples=couples)
    assert turned.folder == across.folder != by_pairs.folder
    assert dict(turned.couples) == {f"{pair.id}-chosen": couples_of(pairs)[pair.id] for pair in pairs}
    ids = [pair.id for pair in pairs[:2]]
    expected = by_pairs.batch(ids, with_hidden=True)
    found = turned.batch([f"{name}-chosen" for name in ids], with_hidden=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-4)
    crossed = across.batch(["across"], with_hidden=False)
    assert torch.equal(crossed["input_ids"], across.answers(couples["across"], with_hidden=False)["input_ids"])


def test_many_small_batches_equal_one(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [pair.id for pair in pairs]
    one = prepared(tmp_path / "one", policy, pairs).batch(ids, with_hidden=True)
    monkeypatch.setattr(shared_store, "BATCH_TOKENS", 1)
    steps: list[tuple[str, int, int]] = []
    many = prepared(tmp_path / "many", policy, pairs, on_progress=lambda *step: steps.append(step))
    assert steps == [("reference", done, 12) for done in range(2, 13, 2)]
    for name, value in many.batch(ids, with_hidden=True).items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4)


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: corrupt(tensors_of(folder, ANSWERS)),
        lambda folder: (tensors_of(folder, ANSWERS)).unlink(),
        lambda folder: seal_of(folder, ANSWERS).write_text("{"),
        lambda folder: seal_of(folder, ANSWERS).write_text("{}"),
    ],
    ids=["a bit", "no tensors", "half a file", "no hash"],
)
def test_a_damaged_entry_is_computed_again_with_a_warning(
    policy: Policy,
    pairs: tuple[Pair, ...],
    passes: list[int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
) -> None:
    first = prepared(tmp_path, policy, pairs)
    whole = first.batch([pairs[0].id], with_hidden=True)
    damage(first.folder)
    with caplog.at_level(logging.WARNING, "phasegpt"):
        again = prepared(tmp_path, policy, pairs)
    assert passes == [12, 12]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"shared work in {first.folder} is damaged and is computed again"
    ]
    for name, value in again.batch([pairs[0].id], with_hidden=True).items():
        assert torch.equal(value, whole[name])


@pytest.mark.parametrize("where", ["save_file", "write_json"])
def test_what_a_crash_left_is_not_taken_for_an_entry(
    policy: Policy,
    pairs: tuple[Pair, ...],
    passes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shared_store, where, crash)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path, policy, pairs)
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not list(folder.glob("*.json"))
    assert prepared(tmp_path, policy, pairs).batch([pairs[0].id], with_hidden=True)
    assert passes == [12, 12]


def test_two_threads_at_once_compute_once(
    toy_model_dir: Path, pairs: tuple[Pair, ...], passes: list[int], tmp_path: Path
) -> None:
    policies = [attach_policy(load_base(str(toy_model_dir), Path("/")), LORA, seed) for seed in range(2)]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda policy=policy: found.append(prepared(tmp_path, policy, pairs).folder))
        for policy in policies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passes == [12]
    assert len(found) == 2
    assert found[0] == found[1]


TRUNK_LORA = replace(LORA, layers=(2, 3))


def test_only_what_is_asked_for_is_computed_and_a_part_that_is_missing_is_added(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], passes: list[int], tmp_path: Path
) -> None:
    bare = prepared(tmp_path, policy, pairs, with_hidden=False)
    assert bare.parts == frozenset()
    assert "reference_hidden" not in bare.batch([pairs[0].id], with_hidden=True)
    stamp = tensors_of(bare.folder, ANSWERS).stat().st_mtime_ns
    policy.detach()
    upper = attach_policy(base, TRUNK_LORA, seed=0)
    whole = prepared(tmp_path, upper, pairs, with_hidden=True)
    assert (whole.folder, whole.parts) == (bare.folder, {HIDDEN, TRUNK})
    assert tensors_of(bare.folder, ANSWERS).stat().st_mtime_ns == stamp
    prepared(tmp_path, upper, pairs, with_hidden=False)
    assert passes == [12, 12]
    upper.detach()


def test_each_depth_of_the_trunk_is_a_part_of_its_own(base: Base, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    for layers in ((1, 2), (3,)):
        policy = attach_policy(base, replace(LORA, layers=layers), seed=0)
        shared = prepared(tmp_path, policy, pairs, with_hidden=False)
        batch = shared.batch([pair.id for pair in pairs], with_hidden=False)
        with policy.as_reference(), policy.trunk_noted() as noted:
            packed_completions(policy, {name: batch[name] for name in ("input_ids", "lengths")})
        torch.testing.assert_close(batch["trunk"], noted[0], rtol=1e-5, atol=1e-5)
        policy.detach()
    assert sorted(path.name for path in shared.folder.glob("trunk*")) == [
        f"trunk-{depth}.{kind}" for depth in (1, 3) for kind in ("json", "safetensors")
    ]


def test_a_float64_model_shares_float64_work(toy_model_dir: Path, pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    policy = attach_policy(load_base(str(toy_model_dir), Path("/"), torch.float64), TRUNK_LORA, seed=0)
    batch = prepared(tmp_path, policy, pairs).batch([pairs[0].id], with_hidden=True)
    assert {batch[name].dtype for name in ("reference_logps", "reference_hidden", "trunk")} == {torch.float64}


def test_parts_over_the_budget_are_left_out_with_a_warning_and_computed_live(
    base: Base, policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy.detach()
    upper = attach_policy(base, TRUNK_LORA, seed=0)
    moved = {name: torch.randn_like(p) * 0.1 for name, p in upper.trainable().items()}
    whole = prepared(tmp_path / "whole", upper, pairs)
    room_for_hidden = tensors_of(whole.folder, HIDDEN).stat().st_size / 1e9
    found = {}
    for budget, parts in ((20.0, {HIDDEN, TRUNK}), (room_for_hidden, {HIDDEN}), (0.0, set())):
        with caplog.at_level(logging.WARNING, "phasegpt"):
            shared = prepare(SharedStore(tmp_path / str(budget), budget), upper, pairs, LENGTHS)
        assert shared.parts == parts
        assert sum(record.levelno == logging.WARNING for record in caplog.records) == 2 - len(parts)
        caplog.clear()
        for name, parameter in upper.trainable().items():
            parameter.data.copy_(moved[name])
        with torch.no_grad():
            found[budget] = PairModel(upper).eval()(shared.batch([pairs[1].id], with_hidden=True), with_divergence=True)
    for other in (room_for_hidden, 0.0):
        torch.testing.assert_close(found[other].policy_logps, found[20.0].policy_logps, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(found[other].divergences, found[20.0].divergences, rtol=1e-4, atol=1e-6)
    assert found[20.0].divergences.min() > 1e-4
    upper.detach()


def test_the_entries_that_were_not_opened_for_longest_make_room_and_stay_readable_where_they_are_mapped(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    store = SharedStore(tmp_path)
    opened = {size: prepare(store, policy, pairs[:size], LENGTHS) for size in (4, 5)}
    used = {size: sum(file.stat().st_size for file in work.folder.glob("*")) for size, work in opened.items()}
    for age, work in ((200, opened[4]), (100, opened[5])):
        mark = work.folder / shared_store.USED
        os.utime(mark, (mark.stat().st_atime, mark.stat().st_mtime - age))
    third = prepare(SharedStore(tmp_path, (used[5] * 2.5) / 1e9), policy, pairs, LENGTHS)
    assert entries(tmp_path) == sorted([opened[5].folder.name, third.folder.name])
    assert opened[4].batch([pairs[0].id], with_hidden=True)["reference_hidden"].abs().sum() > 0
    assert prepare(store, policy, pairs[:4], LENGTHS).folder == opened[4].folder  # this process has it open


def test_no_entry_goes_that_another_process_holds_or_that_this_one_has_open(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path
) -> None:
    held, free = (prepared(tmp_path, policy, pairs[:size]).folder for size in (4, 5))
    with FileLock(f"{held}.lock"):
        own = prepare(SharedStore(tmp_path, 1e-9), policy, pairs, LENGTHS).folder
        assert entries(tmp_path) == sorted([held.name, own.name])
    assert not free.exists()
    prepare(SharedStore(tmp_path, 1e-9), policy, pairs, LENGTHS)
    assert entries(tmp_path) == [own.name]


def test_a_warm_process_opens_and_checks_an_entry_once(
    policy: Policy, pairs: tuple[Pair, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SharedStore(tmp_path)
    first = prepare(store, policy, pairs, LENGTHS)
    monkeypatch.setattr(shared_store, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
    again = prepare(store, policy, pairs, LENGTHS, couples={})
    assert (again.folder, again.couples) == (first.folder, {})
    assert first.couples == couples_of(pairs)
