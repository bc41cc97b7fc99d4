"""The champion of each track in the MLflow model registry: the gate, promotion, rollback, and what a version holds.

Registered models `phasegpt-track-a|b|c`; alias `champion` is the best so far, `previous` the one before. Each candidate
becomes a version, with the decision and its numbers in its tags; only the gate (`decide`) or `--force` moves the alias.
A version is a pyfunc model without pickle: `mlflow.pyfunc.load_model("models:/phasegpt-track-b@champion")` calls
`_load_pyfunc` below on its data folder, which holds adapter/, config.json, README.md and scores.json.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from phasegpt.config import METRICS
from phasegpt.config_io import project_root
from phasegpt.files import file_sha256, read_json, whole_folder, write_json, write_text
from phasegpt.statistics import Interval, paired_interval
from tune.tracking import open_client, tracking_uri, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TRACKS = ("a", "b", "c")
CHAMPION, PREVIOUS = "champion", "previous"
DATA = "phasegpt"
EXAMPLE = "What does a river teach about time?"

Scores = Mapping[str, Mapping[str, Sequence[float]]]


class RegistryError(ValueError):
    """A version, track or address that is not there; the message names what is."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model has to show for itself. `scores` is {metric: {prompt id: [one value a seed]}} on the final half.

    `objective` is the metric that decides, `constraints` says how each one stands, `metrics` is the summary,
    `interval_vs_reference` the gain over the untuned model, `scorer` the version of the metric behind the scores:
    scores of different versions are not compared.
    """

    base_model: str
    objective: str
    scores: Scores
    metrics: Mapping[str, float]
    constraints_met: bool
    constraints: Sequence[str]
    interval_vs_reference: Interval | None
    scorer: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate(Evidence):
    """The winner of a search, before the gate. `run_id` is its MLflow run, `adapter` a PEFT folder."""

    track: str
    search: str
    run_id: str
    adapter: Path
    config: Mapping[str, Any]
    trial: str = ""
    data_hash: str = ""
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Champion(Evidence):
    """A registered version with its evidence. `fetch_adapter(champion.address, folder)` brings its adapter."""

    track: str
    version: str
    tags: Mapping[str, str]

    @property
    def address(self) -> str:
        """The address that MLflow loads, by version: it stays this one when the alias moves."""
        return f"models:/{model_name(self.track)}/{self.version}"


@dataclass(frozen=True)
class Decision:
    """What the gate said. `interval` is the gain over the champion, or over the untuned model where uncontested."""

    promote: bool
    reason: str
    interval: Interval | None = None
    uncontested: bool = False
    version: str = ""
    forced: bool = False


def model_name(track: str) -> str:
    """The registered model of a track; raises RegistryError for another letter than a, b or c."""
    if track not in TRACKS:
        raise RegistryError(f"expected a track out of {', '.join(TRACKS)}, found {track!r}")
    return f"phasegpt-track-{track}"


# --- the gate --------------------------------------------------------------------------------------------------------


def decide(candidate: Evidence, champion: Evidence | None) -> Decision:
    """Whether a candidate takes the seat (DESIGN decision 8): constraints first, then the lower bound of its gain.

    A pure function. An empty seat is taken uncontested. The gain is paired by prompt, in the direction in which the
    objective improves.
    """
    if not candidate.constraints_met:
        return Decision(False, f"constraints not met: {'; '.join(candidate.constraints)}")
    if champion is None:
        return Decision(True, "uncontested: the seat was empty", candidate.interval_vs_reference, uncontested=True)
    if hindrance := _not_comparable(candidate, champion):
        return Decision(False, hindrance)
    try:
        gain = _gain(candidate, champion)
    except ValueError as error:
        return Decision(False, f"{candidate.objective} cannot be compared with the champion's: {error}")
    verb = "beats" if gain.low > 0 else "does not surely beat"
    return Decision(gain.low > 0, f"{verb} the champion in {candidate.objective}: {_interval_text(gain)}", gain)


def _not_comparable(candidate: Evidence, champion: Evidence) -> str | None:
    name = candidate.objective
    if candidate.base_model != champion.base_model:
        return f"another base model ({candidate.base_model}) than the champion's ({champion.base_model})"
    if name not in champion.scores:
        return f"the champion has no scores of {name}"
    if candidate.scorer != champion.scorer:
        return (
            f"{name} of another version ({candidate.scorer}) than the champion's ({champion.scorer}); score both alike"
        )
    return None


def _gain(candidate: Evidence, champion: Evidence) -> Interval:
    name = candidate.objective
    sign = -1 if METRICS.get(name) == "min" else 1
    ours, theirs = _by_prompt(candidate.scores.get(name, {}), sign), _by_prompt(champion.scores[name], sign)
    return paired_interval([ours], [theirs])


def _by_prompt(scores: Mapping[str, Sequence[float]], sign: int) -> dict[str, float]:
    return {prompt: sign * fmean(values) for prompt, values in scores.items()}


def _interval_text(interval: Interval) -> str:
    return (
        f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] on {interval.n} prompts, "
        f"P(better) {interval.p_positive:.2f}"
    )


# --- versions --------------------------------------------------------------------------------------------------------


def promote(client: "MlflowClient", candidate: Candidate, root: Path) -> Decision:
    """Register a candidate as a version and put it before the gate; the alias moves only if the gate says so.

    `root` holds the lock that keeps two promotions on this machine apart; one elsewhere is met by reading again.
    A candidate that is registered already (same run, same adapter) gets no second version.
    """
    name = model_name(candidate.track)
    version = _registered(client, name, candidate) or _register(client, name, candidate)
    return _settle(client, candidate.track, version, candidate, root)


def champion(client: "MlflowClient", track: str) -> Champion | None:
    """The champion of a track with its evidence, or None where the seat is empty."""
    version = _aliases(client, track).get(CHAMPION)
    return None if version is None else read_version(client, track, version)


def read_version(client: "MlflowClient", track: str, version: str) -> Champion:
    """A registered version with its evidence; raises RegistryError where there is none."""
    found = _version(client, track, version)
    with tempfile.TemporaryDirectory() as folder:
        stored = read_json(_download(client, track, version, "scores.json", Path(folder)))
    interval = stored.pop("interval_vs_reference")
    return Champion(
        **stored,
        interval_vs_reference=Interval(**interval) if interval else None,
        track=track,
        version=version,
        tags=dict(found.tags),
    )


def fetch_adapter(address: str, to: Path, uri: str | None = None) -> Path:
    """Download the adapter of an address as the folder `to`: models:/phasegpt-track-b@champion, or .../3."""
    client = open_client(tracking_uri(project_root(), uri))
    track, version = _parse_address(client, address)
    with tempfile.TemporaryDirectory() as folder, whole_folder(to) as stage:
        shutil.copytree(_download(client, track, version, "adapter", Path(folder)), stage, dirs_exist_ok=True)
    return to


def rollback(client: "MlflowClient", track: str, root: Path) -> Champion:
    """Swap `champion` and `previous`, note it in the tags of both, and return the champion that is back."""
    with _lock(root):
        aliases = _aliases(client, track)
        if CHAMPION not in aliases or PREVIOUS not in aliases:
            raise RegistryError(f"{model_name(track)} has no previous champion to go back to")
        back, gone, now = aliases[PREVIOUS], aliases[CHAMPION], _now()
        _seat(client, track, back, gone)
        _tag(client, track, back, {"rolled_back_to": now})
        _tag(client, track, gone, {"rolled_back_from": now})
    return read_version(client, track, back)


def promote_version(client: "MlflowClient", track: str, version: str, root: Path, force: bool) -> Decision:
    """Put a registered version before the gate again; `force` seats it whatever the gate says, and that is recorded."""
    return _settle(client, track, version, read_version(client, track, version), root, force=force)


def _settle(
    client: "MlflowClient", track: str, version: str, evidence: Evidence, root: Path, *, force: bool = False
) -> Decision:
    """Decide, write it on the version, move the aliases. Decides anew where the champion changed meanwhile."""
    with _lock(root):
        while True:
            seated = champion(client, track)
            if seated is not None and seated.version == version:
                return Decision(True, "it is the champion already", version=version)
            decision = replace(decide(evidence, seated), version=version)
            if force and not decision.promote:
                decision = replace(
                    decision, promote=True, forced=True, reason=f"forced; the gate said: {decision.reason}"
                )
            against = seated.version if seated else ""
            if _aliases(client, track).get(CHAMPION, "") == against:
                break
        _tag(client, track, version, _decision_tags(decision, against))
        if decision.promote:
            _seat(client, track, version, against)
    return decision


def _seat(client: "MlflowClient", track: str, version: str, before: str) -> None:
    if before:
        client.set_registered_model_alias(model_name(track), PREVIOUS, before)
    client.set_registered_model_alias(model_name(track), CHAMPION, version)


def _decision_tags(decision: Decision, against: str) -> dict[str, str]:
    interval = decision.interval.as_dict() if decision.interval else {}
    return {
        "promoted": json.dumps(decision.promote),
        "reason": decision.reason,
        "uncontested": json.dumps(decision.uncontested),
        "forced": json.dumps(decision.forced),
        "decided_against": against,
        "decided_at": _now(),
        **{f"interval.{key}": f"{value:.6g}" for key, value in interval.items()},
    }


def _lock(root: Path) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / "mlflow.db.registry.lock")


def _tag(client: "MlflowClient", track: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(model_name(track), version, key, value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _aliases(client: "MlflowClient", track: str) -> dict[str, str]:
    """{alias: version} of a track; empty before its first version."""
    model = _or_none(lambda: client.get_registered_model(model_name(track)))
    return {} if model is None else {alias: str(version) for alias, version in model.aliases.items()}


def _version(client: "MlflowClient", track: str, version: str) -> "ModelVersion":
    found = _or_none(lambda: client.get_model_version(model_name(track), version))
    if found is None:
        have = ", ".join(v.version for v in _versions(client, track)) or "none"
        raise RegistryError(f"{model_name(track)} has no version {version}; it has: {have}")
    return found


def _versions(client: "MlflowClient", track: str) -> list["ModelVersion"]:
    """Every version of a track, newest first."""
    found = client.search_model_versions(f"name = '{model_name(track)}'", max_results=1000)
    return sorted(found, key=lambda version: -int(version.version))


def _or_none(ask: Callable[[], Any]) -> Any:
    """The answer of MLflow, or None where it knows no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _parse_address(client: "MlflowClient", address: str) -> tuple[str, str]:
    """(track, version) of an address; raises RegistryError where it names nothing."""
    name, at, alias = address.removeprefix("models:/").partition("@")
    name, _, version = name.partition("/")
    track = name.removeprefix("phasegpt-track-")
    if not address.startswith("models:/") or model_name(track) != name or bool(at) == bool(version):
        raise RegistryError(
            f"expected models:/phasegpt-track-b@champion or models:/phasegpt-track-b/3, found {address}"
        )
    if at and alias not in _aliases(client, track):
        raise RegistryError(f"{name} has no {alias}; run a search: python -m tune.search --track {track}")
    return track, _aliases(client, track)[alias] if at else version


