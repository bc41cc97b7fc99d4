"""The arms of an ablation: settings to compare side by side, each on the same fresh seeds, with nothing searched.

`--ablate KEY=v1,v2,…` gives one arm a value; several `--ablate` add their arms, one factor at a time. The first arm is
the control. A λ ablation is the seed's study of DPO, DPO + λ·KL and KTO: it gets true KTO as one more arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phasegpt.answers import UNPAIRED_METHOD
from phasegpt.config import Config
from phasegpt.config_errors import ConfigError, Problem
from phasegpt.config_io import Tree
from phasegpt.yaml_places import read_text
from tune.console import number, short_name
from tune.smaller import ACCUMULATION, BATCH
from tune.space import Values

LAMBDA, METHOD = "training.kto_lambda", "training.method"


@dataclass(frozen=True)
class Arm:
    """Values laid on the config, under a name for people."""

    label: str
    values: Values


def parse_arms(words: Sequence[str], tree: Tree) -> tuple[list[Arm], list[str]]:
    """The arms of the `--ablate` options, at least one, and remarks. Raises ConfigError for what the config refuses."""
    arms = [Arm(label(key, value), {key: value}) for word in words for key, value in _values(word)]
    for arm in arms:
        _laid(tree, arm).typed()
    config = _laid(tree, arms[0]).typed()
    if not any(word.startswith(f"{LAMBDA}=") for word in words) or any(METHOD in arm.values for arm in arms):
        return arms, []
    true_kto = Arm("KTO, unpaired labels", _unpaired(config))
    try:
        _laid(tree, true_kto).typed()
    except ConfigError as error:
        return arms, [f"no arm of unpaired KTO: {str(error).splitlines()[0]}"]
    return [*arms, true_kto], []


def _laid(tree: Tree, arm: Arm) -> Tree:
    return tree.with_values(arm.values, f"--ablate {arm.label}")


def _values(word: str) -> list[tuple[str, Any]]:
    """`key=v1,v2` as (key, value) pairs; values are read as YAML."""
    key, equals, text = word.partition("=")
    origin = f"--ablate {word}"
    listed = read_text(f"[{text}]", lambda line: origin).values if equals and text.strip() else []
    if not key.strip() or not isinstance(listed, list) or not listed:
        expected = "expected key.path=value,value,…, as in training.kto_lambda=0,0.01,0.1,0.5"
        raise ConfigError([Problem((), origin, expected)])
    return [(key.strip(), value) for value in listed]


def label(key: str, value: Any) -> str:
    """What an arm is called: λ = 0 is plain DPO, another λ the penalised sum."""
    if key == LAMBDA:
        return "DPO (λ = 0)" if value == 0 else f"DPO + λ·KL, λ = {number(value)}"
    if (key, value) == (METHOD, UNPAIRED_METHOD):
        return "KTO, unpaired labels"
    return f"{short_name(key)} = {number(value)}"


def _unpaired(config: Config) -> Values:
    """KTO on as many answers a step as the pairs of `config` have; it takes no accumulation."""
    training = config.training
    answers = 2 * training.batch_size * training.gradient_accumulation_steps
    return {METHOD: UNPAIRED_METHOD, BATCH: answers, ACCUMULATION: 1}
