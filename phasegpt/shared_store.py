"""Making shared work: computed once for (base model, reference adapter, rows, template, lengths), never by seed.

A store is a folder of entries, each found by the hash of what it was made from. Processes that need the same entry at
once compute it once; damaged parts are found out by their hash and made anew; a budget keeps the folder small.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from phasegpt.answers import Couples, answers_of, couples_of
from phasegpt.divergences import token_statistics
from phasegpt.encoding import EncodedAnswer, EncodedPair, Group, Tokens, encode_answer, encode_pair
from phasegpt.files import file_sha256, make_folder, read_json, text_sha256, whole_file, write_json
from phasegpt.forward import packed_completions, sum_by_row
from phasegpt.mapped import MappedRows
from phasegpt.models import Policy
from phasegpt.once import made_once
from phasegpt.packing import pack
from phasegpt.pairs import Pair, UnpairedRow, pairs_hash
from phasegpt.shared_parts import ANSWERS, GB, HIDDEN, TRUNK, fitting, part_bytes
from phasegpt.shared_work import SharedWork, seal_of, tensors_of

FORMAT = "4"
BATCH_TOKENS = 2048  # of a pass of the reference
USED = "used"  # its time says when an entry was last opened
log = logging.getLogger("phasegpt")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Lengths:
    """The longest sequence and the longest prompt, in tokens."""

    max_length: int
    max_prompt_length: int


@dataclass(frozen=True)
class Encoded:
    """Groups of token ids, the ids of each group's answers, and how many tokens truncation took."""

    groups: Sequence[Group]
    ids: Sequence[tuple[str, ...]]
    cut_tokens: int = 0

    @property
    def tokens(self) -> int:
        """N, prompts counted once."""
        return sum(len(part) for group in self.groups for part in group)

    @property
    def completion_tokens(self) -> int:
        """C."""
        return self.tokens - sum(len(group[0]) for group in self.groups)


@dataclass(frozen=True)
class Passages:
    """What the reference reads: `content` names it and all that its token ids depend on, `encode` makes them."""

    content: tuple[str, ...]
    encode: Callable[[], Encoded]


def preference_passages(policy: Policy, rows: Sequence[Pair | UnpairedRow], lengths: Lengths) -> Passages:
    """The answers of pairs or unpaired rows in the chat template, those to one prompt as one group."""
    tokenizer = policy.base.tokenizer

    def encode_row(row: Pair | UnpairedRow) -> EncodedPair | EncodedAnswer:
        if isinstance(row, Pair):
            return encode_pair(tokenizer, row, lengths.max_length, lengths.max_prompt_length)
        return encode_answer(tokenizer, row, lengths.max_length, lengths.max_prompt_length)

    def encode() -> Encoded:
        groups: dict[Tokens, list[Tokens]] = {}
        ids: dict[Tokens, list[str]] = {}
        cut = 0
        for row in rows:
            encoded = encode_row(row)
            prompt, *completions = encoded.group
            groups.setdefault(prompt, []).extend(completions)
            ids.setdefault(prompt, []).extend(answer.id for answer in answers_of([row]))
            cut += encoded.cut_tokens
        return Encoded([(prompt, *groups[prompt]) for prompt in groups], [tuple(ids[prompt]) for prompt in groups], cut)

    sizes = f"{lengths.max_length}/{lengths.max_prompt_length}"
    return Passages((pairs_hash(rows), str(tokenizer.chat_template), sizes), encode)


def prepare(
    store: "SharedStore",
    policy: Policy,
    rows: Sequence[Pair | UnpairedRow],
    lengths: Lengths,
    on_progress: Progress | None = None,
    couples: Couples | None = None,
    *,
    with_hidden: bool = True,
) -> SharedWork:
    """The shared work of pairs or unpaired answers, the reference's hidden states among it where asked for.

    `couples` says which answers are judged together, by default those that `couples_of` makes of them all.
    """
    work = store.open(policy, preference_passages(policy, rows, lengths), on_progress, with_hidden=with_hidden)
    return work.judged_by(couples_of(rows) if couples is None else couples)