def _download(client: "MlflowClient", track: str, version: str, part: str, to: Path) -> Path:
    """A file or folder of a version's data folder, copied below `to`."""
    from mlflow.artifacts import download_artifacts

    name = _version(client, track, version).name
    source = client.get_model_version_download_uri(name, version)
    uri = f"{source.rstrip('/')}/data/{DATA}/{part}"
    return Path(download_artifacts(artifact_uri=uri, dst_path=str(to), tracking_uri=client.tracking_uri))


# --- registering -----------------------------------------------------------------------------------------------------


def _registered(client: "MlflowClient", name: str, candidate: Candidate) -> str | None:
    """The version that an earlier, cut promotion of the same adapter of the same run left, if any."""
    digest = _adapter_hash(candidate)
    found = client.search_model_versions(f"name = '{name}' and run_id = '{candidate.run_id}'")
    return next((str(v.version) for v in found if v.tags.get("adapter_sha256") == digest), None)


def _register(client: "MlflowClient", name: str, candidate: Candidate) -> str:
    """Log the model under its run, and make it a version of `name`."""
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(candidate.run_id).info.experiment_id
    model = client.create_logged_model(
        experiment, name=f"track-{candidate.track}", source_run_id=candidate.run_id, model_type="phasegpt-lora"
    )
    with tempfile.TemporaryDirectory() as folder:
        client.log_model_artifacts(model.model_id, str(_pack(candidate, Path(folder), model)))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(candidate.run_id, [LoggedModelOutput(model.model_id, step=0)])
    if _or_none(lambda: client.get_registered_model(name)) is None:
        client.create_registered_model(name, description=f"The best adapter of track {candidate.track}, by evidence.")
    made = client.create_model_version(
        name, model.artifact_location, candidate.run_id, tags=_lineage(candidate), model_id=model.model_id
    )
    return str(made.version)


