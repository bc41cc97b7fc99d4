"""On what models are judged: the half of the prompts, and the pairs that none of them was trained on.

Every model that is compared is judged on the same terms. The reference of rewards and divergences is always the untuned
base model, whatever a model was tuned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phasegpt.answers import Couples, couples_of, preferences_of, split_of
from phasegpt.checkpoints import Checkpoint
from phasegpt.config import Config, stages
from phasegpt.config_io import load_tree, resolve
from phasegpt.config_sections import is_text
from phasegpt.files import file_sha256
from phasegpt.metrics.declared import is_own
from phasegpt.pairs import (
    AnswerSplit,
    Pair,
    Prompt,
    Split,
    UnpairedRow,
    pairs_hash,
    read_prompts,
    take_prompts,
)


class TermsError(ValueError):
    """Nothing that says on what to judge, or nothing to judge on; the message names the cure."""


@dataclass(frozen=True)
class Terms:
    """A suite's config (of its last stage) with what it leads to: prompts of one half, held-out pairs, their hash.

    `notes` are sentences for the reader.
    """

    config: Config
    half: str
    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair | UnpairedRow, ...]
    data_hash: str
    notes: tuple[str, ...] = ()

    @property
    def couples(self) -> Couples:
        """Which answers of `pairs` are judged side by side."""
        return couples_of(self.pairs)


def terms_for(
    checkpoints: Sequence[Checkpoint],
    half: str,
    config: Path | None = None,
    profile: str | None = None,
    overrides: Sequence[str] = (),
) -> Terms:
    """The terms on which to judge checkpoints: those of `config`, else of the first of them that has one with it.

    The base model is that of the first checkpoint that names one. A metric of the user's own is code: it counts only
    where `config` or `overrides` name it, never where a checkpoint, which may come from anywhere, does. Raises
    TermsError, ConfigError, PairsError.
    """
    source = config or next((c.config_file for c in checkpoints if c.config_file is not None), None)
    if source is None:
        names = " and ".join(dict.fromkeys(c.address for c in checkpoints))
        raise TermsError(f"{names}: no config of a run lies there, to say how to judge; give one with --config FILE")
    suite = stages(load_tree(source, profile, overrides).typed())[-1]
    suite, left_out = (suite, ()) if config or _set_metrics(overrides) else _without_own_metrics(suite)
    suite = on_base(suite, next((c.base_model for c in checkpoints if c.base_model), suite.model.base_model))
    evaluation = suite.evaluation
    prompts = take_prompts(read_prompts(resolve(evaluation.prompts)), half, evaluation.max_prompts)
    if not prompts:
        raise TermsError(f"evaluation.prompts: {evaluation.prompts} has no prompts of the {half} half; add some")
    data_hash, split = _split(suite)
    trained = {prompt for checkpoint in checkpoints for prompt in _trained_on(checkpoint)}
    unseen = tuple(row for row in split.val if row.prompt not in trained)
    notes = _notes(checkpoints, len(split.val) - len(unseen)) + left_out
    return Terms(suite, half, prompts, unseen, data_hash, notes)


def _set_metrics(overrides: Sequence[str]) -> bool:
    """Whether the user's own `--set` names the metrics."""
    return any(written.startswith("evaluation.metrics=") for written in overrides)


def _without_own_metrics(suite: Config) -> tuple[Config, tuple[str, ...]]:
    """A suite without the user's own metrics, and a note where there were any."""
    own = tuple(name for name in suite.evaluation.metrics if is_own(name))
    if not own:
        return suite, ()
    kept = tuple(name for name in suite.evaluation.metrics if name not in own)
    evaluation = suite.evaluation.model_copy(update={"metrics": kept})
    note = (
        f"{', '.join(own)} left out: code that only a checkpoint names is not run; name its config with --config FILE"
    )
    return suite.model_copy(update={"evaluation": evaluation}), (note,)


def on_base(config: Config, base_model: str) -> Config:
    """A config with another base model."""
    return config.model_copy(update={"model": config.model.model_copy(update={"base_model": base_model})})


def own_config(checkpoint: Checkpoint) -> Config | None:
    """The config that a checkpoint's run wrote, if it lies there."""
    return None if checkpoint.config_file is None else load_tree(checkpoint.config_file).typed()


def _trained_on(checkpoint: Checkpoint) -> set[str]:
    """The prompts whose pairs a checkpoint was trained on, as far as its run says so."""
    config = own_config(checkpoint)
    if config is None:
        return set()
    return {row.prompt for row in _split(stages(config)[-1])[1].train}


def _split(config: Config) -> tuple[str, Split | AnswerSplit]:
    """The hash of a config's data, and its split; a text has no pairs to split."""
    dataset = config.training.preference_dataset
    if is_text(dataset):
        return file_sha256(resolve(dataset)), Split((), (), ())
    rows = preferences_of(config)
    return pairs_hash(rows), split_of(rows, config)


def _notes(checkpoints: Sequence[Checkpoint], seen: int) -> tuple[str, ...]:
    notes = []
    if seen:
        notes.append(f"{seen} validation pairs are left out: one of the models was trained on their prompts")
    notes += [
        f"{c.address}: no config lies with it, so that it may have been trained on the validation pairs"
        for c in checkpoints
        if c.adapter is not None and c.config_file is None
    ]
    return tuple(notes)
