"""What every metric says of itself: direction, range, unit, what has a value, and what has to run for it.

The config accepts these names and no others, save metrics of the user's own (`package.module:function`), which say
the same of themselves (`metrics/own.py`). Imports nothing that measures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]
Unit = Literal["prompt", "pair", "corpus", "run"]
Cost = Literal["answers", "answers + judge", "answers + reference", "pairs", "prose", "clock"]

COSTS: Mapping[Cost, str] = {
    "answers": "greedy answers to the evaluation prompts, made once for all metrics of this class; counting is cheap",
    "answers + judge": "the same answers, then 18 of the bundled model's 30 layers over them, whatever model is tuned",
    "answers + reference": "the same answers, then one forward pass of the policy and one of the reference over them",
    "pairs": "one forward pass over the validation pairs for all metrics of this class; the reference's lies ready",
    "prose": "one forward pass over the neutral prose",
    "clock": "nothing more than the training of a run; for `inference_latency` one answer alone",
}
"""What has to run for each class of cost."""


@dataclass(frozen=True)
class Metric:
    """One metric: which way is `better`, its range from `low` to `high`, its `unit`, and what each value belongs to.

    Metrics of a prompt or pair keep a row for each, and their summary is the mean; a corpus or a run has one number.
    """

    name: str
    better: Direction
    low: float
    high: float
    unit: str
    of: Unit
    cost: Cost
    meaning: str

    @property
    def range(self) -> str:
        """The range as people read it."""
        if math.isinf(self.low):
            return "any"
        return f"{self.low:g} and up" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


DECLARED: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("spiral_score", "max", 0, 1, "-", "prompt", "answers + judge", "the answer moves dialectically"),
        Metric("spiral_lexical", "max", 0, 1, "-", "prompt", "answers", "the same, by its words alone"),
        Metric("subtlety", "max", 0, 1, "-", "prompt", "answers + judge", "it does so without saying so"),
        Metric(
            "spiral_density", "max", 0, math.inf, "moves per 100 words", "prompt", "answers", "how closely moves follow"
        ),
        Metric("repetition", "min", 0, 1, "share of words", "prompt", "answers", "the answer repeats itself"),
        Metric("distinct_2", "max", 0, 1, "share of word pairs", "prompt", "answers", "pairs of words are not reused"),
        Metric("ended", "max", 0, 1, "share of answers", "prompt", "answers", "the answer came to its own end"),
        Metric(
            "kl_on_samples", "min", 0, math.inf, "nats a token", "prompt", "answers + reference",
            "distance from the reference on what the policy writes",
        ),
        Metric("perplexity", "min", 1, math.inf, "-", "corpus", "prose", "surprise at neutral prose"),
        Metric("eval_loss", "min", 0, math.inf, "nats", "pair", "pairs", "the DPO loss without λ and smoothing"),
        Metric("reward_margin", "max", -math.inf, math.inf, "nats times β", "pair", "pairs", "chosen over rejected"),
        Metric("reward_accuracy", "max", 0, 1, "share of pairs", "pair", "pairs", "chosen is above rejected"),
        Metric(
            "kl_divergence", "min", 0, math.inf, "nats a token", "pair", "pairs",
            "distance from the reference on the pairs' answers",
        ),
        Metric("training_throughput", "max", 0, math.inf, "tokens a second", "run", "clock", "speed of training"),
        Metric("memory_usage", "min", 0, math.inf, "GB", "run", "clock", "most memory in use"),
        Metric("inference_latency", "min", 0, math.inf, "seconds a token", "run", "clock", "wait for an answer"),
    )
}  # fmt: skip
"""Every metric of the project by its name."""

GUARDS = ("repetition", "distinct_2", "ended")
"""Metrics that come with every set of answers, asked for or not: they tell broken text, which perplexity cannot."""


def unit_of(name: str) -> Unit:
    """What a metric's values belong to; those of the user's own score answers to prompts."""
    return DECLARED[name].of if name in DECLARED else "prompt"


def is_own(name: str) -> bool:
    """Whether `name` has the form of a metric of the user's own, `package.module:function`. Imports nothing."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))