def shared_key(policy: Policy, passages: Passages) -> str:
    """What an entry is found by: a hash of everything that its content depends on."""
    model = (policy.base.fingerprint, str(policy.base.model.dtype), policy.reference)
    return text_sha256(FORMAT, *model, *passages.content)[:24]


class SharedStore:
    """A folder of entries, of at most `max_gb` (10^9 bytes), and those of them that this process has opened.

    An entry is checked against its hashes once in a process; a warm process goes on reading what it has mapped, also
    where another one has removed it since. Where the parts of one entry do not fit into the budget, those left out are
    computed live by each trial; where all entries together do not, those that were not opened for longest go.
    """

    def __init__(self, folder: Path, max_gb: float = 20.0) -> None:
        self.folder, self.max_gb = folder, max_gb
        self._opened: dict[tuple[str, int, bool], SharedWork] = {}

    def open(
        self, policy: Policy, passages: Passages, on_progress: Progress | None = None, *, with_hidden: bool
    ) -> SharedWork:
        """The entry of `passages`, without couples; what is missing of it is computed first."""
        key = shared_key(policy, passages)
        wanted = (key, policy.trunk_depth, with_hidden)
        if wanted not in self._opened:
            make_folder(self.folder)
            with FileLock(self.folder / f"{key}.lock"):
                folder, budget = self.folder / key, self.max_gb * GB
                entry = _Entry(folder, policy, passages)
                with made_once(folder, lambda: entry.is_sealed(with_hidden=with_hidden)):
                    parts = entry.complete(budget, on_progress, with_hidden=with_hidden)
                self._opened[wanted] = SharedWork(folder, parts, {})
                (folder / USED).touch()
            self._make_room()
        return self._opened[wanted]

    def _make_room(self) -> None:
        """Remove the entries that were not opened for longest until the rest fit; not those that this process has open.

        One under a lock is left alone too.
        """
        own = {key for key, _, _ in self._opened}
        entries = sorted((path for path in self.folder.iterdir() if path.is_dir()), key=_last_used)
        sizes = {entry: _bytes(entry) for entry in entries}
        for entry in entries:
            if sum(sizes.values()) <= self.max_gb * GB:
                return
            if entry.name not in own and _removed(entry):
                del sizes[entry]
                log.info("shared work in %s was removed: shared_work.max_gb is %g", entry, self.max_gb)


def _bytes(entry: Path) -> int:
    total = 0
    for file in entry.glob("*"):
        with suppress(FileNotFoundError):  # another process may be filling or removing it
            total += file.stat().st_size
    return total


def _last_used(entry: Path) -> float:
    mark = entry / USED
    return mark.stat().st_mtime if mark.is_file() else 0.0


def _removed(entry: Path) -> bool:
    try:
        with FileLock(f"{entry}.lock", timeout=0):
            shutil.rmtree(entry, ignore_errors=True)
    except Timeout:
        return False
    return True


