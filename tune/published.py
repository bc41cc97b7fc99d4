"""The searches that docs/results.md reports, the most telling first, and what of them is there.

A search stands in docs/results/NAME.json once it has ended and been taken over; until then it lies where every search
lies. Knows nothing of how one is run.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phasegpt.config_io import project_root
from phasegpt.files import read_json
from tune.request import Request, SearchPlaces

State = Literal["published", "ended", "begun", "new"]
CONFIGS = Path("configs/results")
SHIPPED_PAIRS = "data/preferences_v14_100pairs.jsonl"
TEN_PAIRS = "data/preferences_v13_10pairs.jsonl"
FACTORS = (
    f"--ablate training.preference_dataset={SHIPPED_PAIRS},{TEN_PAIRS} "
    "--ablate training.curriculum_learning.enabled=true --ablate model.use_phase_attention=true "
    "--set training.beta=0.5 --set training.learning_rate=2e-4 --seeds 3"
)
LAMBDAS = "--ablate training.kto_lambda=0,0.01,0.1,0.5 --seeds 3"
GENTLE = f"--set training.preference_dataset={SHIPPED_PAIRS}"


@dataclass(frozen=True)
class Published:
    """A search of docs/results.md: what it asks, and the options of `tune.search` that run it."""

    name: str
    track: str
    asks: str
    config: str
    options: str = ""

    @property
    def words(self) -> list[str]:
        """Its options, but for its name."""
        return shlex.split(f"--track {self.track} --config {CONFIGS / self.config} --profile none {self.options}")

    @property
    def places(self) -> SearchPlaces:
        """Where it lies while it runs."""
        return SearchPlaces(project_root(), self.track, self.name)

    @property
    def summary(self) -> Path:
        """Where it is published."""
        return project_root() / "docs" / "results" / f"{self.name}.json"

    @property
    def state(self) -> State:
        """How far it is."""
        if self.summary.is_file():
            return "published"
        if self.places.summary.is_file():
            return "ended"
        return "begun" if self.places.request.is_file() else "new"

    def request(self, name: str) -> Request:
        """What it asks, checked, as a search of another name. Raises RequestError."""
        from tune.search import parser, requests_of

        [request] = requests_of(parser().parse_args([*self.words, "--name", name]))
        return request

    def found(self) -> dict[str, Any]:
        """What it came to, of a published one."""
        summary: dict[str, Any] = read_json(self.summary)
        return summary


SEARCHES: Sequence[Published] = (
    Published("smollm2-a", "a", "what DPO on the shipped pairs gains", "smollm2_a.yaml"),
    Published("smollm2-lambdas", "b", "what λ buys, at equal steps and at equal KL", "smollm2_b.yaml", LAMBDAS),
    Published("smollm2-own", "a", "pairs of the model's own answers", "smollm2_own.yaml"),
    Published("smollm2-factors", "a", "100 pairs or 10, curriculum, phase branch", "smollm2_a.yaml", FACTORS),
    Published("smollm2-front", "b", "score against perplexity on its own pairs, short", "smollm2_front.yaml"),
    Published("smollm2-b", "b", "score against perplexity over λ, β and lr", "smollm2_b.yaml"),
    Published("smollm2-imitation", "a", "its own best answers, imitated", "smollm2_imitation.yaml"),
    Published("smollm2-gentle", "a", "small steps and λ on the shipped pairs", "smollm2_own.yaml", GENTLE),
    Published("smollm2-c", "c", "the chosen answers first, then DPO on top", "smollm2_c.yaml"),
)


def named(name: str) -> Published:
    """A search by its name. Raises ValueError, which lists the names there are."""
    for search in SEARCHES:
        if search.name == name:
            return search
    raise ValueError(f"{name}: no such search; there are: {', '.join(search.name for search in SEARCHES)}")
