"""What a version is: a pyfunc model without pickle, packed from a candidate here, and opened here to answer.

`mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")` calls `_load_pyfunc` on the version's data folder, which
holds adapter/ (with the base model's address and identity), tokenizer/, config.json, README.md (the model card) and
scores.json. Knows no registry: neither other versions, nor who won, nor how to reach MLflow.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from phasegpt.base_model import resolve_base
from phasegpt.config_io import project_root
from phasegpt.files import file_sha256, read_json, write_json, write_text
from phasegpt.statistics import Gain
from tune.gate import LONGEST_TAG, Candidate, Evidence, interval_text
from tune.model_card import model_card

DATA = "phasegpt"
GAINS = ("interval_vs_reference", "interval_vs_own")
EXAMPLE = "What does a river teach about time?"
MOST = "max_new_tokens"


def pack(candidate: Candidate, folder: Path, model: Any) -> Path:
    """The pyfunc model of a candidate, made in `folder`, with its signature and an example; returns its folder.

    `model` is the LoggedModel of MLflow that it will be the content of.
    """
    from mlflow.models import Model

    from phasegpt.adapters import write_base_record

    data = folder / DATA
    shutil.copytree(candidate.adapter, data / "adapter")
    write_base_record(data / "adapter", candidate.base_model, candidate.base_identity)
    save_tokenizer(resolve_base(candidate.base_model, project_root()), data / "tokenizer")
    write_json(data / "config.json", candidate.config)
    write_text(data / "README.md", model_card(candidate))
    write_json(data / "scores.json", evidence_json(candidate))
    _pyfunc().save_model(
        folder / "model",
        loader_module="tune.served",
        data_path=str(data),
        mlflow_model=Model(model.artifact_location, run_id=candidate.run_id, model_id=model.model_id),
        signature=_signature(candidate),
        input_example=([EXAMPLE], {MOST: candidate.config["evaluation"][MOST]}),
        pip_requirements=_requirements(),
    )
    return folder / "model"


def save_tokenizer(base: Path, to: Path) -> None:
    """The tokenizer of a base model with its chat template, as `save_pretrained` writes it."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(base, trust_remote_code=False).save_pretrained(to)


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

    most = ParamSpec(MOST, DataType.long, int(candidate.config["evaluation"][MOST]))
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


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """Evidence as `scores.json` keeps it; of a candidate without what the config and the tags say."""
    plain = {f.name: getattr(evidence, f.name) for f in fields(Evidence)}
    return {**plain, **{name: gain and gain.as_dict() for name in GAINS for gain in (plain[name],)}}


def evidence_fields(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `evidence_json`, as arguments of Evidence; another version may lack some, or have more."""
    known = {field.name: stored[field.name] for field in fields(Evidence) if field.name in stored}
    gains = {name: Gain.from_dict(stored[name]) if stored.get(name) else None for name in GAINS}
    return {**known, **gains}


def lineage(candidate: Candidate) -> dict[str, str]:
    """Where a version comes from, and its numbers, as tags."""
    tags = {
        "track": candidate.track,
        "search": candidate.search,
        "trial": candidate.trial,
        "method": candidate.config["training"]["method"],
        "commit": candidate.commit,
        "git_dirty": json.dumps(candidate.dirty),
        "data_hash": candidate.data_hash,
        "config_hash": candidate.config_hash,
        "base_model": candidate.base_model,
        "base_identity": candidate.base_identity,
        "objective": candidate.objective,
        "scorer": candidate.scorer,
        "constraints_met": json.dumps(candidate.constraints_met),
        "constraints": "; ".join(candidate.constraints)[:LONGEST_TAG],
        "adapter_sha256": weights_hash(candidate),
        **{f"metrics.{name}": f"{value:.6g}" for name, value in candidate.metrics.items()},
    }
    if candidate.interval_vs_reference:
        tags["gain_over_untuned"] = interval_text(candidate.interval_vs_reference)
    return {key: value for key, value in tags.items() if value}


def weights_hash(candidate: Candidate) -> str:
    """The sha256 of a candidate's weights, by which a version of the same adapter is known again."""
    return file_sha256(candidate.adapter / "adapter_model.safetensors")


class _Answerer:
    """What `mlflow.pyfunc.load_model` gives: prompts in, greedy answers out."""

    def __init__(self, policy: Any, max_new_tokens: int) -> None:
        self.policy, self.max_new_tokens = policy, max_new_tokens

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """An answer a prompt; `model_input`: a DataFrame with the column "prompt" (or just one), or a list of texts."""
        from mlflow.exceptions import MlflowException

        from phasegpt.evaluate import generate

        most = int((params or {}).get(MOST, self.max_new_tokens))
        if most < 1:
            raise MlflowException.invalid_parameter_value(f"{MOST}: expected 1 or more, found {most}")
        return generate(self.policy, _prompts(model_input), most)


def _prompts(model_input: Any) -> list[str]:
    if not hasattr(model_input, "columns"):
        return list(model_input)
    name = "prompt" if "prompt" in model_input.columns else model_input.columns[0]
    return list(model_input[name])


def _load_pyfunc(path: str) -> _Answerer:
    """MLflow's entry: the model of a version from its data folder."""
    import torch

    from phasegpt.checkpoints import open_adapter

    data = Path(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    most = read_json(data / "config.json")["evaluation"][MOST]
    return _Answerer(open_adapter(data / "adapter", device), most)