class _Entry:
    """One folder of a store while its lock is held: which parts are whole, and the pass that makes the others."""

    def __init__(self, folder: Path, policy: Policy, passages: Passages) -> None:
        self.folder, self.policy, self.passages = folder, policy, passages
        self.dtype = torch.promote_types(policy.base.model.dtype, torch.float32)

    def complete(self, budget: float, on_progress: Progress | None, *, with_hidden: bool) -> dict[str, str]:
        """{part: file name} of the large parts that are kept, all of them whole."""
        wanted = self._wanted(with_hidden=with_hidden)
        missing = [name for name in (ANSWERS, *wanted.values()) if not self._is_whole(name)]
        if not missing:
            return wanted
        encoded = self.passages.encode()
        kept = {part: wanted[part] for part in self._fitting(encoded, wanted, budget)}
        missing = [name for name in missing if name == ANSWERS or name in kept.values()]
        if missing:
            self._compute(encoded, missing, on_progress)
        return kept

    def is_sealed(self, *, with_hidden: bool) -> bool:
        """Whether every part is there, its content unchecked."""
        names = (ANSWERS, *self._wanted(with_hidden=with_hidden).values())
        return all(seal_of(self.folder, name).is_file() for name in names)

    def _wanted(self, *, with_hidden: bool) -> dict[str, str]:
        depth = self.policy.trunk_depth
        return {**({HIDDEN: HIDDEN} if with_hidden else {}), **({TRUNK: f"{TRUNK}-{depth}"} if depth else {})}

    def _is_whole(self, name: str) -> bool:
        seal, tensors = seal_of(self.folder, name), tensors_of(self.folder, name)
        if not seal.exists():
            return False
        try:
            if read_json(seal)["sha256"] == file_sha256(tensors):
                return True
        except (OSError, ValueError, KeyError):
            pass  # damaged too
        log.warning("shared work in %s is damaged and is computed again", self.folder)
        return False

    def _fitting(self, encoded: Encoded, wanted: Mapping[str, str], budget: float) -> tuple[str, ...]:
        width, numbers = self.policy.head.shape[1], self.dtype.itemsize
        sizes = part_bytes(encoded.tokens, encoded.completion_tokens, width, numbers)
        kept = fitting({part: sizes[part] for part in wanted}, budget)
        for part in sorted(wanted.keys() - set(kept)):
            log.warning(
                "shared work: %s (%.1f GB) is over shared_work.max_gb and is computed live in every step",
                "the reference" if part == HIDDEN else "the frozen trunk", sizes[part] / GB,
            )  # fmt: skip
        return kept

    def _compute(self, encoded: Encoded, missing: Sequence[str], on_progress: Progress | None) -> None:
        begun = time.monotonic()
        make_folder(self.folder)
        with ExitStack() as files:
            stages = {name: files.enter_context(whole_file(tensors_of(self.folder, name))) for name in missing}
            logps = self._reference_pass(encoded, stages, on_progress)
            if ANSWERS in stages:
                tensors = {**pack(encoded.groups), "reference_logps": logps}
                save_file({"tokens": tensors.pop("input_ids"), **tensors}, stages[ANSWERS])
        of_answers = {"ids": encoded.ids, "cut_tokens": encoded.cut_tokens, "base_model": self.policy.base.name}
        for name in missing:
            about = {"sha256": file_sha256(tensors_of(self.folder, name)), "seconds": time.monotonic() - begun}
            write_json(seal_of(self.folder, name), {**about, **(of_answers if name == ANSWERS else {})})
        log.info("shared work: %d answers in %.1f s, %d tokens cut", len(logps), time.monotonic() - begun,
                 encoded.cut_tokens)  # fmt: skip

    def _reference_pass(self, encoded: Encoded, stages: Mapping[str, Path], on_progress: Progress | None) -> Tensor:
        """The reference's log-prob of each answer [S]; its hidden states and the trunk go to their files."""
        hidden = self._file(stages.get(HIDDEN), "reference_hidden", encoded.completion_tokens)
        trunk = self._file(stages.get(f"{TRUNK}-{self.policy.trunk_depth}"), TRUNK, encoded.tokens)
        logps: list[Tensor] = []
        answers = sum(map(len, encoded.ids))
        with self.policy.as_reference(), self.policy.trunk_noted() as noted:
            for groups in _batches(encoded.groups):
                batch = {name: value.to(self.policy.head.device) for name, value in pack(groups).items()}
                found = packed_completions(self.policy, batch)
                token_logps, _ = token_statistics(found.hidden, found.targets, self.policy.head)
                logps.append(sum_by_row(token_logps, found.rows, len(found.completion_tokens)).to("cpu", self.dtype))
                hidden.append(found.hidden)
                if noted:
                    trunk.append(noted.pop())
                if on_progress is not None:
                    on_progress("reference", sum(map(len, logps)), answers)
        return torch.cat(logps)

    def _file(self, path: Path | None, name: str, rows: int) -> MappedRows:
        return MappedRows(path, name, rows, self.policy.head.shape[1], self.dtype)


def _batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in their order, as many a batch as keep it within BATCH_TOKENS tokens."""
    batch: list[Group] = []
    for group in groups:
        if batch and sum(len(part) for other in (*batch, group) for part in other) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch
