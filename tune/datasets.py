"""What a run is given to train on and to be judged by, as MLflow keeps a run's inputs.

Each has a digest of its content: two runs with the same digest saw the same rows, wherever the file lay. Knows nothing
of runs or of MLflow's client.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from phasegpt.answers import preferences_of, split_of
from phasegpt.config import Config
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import Tree, resolve
from phasegpt.config_sections import is_text
from phasegpt.files import file_sha256, text_sha256
from phasegpt.key_paths import get, split
from phasegpt.metrics.declared import unit_of
from phasegpt.pairs import Pair, PairsError, Prompt, UnpairedRow, pairs_hash, read_prompts, take_prompts

DIGEST = 16
"""Digits of a digest, as in the tag data_hash; MLflow takes at most 36."""
TRAINING, VALIDATION, PROSE = "training", "validation", "prose"
DEPENDS = (
    "data", "experiment.seed", "training.preference_dataset", "training.method",
    "evaluation.held_out_domains", "evaluation.metrics", "evaluation.prompts", "evaluation.max_prompts",
    "evaluation.fluency_text", "evaluation.fluency_tokens",
)  # fmt: skip
"""The keys that say what a run is given."""
log = logging.getLogger("phasegpt")
Rows = Sequence[Pair] | Sequence[UnpairedRow] | Sequence[Prompt]


@dataclass(frozen=True)
class Dataset:
    """One input: its file's name, the digest of its rows, and its `context`, which says what it was for.

    Contexts are training, validation, the half of the evaluation prompts (search, final) and prose. `source`, `schema`
    and `profile` are JSON in MLflow's own layout, which its UI shows.
    """

    name: str
    digest: str
    context: str
    source: str
    schema: str
    profile: str


def datasets_of(config: Config, halves: Sequence[str], *, trains: bool) -> tuple[Dataset, ...]:
    """The inputs of a run under `config` judged on `halves` of the prompts; none to train on unless it `trains`.

    Raises PairsError, OSError.
    """
    return (*_preferences(config, trains=trains), *_prompts(config, halves), *_prose(config))


class Inputs:
    """The datasets of a search's jobs, read once for all that depend on the same keys. For a record: raises nothing."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Dataset, ...]] = {}

    def of(self, config: Mapping[str, Any], halves: Sequence[str], *, trains: bool) -> tuple[Dataset, ...]:
        """Of a config as plain values; none where a trial's values make a config that cannot run, or a file is gone."""
        key = json.dumps([halves, trains, *(get(config, split(name)) for name in DEPENDS)])
        if key not in self._known:
            self._known[key] = self._read(config, halves, trains=trains)
        return self._known[key]

    def _read(self, config: Mapping[str, Any], halves: Sequence[str], *, trains: bool) -> tuple[Dataset, ...]:
        try:
            return datasets_of(Tree("inputs", config, {}).typed(), halves, trains=trains)
        except (ConfigError, PairsError, OSError) as error:
            log.warning("the inputs of a run are not recorded: %s", error)
            return ()


def _preferences(config: Config, *, trains: bool) -> Iterator[Dataset]:
    path = resolve(config.training.preference_dataset)
    if is_text(config.training.preference_dataset):
        if trains:
            yield _text(path, TRAINING)
        return
    parts = split_of(preferences_of(config), config)
    if trains:
        yield _rows(path, TRAINING, parts.train, pairs_hash(parts.train))
    yield _rows(path, VALIDATION, parts.val, pairs_hash(parts.val))


def _prompts(config: Config, halves: Sequence[str]) -> Iterator[Dataset]:
    evaluation = config.evaluation
    if not any(unit_of(name) == "prompt" for name in evaluation.metrics):
        return
    path = resolve(evaluation.prompts)
    prompts = read_prompts(path)
    for half in halves:
        taken = take_prompts(prompts, half, evaluation.max_prompts)
        yield _rows(path, half, taken, text_sha256(*(text for row in taken for text in (row.id, row.prompt))))


def _prose(config: Config) -> Iterator[Dataset]:
    if "perplexity" in config.evaluation.metrics:
        yield _text(resolve(config.evaluation.fluency_text), PROSE, tokens=config.evaluation.fluency_tokens)


def _rows(path: Path, context: str, rows: Rows, digest: str) -> Dataset:
    kind = type(rows[0]) if rows else Pair
    columns = [field.name for field in fields(kind) if field.name != "line"]
    domains = Counter(str(row.domain) for row in rows)
    return _dataset(path, context, digest, columns, {"num_rows": len(rows), "domains": dict(sorted(domains.items()))})


def _text(path: Path, context: str, **more: int) -> Dataset:
    return _dataset(path, context, file_sha256(path), ["text"], {"num_bytes": path.stat().st_size, **more})


def _dataset(path: Path, context: str, digest: str, columns: Sequence[str], profile: Mapping[str, Any]) -> Dataset:
    schema = [{"name": column, "type": "boolean" if column == "label" else "string"} for column in columns]
    return Dataset(
        name=path.stem,
        digest=digest[:DIGEST],
        context=context,
        source=json.dumps({"uri": str(path)}),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps(profile),
    )
