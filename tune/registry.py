"""The champion of each track: promotion through the gate, rollback, and the command line.

Each candidate becomes a version, with the decision and its numbers in its tags and in those of the one it met; only
the gate or `--force` gives it the seat. Alias `champion` is who sits in it, `previous` who sat there before. Knows
neither how the gate decides, nor what a version holds, nor how two at once are kept apart (`seat.py`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from phasegpt.config_io import TRACKS, project_root
from phasegpt.credentials import without_credentials
from phasegpt.interrupts import run
from phasegpt.mlflow_client import open_client, tracking_uri
from tune.decision_notes import notes_of, now, who
from tune.gate import Candidate, Champion, Decision, Evidence, RegistryError, decide, model_name
from tune.registry_text import list_text, listed, show_text, shown
from tune.seat import Seat, claim, out_of_step, publish, read_seat, write_notes
from tune.versions import exists, read_version, register

if TYPE_CHECKING:
    from mlflow import MlflowClient


def promote(client: "MlflowClient", candidate: Candidate) -> Decision:
    """Register a candidate as a version and put it before the gate; it takes the seat only if the gate says so.

    A candidate that is registered already (same run, same adapter) gets no second version.
    """
    return _settle(client, candidate.track, register(client, candidate), candidate)


def promote_version(client: "MlflowClient", track: str, version: str, *, force: bool = False) -> Decision:
    """Put a registered version before the gate again; `force` seats it whatever the gate says, and that is recorded."""
    return _settle(client, track, version, read_version(client, track, version), force=force)


def champion(client: "MlflowClient", track: str) -> Champion | None:
    """The champion of a track with its evidence, or None where the seat is empty."""
    return _sitting(client, track, read_seat(client, track))


def rollback(client: "MlflowClient", track: str) -> Champion:
    """Swap `champion` and `previous`, note it in the tags of both, and return the champion that is back."""
    repair(client, track)
    seat, at = read_seat(client, track), now()
    if not exists(client, track, seat.previous):
        raise RegistryError(f"{model_name(track)} has no previous champion to go back to")
    notes = {seat.previous: {"rolled_back_to": at}, seat.champion: {"rolled_back_from": at, "rolled_back_by": who()}}
    if not claim(client, track, seat, seat.previous, notes):
        raise RegistryError(
            f"the seat of {model_name(track)} was taken meanwhile; look with list, then roll back again"
        )
    publish(client, track)
    return read_version(client, track, seat.previous)


def repair(client: "MlflowClient", track: str) -> Seat | None:
    """Put the aliases right where they do not say what the seat's record says; the seat then, None where they do."""
    seat = out_of_step(client, track)
    if seat is not None:
        publish(client, track)
    return seat


def _settle(client: "MlflowClient", track: str, version: str, evidence: Evidence, *, force: bool = False) -> Decision:
    """Decide and write it on both sides. Decides anew as long as the seat changes hands before that is done."""
    repair(client, track)
    overtaken: list[str] = []
    while True:
        seat = read_seat(client, track)
        if seat.champion == version:
            return Decision(True, "it is the champion already", version=version)
        seated = _sitting(client, track, seat)
        decision = replace(_decide(evidence, seated, force=force), version=version)
        notes = notes_of(decision, seated.version if seated else "", overtaken)
        if decision.promote and claim(client, track, seat, version, notes):
            publish(client, track)
            return decision
        after = read_seat(client, track)
        if not decision.promote and after == seat:
            write_notes(client, track, notes)
            return decision
        overtaken.append(after.champion)


def _decide(evidence: Evidence, seated: Champion | None, *, force: bool) -> Decision:
    decision = decide(evidence, seated)
    if force and not decision.promote:
        return replace(decision, promote=True, forced=True, reason=f"forced; the gate said: {decision.reason}")
    return decision


def _sitting(client: "MlflowClient", track: str, seat: Seat) -> Champion | None:
    """Who sits in a seat; nobody where its version has been deleted."""
    return read_version(client, track, seat.champion) if exists(client, track, seat.champion) else None