def _pack(candidate: Candidate, folder: Path, model: Any) -> Path:
    """The pyfunc model of a candidate as a folder, with its signature and an example."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    data = folder / DATA
    shutil.copytree(candidate.adapter, data / "adapter")
    write_json(data / "config.json", candidate.config)
    write_text(data / "README.md", model_card(candidate))
    write_json(data / "scores.json", _evidence_json(candidate))
    save_model(
        folder / "model",
        loader_module="tune.registry",
        data_path=str(data),
        mlflow_model=Model(model.artifact_location, run_id=candidate.run_id, model_id=model.model_id),
        signature=_signature(candidate),
        input_example={"prompt": [EXAMPLE]},
        pip_requirements=_requirements(),
    )
    return folder / "model"


def _signature(candidate: Candidate) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    most = ParamSpec("max_new_tokens", DataType.long, int(candidate.config["evaluation"]["max_new_tokens"]))
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([most]),
    )


def _requirements() -> list[str]:
    """This package and what it answers with, pinned; `models serve --env-manager local` installs nothing."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in ("phasegpt-tune", "torch", "transformers", "peft", "mlflow")]


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
    }


def _lineage(candidate: Candidate) -> dict[str, str]:
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
        "adapter_sha256": _adapter_hash(candidate),
        **{f"metrics.{name}": f"{value:.6g}" for name, value in candidate.metrics.items()},
    }
    if candidate.interval_vs_reference:
        tags["gain_over_untuned"] = _interval_text(candidate.interval_vs_reference)
    return {key: value for key, value in tags.items() if value}


