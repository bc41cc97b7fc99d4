"""Models to compare: scores that differ in a known way, and the evidence and candidates made of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from phasegpt.base_model import model_fingerprint
from phasegpt.statistics import Gain, Wins
from tune.gate import Candidate, Evidence

UNTUNED = Gain(mean=0.1, low=-0.05, high=0.25, p_positive=0.9, n=6, ratio=1.25, wins=Wins(0.7, 0.4, 0.9, 6))
LOW = {f"p{n}": 0.40 + n / 100 for n in range(6)}
HIGH = {f"p{n}": 0.60 + n / 90 for n in range(6)}
MIXED = {f"p{n}": value + (0.3 if n % 2 else -0.3) for n, value in enumerate(LOW.values())}


def evidence(values: Mapping[str, float], metric: str = "spiral_score", **changes: Any) -> Evidence:
    """Evidence with one seed a prompt; constraints met."""
    plain = Evidence(
        base_model="toy",
        objective=metric,
        scores={metric: {prompt: [value] for prompt, value in values.items()}},
        metrics={metric: sum(values.values()) / len(values)},
        constraints_met=True,
        constraints=("kl_divergence <= 2.0: 0.4",),
        interval_vs_reference=UNTUNED,
        scorer="v1",
    )
    return replace(plain, **changes)


def candidate(run_id: str, base_model: str, adapter: Path, values: Mapping[str, float], track: str) -> Candidate:
    """The winner of a search whose MLflow run is `run_id`, on a base model in the folder `base_model`."""
    config = {
        "model": {"base_model": base_model, "use_phase_attention": False, "lora_config": {"r": 2, "lora_alpha": 4}},
        "training": {"method": "kto", "preference_dataset": "data/preferences_v14_100pairs.jsonl", "beta": 0.1},
        "data": {"domains": ["philosophy", "science"]},
        "evaluation": {"max_new_tokens": 24, "held_out_domains": ["artistic"]},
        "experiment": {"seed": 42, "device": "cpu"},
    }
    return Candidate(
        **vars(
            evidence(
                values,
                base_model=base_model,
                base_identity=model_fingerprint(Path(base_model)),
                data_hash="d4ta",
                answer_tokens=24,
            )
        ),
        track=track,
        search="first",
        run_id=run_id,
        adapter=adapter,
        config=config,
        trial="trial-003",
        commit="c0ffee",
    )
