"""What every trial of a search shares: token ids of the answers and what the reference says of them.

Computed once for (base model, reference adapter, pairs, template, lengths), never by seed; stored as one safetensors
file that each trial maps into memory; found again by the hash of what it was made from.

Layout of the file, S sequences (chosen and rejected of each pair in turn, or unpaired answers), C completion tokens:
tokens [sum of lengths], bounds [S, 3] (begin, begin of the completion, end), reference_logps [S],
reference_hidden [C, d] with hidden_bounds [S, 2], and where the lowest layers carry nothing that trains, what comes out
of them: trunk [sum of lengths, d].
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from phasegpt.answers import Couples, answers_of, couples_of
from phasegpt.divergences import token_statistics
from phasegpt.encoding import EncodedAnswer, EncodedPair, Tokens, encode_answer, encode_pair, sequence_batch
from phasegpt.files import file_sha256, read_json, text_sha256, whole_folder, write_json
from phasegpt.forward import completion_hidden, sum_by_row
from phasegpt.models import Base, Policy
from phasegpt.pairs import Pair, UnpairedRow, pairs_hash

FORMAT = "3"
TENSORS = "shared.safetensors"
BATCH_TOKENS = 2048
log = logging.getLogger("phasegpt")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Lengths:
    """The longest sequence and the longest prompt, in tokens."""

    max_length: int
    max_prompt_length: int


class SharedWork:
    """Read access to one entry. Tensors stay on disk, mapped; a batch copies only its own rows.

    `couples` says which two answers `batch` puts side by side under a name: those of a pair under the pair's id.
    """

    def __init__(self, folder: Path, couples: Couples) -> None:
        self.folder = folder
        self.couples = couples
        self.about = read_json(folder / "about.json")
        self._tensors = safe_open(folder / TENSORS, framework="pt")
        self._index = {name: row for row, name in enumerate(self.about["ids"])}
        self._bounds = self._tensors.get_tensor("bounds")
        self._hidden_bounds = self._tensors.get_tensor("hidden_bounds")
        self._logps = self._tensors.get_tensor("reference_logps")

    @property
    def cut_tokens(self) -> int:
        """How many tokens truncation took from all pairs together."""
        return int(self.about["cut_tokens"])

    @property
    def max_length(self) -> int:
        """The longest sequence that was allowed, in tokens."""
        return int(self.about["max_length"])

    def sequence(self, answer_id: str) -> tuple[Tokens, Tokens]:
        """The token ids of one answer: its prompt and its completion."""
        begin, completion, end = self._bounds[self._index[answer_id]].tolist()
        tokens = self._tensors.get_slice("tokens")[begin:end].tolist()
        return tuple(tokens[: completion - begin]), tuple(tokens[completion - begin :])

    def batch(self, pair_ids: Sequence[str], pad_id: int, with_hidden: bool) -> dict[str, Tensor]:
        """A batch of B pairs for `PairModel`: `answers` with their chosen ones first, S = 2B."""
        couples = [self.couples[pair_id] for pair_id in pair_ids]
        chosen, rejected = [couple[0] for couple in couples], [couple[1] for couple in couples]
        return self.answers([*chosen, *rejected], pad_id, with_hidden)

    def answers(self, answer_ids: Sequence[str], pad_id: int, with_hidden: bool) -> dict[str, Tensor]:
        """A batch of S answers: ids and masks [S, T], reference_logps [S], reference_hidden [N, d], trunk [S, T, d]."""
        batch = sequence_batch([self.sequence(answer_id) for answer_id in answer_ids], pad_id)
        rows = [self._index[answer_id] for answer_id in answer_ids]
        batch["reference_logps"] = self._logps[rows]
        if with_hidden:
            states = self._tensors.get_slice("reference_hidden")
            spans = [self._hidden_bounds[row].tolist() for row in rows]
            batch["reference_hidden"] = torch.cat([states[begin:end] for begin, end in spans])
        if self.about["trunk_depth"]:
            batch["trunk"] = self._trunk(rows, batch["input_ids"].shape[1])
        return batch

    def _trunk(self, rows: Sequence[int], width: int) -> Tensor:
        stored = self._tensors.get_slice("trunk")
        padded = torch.zeros(len(rows), width, stored.get_shape()[1])
        for place, row in enumerate(rows):
            begin, _, end = self._bounds[row].tolist()
            padded[place, : end - begin] = stored[begin:end]
        return padded


def shared_key(
    base_fingerprint: str,
    reference: str,
    pairs: Sequence[Pair | UnpairedRow],
    template: str,
    lengths: Lengths,
    trunk_depth: int = 0,
) -> str:
    """What an entry is found by: a hash of everything that its content depends on."""
    sizes = f"{lengths.max_length}/{lengths.max_prompt_length}/{trunk_depth}"
    return text_sha256(FORMAT, base_fingerprint, reference, pairs_hash(pairs), template, sizes)[:24]


def model_fingerprint(folder: Path) -> str:
    """A hash of a model folder's files by name, size and content, of large ones by their first and last megabyte."""
    parts: list[str] = []
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".model", ".txt", ".jinja"}
    ):
        size = path.stat().st_size
        parts.append(f"{path.name} {size} {_head_and_tail(path) if size > 10_000_000 else file_sha256(path)}")
    return text_sha256(*parts)


def _head_and_tail(path: Path, span: int = 1_000_000) -> str:
    with path.open("rb") as handle:
        head = handle.read(span)
        handle.seek(-span, 2)
        return text_sha256(head.hex(), handle.read().hex())


