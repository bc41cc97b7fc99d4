"""What every trial of a search shares: token ids of the answers and what the reference says of them. Reading it.

An entry is a folder with a file for each part (see `shared_parts`), each beside a seal with its sha256. G groups of a
prompt and its answers, S answers, N tokens (prompts counted once), C completion tokens:
answers    tokens [N], lengths [G, 1 + k] as `packing.pack` gives them, reference_logps [S]
hidden     reference_hidden [C, d]
trunk-n    trunk [N, d]: what comes out of the lowest n layers
Made by `shared_store`. Files are mapped into memory, so that all processes of a machine have one copy of them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from phasegpt.answers import Couples
from phasegpt.encoding import Tokens
from phasegpt.files import read_json
from phasegpt.shared_parts import ANSWERS, HIDDEN, TRUNK


def seal_of(folder: Path, name: str) -> Path:
    """The file that says what a part's tensors hash to; written after them."""
    return folder / f"{name}.json"


def tensors_of(folder: Path, name: str) -> Path:
    """The tensors of a part."""
    return folder / f"{name}.safetensors"


class SharedWork:
    """Read access to one entry. Large parts stay on disk, mapped; a batch copies only its own rows.

    `parts` {part: file name} are the large ones that are kept. `couples` says which two answers `batch` puts side by
    side under a name: those of a pair under the pair's id. Everything is mapped at once, and stays readable where the
    entry is removed later.
    """

    def __init__(self, folder: Path, parts: Mapping[str, str], couples: Couples) -> None:
        self.folder = folder
        self.couples = couples
        self.about = read_json(seal_of(folder, ANSWERS))
        answers = _mapped(folder, ANSWERS)
        self._tokens: Tensor = answers.get_tensor("tokens")
        self._logps: Tensor = answers.get_tensor("reference_logps")
        self._parts = {part: _mapped(folder, name) for part, name in parts.items()}
        self._index = _index(self.about["ids"], answers.get_tensor("lengths").tolist())

    def judged_by(self, couples: Couples) -> "SharedWork":
        """The same work with other couples."""
        twin = copy.copy(self)
        twin.couples = couples
        return twin

    def without_trunk(self) -> "SharedWork":
        """The same work for a policy that may differ in the lowest layers too."""
        twin = copy.copy(self)
        twin._parts = {part: mapped for part, mapped in self._parts.items() if part != TRUNK}
        return twin

    @property
    def cut_tokens(self) -> int:
        """How many tokens truncation took from all answers together."""
        return int(self.about["cut_tokens"])

    @property
    def parts(self) -> frozenset[str]:
        """The large parts that are kept."""
        return frozenset(self._parts)

    def sequence(self, answer_id: str) -> tuple[Tokens, Tokens]:
        """The token ids of one answer: its prompt and its completion."""
        place = self._index[answer_id]
        prompt, completion = (tuple(self._tokens[span].tolist()) for span in (place.prompt, place.completion))
        return prompt, completion

    def completion_tokens(self, answer_id: str) -> int:
        """How many tokens the answer has."""
        return _size(self._index[answer_id].completion)

    def reference_logp(self, answer_id: str) -> float:
        """log π_ref of the answer, summed over its tokens, in nats."""
        return float(self._logps[self._index[answer_id].row])

    def batch(self, pair_ids: Sequence[str], with_hidden: bool) -> dict[str, Tensor]:
        """A batch of B pairs for `PairModel`: `answers` with each pair's chosen and rejected one in turn, S = 2B."""
        return self.answers([answer for pair_id in pair_ids for answer in self.couples[pair_id]], with_hidden)

    def answers(self, answer_ids: Sequence[str], with_hidden: bool) -> dict[str, Tensor]:
        """A packed batch of S answers, of which neighbours to one prompt share it.

        input_ids [N] and lengths, reference_logps [S]; as far as they are kept reference_hidden [C, d] (asked for by
        `with_hidden`) and trunk [N, d].
        """
        places = [self._index[answer_id] for answer_id in answer_ids]
        groups = [list(group) for _, group in groupby(places, key=lambda place: place.prompt.start)]
        spans = [span for group in groups for span in (group[0].prompt, *(place.completion for place in group))]
        batch = {
            "input_ids": torch.cat([self._tokens[span] for span in spans]).long(),
            "lengths": _lengths(groups),
            "reference_logps": self._logps[[place.row for place in places]],
        }
        if with_hidden and HIDDEN in self._parts:
            hidden = self._parts[HIDDEN].get_slice("reference_hidden")
            batch["reference_hidden"] = torch.cat([hidden[place.states] for place in places])
        if TRUNK in self._parts:
            trunk = self._parts[TRUNK].get_slice("trunk")
            batch["trunk"] = torch.cat([trunk[span] for span in spans])
        return batch


@dataclass(frozen=True)
class _Place:
    """Where an answer lies: its row of S, its prompt and completion of N tokens, its states of C."""

    row: int
    prompt: slice
    completion: slice
    states: slice


def _index(ids: Sequence[Sequence[str]], lengths: Sequence[Sequence[int]]) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    begin = states = 0
    for names, (prompt, *completions) in zip(ids, lengths, strict=True):
        edges = list(accumulate(completions, initial=begin + prompt))
        for name, first, last in zip(names, edges, edges[1:], strict=False):
            of_states = slice(states, states + last - first)
            found[name] = _Place(len(found), slice(begin, begin + prompt), slice(first, last), of_states)
            states = of_states.stop
        begin = edges[-1]
    return found


def _lengths(groups: Sequence[Sequence[_Place]]) -> Tensor:
    spans = [[group[0].prompt, *(place.completion for place in group)] for group in groups]
    width = max(map(len, spans))
    return torch.tensor([[*map(_size, row), *[0] * (width - len(row))] for row in spans])


def _size(span: slice) -> int:
    return int(span.stop - span.start)


def _mapped(folder: Path, name: str) -> Any:
    return safe_open(tensors_of(folder, name), framework="pt")