def _adapter_hash(candidate: Candidate) -> str:
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
{_interval_text(gain) if gain else "not measured"}.
Constraints: {"; ".join(candidate.constraints) or "none"}.

## How to load

- With this project installed: `mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}").predict(["a prompt"])`
- With PEFT alone: `peft.PeftModel.from_pretrained(base, "adapter")`, where `base` is {candidate.base_model}
"""


# --- loading ---------------------------------------------------------------------------------------------------------


class _Answerer:
    """What `mlflow.pyfunc.load_model` gives: prompts in, greedy answers out."""

    def __init__(self, policy: Any, max_new_tokens: int) -> None:
        self.policy, self.max_new_tokens = policy, max_new_tokens

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """An answer a prompt. `model_input`: a DataFrame with the column "prompt", or a list of texts."""
        from phasegpt.evaluate import generate

        prompts = list(model_input["prompt"]) if hasattr(model_input, "columns") else list(model_input)
        return generate(self.policy, prompts, int((params or {}).get("max_new_tokens", self.max_new_tokens)))


def _load_pyfunc(path: str) -> _Answerer:
    """MLflow's entry: the model of a version from its data folder."""
    import torch

    from phasegpt.models import load_base, load_policy

    config, data = read_json(Path(path) / "config.json"), Path(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(config["model"]["base_model"], project_root(), device=device)
    policy = load_policy(base, data / "adapter", _phase_settings(config["model"]))
    return _Answerer(policy, config["evaluation"]["max_new_tokens"])


def _phase_settings(model: Mapping[str, Any]) -> Any:
    from phasegpt.models import PhaseSettings

    if not model["use_phase_attention"]:
        return None
    names = ("num_oscillators", "coupling_strength", "natural_freq", "dt", "n_sync_steps")
    return PhaseSettings(layers=tuple(model["phase_layer_idx"]), **{name: model[name] for name in names})


# --- the command line ------------------------------------------------------------------------------------------------


def _list(client: "MlflowClient", given: argparse.Namespace) -> str:
    rows: list[tuple[str, ...]] = [("model", "version", "alias", "objective", "search", "decided", "decision")]
    for track in (given.track,) if given.track else TRACKS:
        seats = _aliases(client, track)
        for version in _versions(client, track):
            alias = ",".join(name for name, seated in seats.items() if seated == str(version.version))
            rows.append(_row(version, alias))
    if len(rows) == 1:
        return "no versions yet; a search registers its winner: python -m tune.search --track b"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(version: "ModelVersion", alias: str) -> tuple[str, ...]:
    tags, objective = version.tags, version.tags.get("objective", "")
    score = f"{objective} {tags.get(f'metrics.{objective}', '?')}"
    return (
        version.name,
        str(version.version),
        alias or "-",
        score,
        tags.get("search", "-"),
        tags.get("decided_at", "-"),
        tags.get("reason", "not decided"),
    )


def _show(client: "MlflowClient", given: argparse.Namespace) -> str:
    version = given.version or _aliases(client, given.track).get(CHAMPION)
    if version is None:
        return f"{model_name(given.track)} has no champion; run: python -m tune.search --track {given.track}"
    found = _version(client, given.track, version)
    facts = {
        "address": f"models:/{found.name}/{found.version}",
        "run": found.run_id,
        **dict(sorted(found.tags.items())),
    }
    width = max(map(len, facts))
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in facts.items() if value)


