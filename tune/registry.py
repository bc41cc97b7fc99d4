"""The champion of each track: promotion through the gate, rollback, and the commands that show what is there.

Alias `champion` is the best version so far, `previous` the one before. Each candidate becomes a version, with the
decision and its numbers in its tags; only the gate or `--force` moves the alias. Knows neither how the gate decides nor
what a version holds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from filelock import FileLock

from phasegpt.config_io import TRACKS, project_root
from tune.delivery import open_client, tracking_uri, without_credentials
from tune.gate import (
    CHAMPION,
    PREVIOUS,
    Candidate,
    Champion,
    Decision,
    Evidence,
    RegistryError,
    decide,
    model_name,
)
from tune.versions import aliases_of, find_version, read_version, register, versions_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def promote(client: "MlflowClient", candidate: Candidate, root: Path) -> Decision:
    """Register a candidate as a version and put it before the gate; the alias moves only if the gate says so.

    `root` holds the lock that keeps two promotions on this machine apart; one elsewhere is met by reading again.
    A candidate that is registered already (same run, same adapter) gets no second version.
    """
    return _settle(client, candidate.track, register(client, candidate), candidate, root)


def champion(client: "MlflowClient", track: str) -> Champion | None:
    """The champion of a track with its evidence, or None where the seat is empty."""
    version = aliases_of(client, track).get(CHAMPION)
    return None if version is None else read_version(client, track, version)


def rollback(client: "MlflowClient", track: str, root: Path) -> Champion:
    """Swap `champion` and `previous`, note it in the tags of both, and return the champion that is back."""
    with _lock(root):
        aliases = aliases_of(client, track)
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
            if aliases_of(client, track).get(CHAMPION, "") == against:
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
    wins = interval.pop("wins", None) or {}
    return {
        "promoted": json.dumps(decision.promote),
        "reason": decision.reason,
        "uncontested": json.dumps(decision.uncontested),
        "forced": json.dumps(decision.forced),
        "decided_against": against,
        "decided_at": _now(),
        **{f"interval.{key}": f"{value:.6g}" for key, value in interval.items() if value is not None},
        **{f"wins.{key}": f"{value:.6g}" for key, value in wins.items()},
    }


def _lock(root: Path) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / "mlflow.db.registry.lock")


def _tag(client: "MlflowClient", track: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(model_name(track), version, key, value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _list(client: "MlflowClient", given: argparse.Namespace) -> str:
    rows: list[tuple[str, ...]] = [("model", "version", "alias", "objective", "search", "decided", "decision")]
    for track in (given.track,) if given.track else TRACKS:
        seats = aliases_of(client, track)
        for version in versions_of(client, track):
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
    version = given.version or aliases_of(client, given.track).get(CHAMPION)
    if version is None:
        return f"{model_name(given.track)} has no champion; run: python -m tune.search --track {given.track}"
    found = find_version(client, given.track, version)
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