def _list(client: "MlflowClient", given: argparse.Namespace) -> str:
    found = listed(client, (given.track,) if given.track else tuple(TRACKS))
    return json.dumps(found, indent=1) if given.json else list_text(found)


def _show(client: "MlflowClient", given: argparse.Namespace) -> str:
    found = shown(client, given.track, given.version or _champion_of(client, given.track))
    return json.dumps(found, indent=1) if given.json else show_text(found)


def _champion_of(client: "MlflowClient", track: str) -> str:
    seat = read_seat(client, track)
    if not exists(client, track, seat.champion):
        raise RegistryError(f"{model_name(track)} has no champion; run: python -m tune.search --track {track}")
    return seat.champion


def _promote(client: "MlflowClient", given: argparse.Namespace) -> str:
    decision = promote_version(client, given.track, given.version, force=given.force)
    if not decision.promote:
        raise RegistryError(
            f"version {given.version} was not promoted: {decision.reason}; --force seats it all the same"
        )
    return f"version {given.version} is the champion of track {given.track}: {decision.reason}"


def _rollback(client: "MlflowClient", given: argparse.Namespace) -> str:
    back = rollback(client, given.track)
    return f"version {back.version} is the champion of track {given.track} again"


def _export(client: "MlflowClient", given: argparse.Namespace) -> str:
    from tune.export import export

    if given.dtype and not given.merge:
        raise RegistryError("--dtype is the precision of merged weights; add --merge")
    version = given.version or _champion_of(client, given.track)
    export(client, given.track, version, given.to, (given.dtype or "float32") if given.merge else None)
    return f"version {version} of track {given.track} is in {given.to}"


EXAMPLES = """examples:
  python -m tune.registry list
  python -m tune.registry show --track b
  python -m tune.registry promote --track b 3 --force
  python -m tune.registry rollback --track b
  python -m tune.registry export --track b --to champion
  python -m tune.registry export --track b 3 --to merged --merge --dtype bfloat16
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.registry",
        description="The champion of each track.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(required=True, metavar="list|show|promote|rollback|export")
    for name, answer, about in (
        ("list", _list, "every version and what the gate said"),
        ("show", _show, "where the champion (or a version) comes from, and its numbers"),
        ("promote", _promote, "put a version before the gate again"),
        ("rollback", _rollback, "swap the champion and the one before"),
        ("export", _export, "write the champion (or a version) to a folder, for PEFT or transformers alone"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(answer=answer)
        command.add_argument("--track", choices=TRACKS, required=name != "list")
        command.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else mlflow.db of the project")
        _add_options(command, name)
    return p


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    """What only some of the commands take."""
    if name in ("list", "show"):
        command.add_argument("--json", action="store_true", help="print JSON")
    if name in ("show", "export"):
        command.add_argument("version", nargs="?", help="default: the champion")
    if name == "promote":
        command.add_argument("version")
        command.add_argument("--force", action="store_true", help="seat it whatever the gate says; this is recorded")
    if name == "export":
        command.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that is new or empty")
        command.add_argument("--merge", action="store_true", help="the whole model, the adapter added into its weights")
        command.add_argument(
            "--dtype", choices=("float32", "bfloat16", "float16"), help="of merged weights (default: float32)"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tune.registry`: exit 0, or 2 with one message where there is no such thing or the gate says no."""
    given = parser().parse_args(arguments)
    from mlflow.exceptions import MlflowException

    answer = cast("Callable[[MlflowClient, argparse.Namespace], str]", given.answer)
    try:
        client = open_client(tracking_uri(project_root(), given.tracking_uri))
        sys.stdout.write(f"{answer(client, given)}\n")
    except (ValueError, MlflowException, OSError) as error:  # RegistryError, ModelError, a damaged version
        sys.stderr.write(f"{without_credentials(str(error))}\n")
        return 2
    return 0


if __name__ == "__main__":
    run(main)