def _promote(client: "MlflowClient", given: argparse.Namespace) -> str:
    decision = promote_version(client, given.track, given.version, project_root(), given.force)
    if not decision.promote:
        raise RegistryError(
            f"version {given.version} was not promoted: {decision.reason}; --force seats it all the same"
        )
    return f"version {given.version} is the champion of track {given.track}: {decision.reason}"


def _rollback(client: "MlflowClient", given: argparse.Namespace) -> str:
    back = rollback(client, given.track, project_root())
    return f"version {back.version} is the champion of track {given.track} again"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tune.registry", description="The champion of each track.")
    commands = parser.add_subparsers(required=True, metavar="list|show|promote|rollback")
    for name, answer, about in (
        ("list", _list, "every version and what the gate said"),
        ("show", _show, "where the champion (or a version) comes from, and its numbers"),
        ("promote", _promote, "put a version before the gate again"),
        ("rollback", _rollback, "swap the champion and the one before"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(answer=answer)
        command.add_argument("--track", choices=TRACKS, required=name != "list")
        command.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else mlflow.db of the project")
        if name in ("show", "promote"):
            command.add_argument("version", nargs="?" if name == "show" else None)
        if name == "promote":
            command.add_argument(
                "--force", action="store_true", help="seat it whatever the gate says; this is recorded"
            )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tune.registry`: exit 0, or 2 with one message where there is no such thing or the gate says no."""
    given = _parser().parse_args(arguments)
    client = open_client(tracking_uri(project_root(), given.tracking_uri))
    from mlflow.exceptions import MlflowException

    answer = cast("Callable[[MlflowClient, argparse.Namespace], str]", given.answer)
    try:
        sys.stdout.write(f"{answer(client, given)}\n")
    except (RegistryError, MlflowException) as error:
        sys.stderr.write(f"{without_credentials(str(error))}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
