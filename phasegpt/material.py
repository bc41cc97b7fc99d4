"""What a stage of a run trains on and is judged by beside the prompts: pairs or answers with shared work, or a text.

A source is read before the base model is loaded, so that a bad file is found out at once; with the policy it becomes
the material. Knows of the config only what it says of data.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from phasegpt.answers import UNPAIRED_METHOD, Couples, answers_of, couples_of, preferences_of, split_of
from phasegpt.config import Config
from phasegpt.config_io import resolve
from phasegpt.config_sections import is_text
from phasegpt.curriculum import difficulty, easy_to_hard, order_hash, reference_margins
from phasegpt.examples import AnswerExamples, Examples, PairExamples
from phasegpt.files import file_sha256
from phasegpt.forward import AnswerModel, PairModel, TextModel
from phasegpt.models import Policy
from phasegpt.pairs import Pair, PairsError, pairs_hash
from phasegpt.shared_store import Lengths, Progress, SharedStore, prepare
from phasegpt.shared_work import SharedWork
from phasegpt.texts import TextExamples, read_blocks, share_blocks

log = logging.getLogger("phasegpt")


@dataclass(frozen=True)
class Material:
    """`model` trains on `examples`; `shared` belongs to pairs and answers, `blocks` judge a run on a text.

    `sizes` are {train, val, cut_tokens}, `hashes` say what it was made of.
    """

    model: PairModel | AnswerModel | TextModel
    examples: Examples
    sizes: Mapping[str, int]
    hashes: Mapping[str, str]
    shared: SharedWork | None = None
    blocks: TextExamples | None = None


@dataclass(frozen=True)
class TextSource:
    """A plain text. `couples`: nothing in it is judged side by side."""

    config: Config
    couples: Couples = field(default_factory=dict)

    def material(
        self, policy: Policy, store: SharedStore, on_progress: Progress | None, *, with_divergence: bool
    ) -> Material:
        """The text in blocks. Raises TextError."""
        training, path = self.config.training, resolve(self.config.training.preference_dataset)
        tokenizer, seed = policy.base.tokenizer, self.config.experiment.seed
        blocks = read_blocks(path, tokenizer, training.max_length, self.config.data.val_split, seed)
        data = file_sha256(path)
        shared = share_blocks(store, policy, (*blocks.train, *blocks.val), data, on_progress)
        train, val = (TextExamples(part, shared) for part in (blocks.train, blocks.val))
        sizes = {"train": len(train), "val": len(val), "cut_tokens": blocks.cut_tokens}
        return Material(TextModel(policy), train, sizes, {"data": data}, blocks=val)


class PreferenceSource:
    """Pairs or unpaired answers, split.

    Raises PairsError where they are not sound or none is left to train on, CurriculumError where a curriculum cannot
    put them in order.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows = preferences_of(config)
        self.split = split_of(self.rows, config)
        if not self.split.train:
            path = resolve(config.training.preference_dataset)
            raise PairsError([f"{path}: no pair is left to train on after the split and held-out domains; add pairs"])
        self.couples = couples_of(self.split.val)
        for pair in self._pairs() if config.training.curriculum_learning.active else ():
            difficulty(pair)

    def _pairs(self) -> list[Pair]:
        """The training pairs; a file of unpaired answers has none."""
        return [row for row in self.split.train if isinstance(row, Pair)]

    def material(
        self, policy: Policy, store: SharedStore, on_progress: Progress | None, *, with_divergence: bool
    ) -> Material:
        """The training part with its shared work, which is found in `store` or made."""
        shared = self._shared_work(policy, store, on_progress, with_divergence)
        sizes = {"train": len(self.split.train), "val": len(self.split.val), "cut_tokens": shared.cut_tokens}
        hashes = {"data": pairs_hash(self.rows)}
        if self.config.training.method == UNPAIRED_METHOD:
            answers = AnswerExamples(shared, answers_of(self.split.train), self.config.training.max_length)
            return Material(AnswerModel(policy), answers, sizes, hashes, shared)
        pairs, order = self._in_order(shared)
        examples = PairExamples(shared, [pair.id for pair in pairs], with_divergence)
        divergence = self.config.training.kto_config
        model = PairModel(policy, divergence.kl_penalty_type, divergence.kl_temperature)
        return Material(model, examples, sizes, {**hashes, **order}, shared)

    def _shared_work(
        self, policy: Policy, store: SharedStore, on_progress: Progress | None, with_divergence: bool
    ) -> SharedWork:
        """Of what trains or judges, the same under every seed; held-out domains are judged by prompts."""
        with_hidden = with_divergence or "kl_divergence" in self.config.evaluation.metrics
        training = self.config.training
        scored = sorted((*self.split.train, *self.split.val), key=lambda row: row.id)
        couples = {**couples_of(self.split.train), **self.couples}
        lengths = Lengths(training.max_length, training.max_prompt_length)
        return prepare(store, policy, scored, lengths, on_progress, couples, with_hidden=with_hidden)

    def _in_order(self, shared: SharedWork) -> tuple[Sequence[Pair], dict[str, str]]:
        """The training pairs as they were split; where a curriculum asks for it from easy to hard, and their order."""
        pairs = self._pairs()
        if not self.config.training.curriculum_learning.active:
            return pairs, {}
        ordered = easy_to_hard(pairs, reference_margins(shared, [pair.id for pair in pairs]))
        order = order_hash(ordered)
        log.info("curriculum: %d pairs from easy to hard, order %s", len(ordered), order)
        return ordered, {"curriculum": order}


def source_of(config: Config) -> TextSource | PreferenceSource:
    """The source that training.preference_dataset names, read."""
    return TextSource(config) if is_text(config.training.preference_dataset) else PreferenceSource(config)
