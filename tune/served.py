"""What a version is: a pyfunc model without pickle, packed from a candidate here, and opened here to answer.

`mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")` calls `_load_pyfunc` on the version's data folder, which
holds adapter/, config.json, README.md (the model card) and scores.json. Knows no registry: neither other versions, nor
who won, nor how to reach MLflow.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phasegpt.config_io import project_root
from phasegpt.files import file_sha256, read_json, write_json, write_text
from tune.gate import CHAMPION, Candidate, Evidence, interval_text, model_name

DATA = "phasegpt"
EXAMPLE = "What does a river teach about time?"


def pack(candidate: Candidate, folder: Path, model: Any) -> Path:
    """The pyfunc model of a candidate, made in `folder`, with its signature and an example; returns its folder.

    `model` is the LoggedModel of MLflow that it will be the content of.
    """
    from mlflow.models import Model

    data = folder / DATA
    shutil.copytree(candidate.adapter, data / "adapter")
    write_json(data / "config.json", candidate.config)
    write_text(data / "README.md", model_card(candidate))
    write_json(data / "scores.json", _evidence_json(candidate))
    _pyfunc().save_model(
        folder / "model",
        loader_module="tune.served",
        data_path=str(data),
        mlflow_model=Model(model.artifact_location, run_id=candidate.run_id, model_id=model.model_id),
        signature=_signature(candidate),
        input_example=[EXAMPLE],
        pip_requirements=_requirements(),
    )
    return folder / "model"


def _pyfunc() -> Any:
    """mlflow.pyfunc, without the coloured warning about its own type hints that its first import prints."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
        import mlflow.pyfunc
    return mlflow.pyfunc


def _signature(candidate: Candidate) -> Any:
    """One column of texts, left without a name: with one, MLflow would refuse a plain list of prompts."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    most = ParamSpec("max_new_tokens", DataType.long, int(candidate.config["evaluation"]["max_new_tokens"]))
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([most]),
    )


def _requirements() -> list[str]:
    """This package and what it answers with, pinned; `models serve --env-manager local` installs nothing."""
    from importlib.metadata import version

    names = ("phasegpt-tune", "torch", "transformers", "peft", "mlflow")
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _evidence_json(evidence: Evidence) -> dict[str, Any]:
    interval = evidence.interval_vs_reference
    return {
        "base_model": evidence.base_model,
        "objective": evidence.objective,
        "scores": {m: {p: list(values) for p, values in by.items()} for m, by in evidence.scores.items()},
        "metrics": dict(evidence.metrics),
        "constraints_met": evidence.constraints_met,
        "constraints": list(evidence.constraints),
        "interval_vs_reference": interval.as_dict() if interval else None,
        "scorer": evidence.scorer,
        "answers": {prompt: list(texts) for prompt, texts in evidence.answers.items()},
        "better": evidence.better,
        "finalists": evidence.finalists,
    }


def lineage(candidate: Candidate) -> dict[str, str]:
    """Where a version comes from, and its numbers, as tags."""
    tags = {
        "track": candidate.track,
        "search": candidate.search,
        "trial": candidate.trial,
        "commit": candidate.commit,
        "data_hash": candidate.data_hash,
        "base_model": candidate.base_model,
        "objective": candidate.objective,
        "scorer": candidate.scorer,
        "constraints_met": json.dumps(candidate.constraints_met),
        "constraints": "; ".join(candidate.constraints),
        "adapter_sha256": adapter_hash(candidate),
        **{f"metrics.{name}": f"{value:.6g}" for name, value in candidate.metrics.items()},
    }
    if candidate.interval_vs_reference:
        tags["gain_over_untuned"] = interval_text(candidate.interval_vs_reference)
    return {key: value for key, value in tags.items() if value}


def adapter_hash(candidate: Candidate) -> str:
    """The sha256 of a candidate's weights, by which a version of the same adapter is known again."""
    return file_sha256(candidate.adapter / "adapter_model.safetensors")


def model_card(candidate: Candidate) -> str:
    """The README.md of a version, with the front matter of the Hugging Face hub."""
    name, gain = model_name(candidate.track), candidate.interval_vs_reference
    numbers = "\n".join(f"| {metric} | {value:.4g} |" for metric, value in sorted(candidate.metrics.items()))
    return f"""---
base_model: {json.dumps(candidate.base_model)}
library_name: peft
pipeline_tag: text-generation
tags: [lora, preference-tuning, phasegpt]
---

# {name}: LoRA adapter for {candidate.base_model}

Track {candidate.track}, search {candidate.search}, trial {candidate.trial or "-"}.
Tuned with method `{candidate.config["training"]["method"]}` on preference pairs with the hash
{candidate.data_hash or "-"}, by the code of commit {candidate.commit or "-"}.

| metric | value |
|---|---|
{numbers}

Gain in {candidate.objective} over the untuned model, on the final half of the evaluation prompts:
{interval_text(gain) if gain else "not measured"}.
Constraints: {"; ".join(candidate.constraints) or "none"}.

## How to load

- With this project installed: `mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}").predict(["a prompt"])`
- With PEFT alone: `peft.PeftModel.from_pretrained(base, "adapter")`, where `base` is {candidate.base_model}
"""


class _Answerer:
    """What `mlflow.pyfunc.load_model` gives: prompts in, greedy answers out."""

    def __init__(self, policy: Any, max_new_tokens: int) -> None:
        self.policy, self.max_new_tokens = policy, max_new_tokens

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """An answer a prompt; `model_input`: a DataFrame with the column "prompt" (or just one), or a list of texts."""
        from phasegpt.evaluate import generate

        most = int((params or {}).get("max_new_tokens", self.max_new_tokens))
        return generate(self.policy, _prompts(model_input), most)


def _prompts(model_input: Any) -> list[str]:
    if not hasattr(model_input, "columns"):
        return list(model_input)
    name = "prompt" if "prompt" in model_input.columns else model_input.columns[0]
    return list(model_input[name])


def _load_pyfunc(path: str) -> _Answerer:
    """MLflow's entry: the model of a version from its data folder."""
    import torch

    from phasegpt.models import load_base, load_policy

    config, data = read_json(Path(path) / "config.json"), Path(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(config["model"]["base_model"], project_root(), device=device)
    policy = load_policy(base, data / "adapter")
    return _Answerer(policy, config["evaluation"]["max_new_tokens"])
