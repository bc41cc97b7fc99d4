"""What a run has stored of its own evaluation, where that was made on the terms that are asked for.

Answers are scored again by the present metrics, so that versions never mix; rows of pairs and perplexity are taken as
they are. That the neutral prose is still the same text is taken on trust: results do not keep its hash.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from phasegpt.base_model import model_fingerprint, resolve_base
from phasegpt.checkpoints import Checkpoint
from phasegpt.config import Config, stages
from phasegpt.config_io import project_root
from phasegpt.evaluate import Row
from phasegpt.files import DamagedError, read_json
from phasegpt.metrics.declared import DECLARED, GUARDS, is_own
from phasegpt.metrics.own import OwnMetric
from phasegpt.metrics.text import TEXT_METRICS
from phasegpt.pairs import UnpairedRow
from phasegpt.terms import Terms, own_config

ANSWERS, PAIRS, PERPLEXITY = "answers", "pairs", "perplexity"
Parts = dict[str, Any]
"""{part of a suite: its rows, or the number}."""

log = logging.getLogger("phasegpt")


def prompt_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those metrics that need answers to the prompts."""
    return tuple(name for name in metrics if is_own(name) or (name in DECLARED and DECLARED[name].of == "prompt"))


def read_stored(checkpoint: Checkpoint, terms: Terms, own: Sequence[OwnMetric]) -> Parts:
    """The parts that the result of a checkpoint's run holds on these terms; a damaged result holds none."""
    config = own_config(checkpoint)
    if checkpoint.result is None or config is None:
        return {}
    try:
        return _parts(read_json(checkpoint.result), config, terms, own)
    except DamagedError as error:
        log.warning("%s", error)
    except (AttributeError, KeyError, TypeError) as error:
        log.warning("%s is no result of a run (%r); remove it and run again", checkpoint.result, error)
    return {}


def _parts(result: Mapping[str, Any], config: Config, terms: Terms, own: Sequence[OwnMetric]) -> Parts:
    if not _is_of(result, config, terms):
        return {}
    found = {
        ANSWERS: _answers(result, stages(config)[-1], terms, own),
        PAIRS: _pairs(result, stages(config)[-1], terms),
        PERPLEXITY: _perplexity(result, config, terms),
    }
    return {part: value for part, value in found.items() if value is not None}


def _is_of(result: Mapping[str, Any], config: Config, terms: Terms) -> bool:
    """Whether a result is of the run with this config, made in the same precision of the base model as it is now."""
    ours, theirs = terms.config.training, config.training
    return (
        result["config"] == config.dump()
        and (ours.bf16, ours.fp16) == (theirs.bf16, theirs.fp16)
        and result["hashes"]["base_model"] == model_fingerprint(resolve_base(config.model.base_model, project_root()))
    )


def _from_base(result: Mapping[str, Any]) -> bool:
    """Whether the run's reference was the untuned base model, as it is for all that is judged here."""
    return bool(result["hashes"]["reference_adapter"] == "")


def _answers(
    result: Mapping[str, Any], config: Config, terms: Terms, own: Sequence[OwnMetric]
) -> tuple[Row, ...] | None:
    names = [name for name in (*prompt_metrics(terms.config.evaluation.metrics), *GUARDS) if not is_own(name)]
    rows, kept = result["answers"], [name for name in names if name not in TEXT_METRICS]
    asked = [(prompt.id, prompt.prompt) for prompt in terms.prompts]
    if (
        config.evaluation.max_new_tokens != terms.config.evaluation.max_new_tokens
        or [(row["id"], row["prompt"]) for row in rows] != asked
        or any(name not in row for row in rows for name in kept)
        or ("kl_on_samples" in kept and not _from_base(result))
    ):
        return None
    return tuple(_scored(row, names, own) for row in rows)


def _scored(row: Row, names: Sequence[str], own: Sequence[OwnMetric]) -> Row:
    prompt_id, prompt, answer = (str(row[key]) for key in ("id", "prompt", "answer"))
    return {
        **{key: row[key] for key in ("id", "domain", "prompt", "answer")},
        **{name: TEXT_METRICS[name](answer) if name in TEXT_METRICS else row[name] for name in names},
        **{metric.name: metric.score(prompt_id, prompt, answer) for metric in own},
    }


def _pairs(result: Mapping[str, Any], config: Config, terms: Terms) -> tuple[Row, ...] | None:
    """Rows of pairs alone: whom an unpaired answer is judged beside depends on which others there are."""
    ours, theirs, rows = terms.config.training, config.training, {row["id"]: row for row in result["pairs"]}
    names = [name for name in terms.config.evaluation.metrics if name in DECLARED and DECLARED[name].of == "pair"]
    if (
        not _from_base(result)
        or result["hashes"]["data"] != terms.data_hash
        or (ours.beta, ours.max_length, ours.max_prompt_length)
        != (theirs.beta, theirs.max_length, theirs.max_prompt_length)
        or any(isinstance(pair, UnpairedRow) for pair in terms.pairs)
        or any(name not in rows.get(pair.id, {}) for pair in terms.pairs for name in names)
    ):
        return None
    return tuple({"id": pair.id, **{name: rows[pair.id][name] for name in names}} for pair in terms.pairs)


def _perplexity(result: Mapping[str, Any], config: Config, terms: Terms) -> float | None:
    ours, theirs = terms.config.evaluation, config.evaluation
    if (ours.fluency_text, ours.fluency_tokens) != (theirs.fluency_text, theirs.fluency_tokens):
        return None
    return result["metrics"].get(PERPLEXITY) if PERPLEXITY in ours.metrics else None