def prepare(
    store: Path,
    policy: Policy,
    pairs: Sequence[Pair | UnpairedRow],
    lengths: Lengths,
    on_progress: Progress | None = None,
    couples: Couples | None = None,
) -> SharedWork:
    """The entry for these pairs under `store`, computed if it is not there yet; others who need it at once wait for it.

    Unpaired answers may take the place of pairs; `couples` then says which of them are judged together, by default
    those that `couples_of` makes of them all. Damaged entries are made anew.
    """
    base = policy.base
    fingerprint = f"{model_fingerprint(base.folder)} {base.model.dtype}"
    key = shared_key(
        fingerprint, policy.reference, pairs, str(base.tokenizer.chat_template), lengths, policy.trunk_depth
    )
    folder = store / key
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{key}.lock"):
        if not _is_whole(folder):
            _compute(folder, policy, pairs, lengths, on_progress)
    return SharedWork(folder, couples_of(pairs) if couples is None else couples)


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        if read_json(folder / "about.json")["sha256"] == file_sha256(folder / TENSORS):
            return True
    except (OSError, ValueError, KeyError):
        pass  # damaged too
    log.warning("shared work in %s is damaged and is computed again", folder)
    return False


def _compute(
    folder: Path,
    policy: Policy,
    pairs: Sequence[Pair | UnpairedRow],
    lengths: Lengths,
    on_progress: Progress | None,
) -> None:
    begun = time.monotonic()
    encoded = [_encode(policy.base, pair, lengths) for pair in pairs]
    sequences = [sequence for pair in encoded for sequence in _sequences(pair)]
    tensors = _pack(sequences) | _reference_pass(policy, sequences, on_progress)
    cut = sum(pair.cut_tokens for pair in encoded)
    with whole_folder(folder) as stage:
        save_file(tensors, stage / TENSORS)
        about = {
            "ids": [answer.id for answer in answers_of(pairs)],
            "cut_tokens": cut,
            "max_length": lengths.max_length,
            "sha256": file_sha256(stage / TENSORS),
            "base_model": policy.base.name,
            "trunk_depth": policy.trunk_depth,
            "seconds": time.monotonic() - begun,
        }
        write_json(stage / "about.json", about)
    log.info("shared work: %d answers in %.1f s, %d tokens cut", len(sequences), about["seconds"], cut)


def _encode(base: Base, row: Pair | UnpairedRow, lengths: Lengths) -> EncodedPair | EncodedAnswer:
    if isinstance(row, Pair):
        return encode_pair(base.tokenizer, row, lengths.max_length, lengths.max_prompt_length)
    return encode_answer(base.tokenizer, row, lengths.max_length, lengths.max_prompt_length)


def _sequences(encoded: EncodedPair | EncodedAnswer) -> list[tuple[Tokens, Tokens]]:
    """(prompt, completion) of each answer, in the order of `answers_of`."""
    if isinstance(encoded, EncodedAnswer):
        return [(encoded.prompt, encoded.completion)]
    return [(encoded.prompt, encoded.chosen), (encoded.prompt, encoded.rejected)]


def _pack(sequences: Sequence[tuple[Tokens, Tokens]]) -> dict[str, Tensor]:
    tokens: list[int] = []
    bounds: list[tuple[int, int, int]] = []
    for prompt, completion in sequences:
        begin = len(tokens)
        tokens += [*prompt, *completion]
        bounds.append((begin, begin + len(prompt), len(tokens)))
    return {"tokens": torch.tensor(tokens, dtype=torch.int32), "bounds": torch.tensor(bounds, dtype=torch.int64)}


def _reference_pass(
    policy: Policy, sequences: Sequence[tuple[Tokens, Tokens]], on_progress: Progress | None
) -> dict[str, Tensor]:
    """Log-probs, last hidden states and trunk of the reference for every sequence, batched by length, in file order."""
    logps = torch.zeros(len(sequences))
    hidden: list[Tensor] = [torch.empty(0)] * len(sequences)
    trunk: list[Tensor] = [torch.empty(0)] * len(sequences)
    done = 0
    with policy.as_reference(), policy.trunk_noted() as noted:
        for places in _batches_by_length(sequences):
            batch = sequence_batch([sequences[place] for place in places], policy.base.tokenizer.pad_token_id)
            batch = {name: value.to(policy.head.device) for name, value in batch.items()}
            states, targets, owner = completion_hidden(policy, batch)
            token_logps, _ = token_statistics(states, targets, policy.head)
            logps[places] = sum_by_row(token_logps, owner, len(places)).to("cpu", torch.float32)
            for index, place in enumerate(places):
                hidden[place] = states[owner == index].to("cpu", torch.float32)
                if noted:
                    trunk[place] = noted[-1][index, batch["attention_mask"][index].bool()].to("cpu", torch.float32)
            noted.clear()
            done += len(places)
            if on_progress is not None:
                on_progress("reference", done, len(sequences))
    ends = torch.tensor([len(states) for states in hidden]).cumsum(0)
    begins = torch.cat([torch.zeros(1, dtype=ends.dtype), ends[:-1]])
    return {
        **({"trunk": torch.cat(trunk)} if policy.trunk_depth else {}),
        "reference_logps": logps,
        "reference_hidden": torch.cat(hidden),
        "hidden_bounds": torch.stack([begins, ends], dim=1),
    }


def _batches_by_length(sequences: Sequence[tuple[Tokens, Tokens]]) -> Iterator[list[int]]:
    """Places sorted by length, as many a batch as keep the padded batch within BATCH_TOKENS tokens."""
    lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
    batch: list[int] = []
    for place in sorted(range(len(sequences)), key=lambda p: lengths[p]):
        if batch and lengths[place] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    yield batch
