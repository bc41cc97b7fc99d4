"""The record of a track's seat: who took it, in order, so that of two who want it at once one gets it.

An alias of MLflow is simply written over: whoever writes last has it. The number of a version, though, is given out
once. So each seating is a version of a second registered model, `phasegpt-track-b-seat`, which names the entry that it
was decided after. It counts only if that entry is the last one that counts; of two decided after the same entry the
second changes nothing, and its writer decides anew. The record is the truth, on any number of machines and without a
lock; the aliases are written after it, for MLflow's own addresses. Knows not who deserves the seat.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.gate import CHAMPION, PREVIOUS, model_name
from tune.versions import aliases_of, exists, make_model, registered_model, versions_named

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Notes = Mapping[str, Mapping[str, str]]
"""{version: its tags}: what a decision leaves on both sides."""

AFTER, OF, TOKEN, NOTES = "after", "of", "token", "notes"


@dataclass(frozen=True)
class Seat:
    """Who sits in it and who sat there before, as versions ("": nobody), and the number of the entry that says so."""

    champion: str = ""
    previous: str = ""
    number: int = 0


def record_name(track: str) -> str:
    """The registered model whose versions are the entries of a track's record."""
    return f"{model_name(track)}-seat"


def read_seat(client: "MlflowClient", track: str) -> Seat:
    """The seat by the record; by the aliases where that has no entry yet, as in a registry older than the record."""
    newest = _newest(client, track)
    if newest is not None:
        return Seat(newest.tags[CHAMPION], newest.tags[PREVIOUS], int(newest.version))
    aliases = aliases_of(client, track)
    return Seat(aliases.get(CHAMPION, ""), aliases.get(PREVIOUS, ""))


def claim(client: "MlflowClient", track: str, seen: Seat, champion: str, notes: Notes) -> bool:
    """Enter that `champion` takes the seat from who sat there when it was `seen`; False where it has changed since.

    With an entry that counts, `publish` owes `notes` to the versions and the aliases to MLflow.
    """
    name, token = record_name(track), uuid.uuid4().hex
    make_model(client, name, f"Who sat in the seat of {model_name(track)}, in order: a record, not a model to load.")
    tags = {
        CHAMPION: champion,
        PREVIOUS: seen.champion,
        AFTER: str(seen.number),
        OF: _made(client, track),
        TOKEN: token,  # not the number that comes back: a request that was sent twice has two
        NOTES: json.dumps(notes),
    }
    client.create_model_version(name, f"models:/{model_name(track)}/{champion}", tags=tags, await_creation_for=0)
    return any(entry.tags[TOKEN] == token for entry in _entries(client, track))


def publish(client: "MlflowClient", track: str) -> None:
    """Write what the record says: the notes on both versions, then the aliases. It may be repeated, and by two at once.

    Whoever has written aliases looks at the record again, so that the last word is never an old one.
    """
    written = None
    while (newest := _newest(client, track)) is not None and newest.version != written:
        written = newest.version
        _publish(client, track, newest)


def _publish(client: "MlflowClient", track: str, entry: "ModelVersion") -> None:
    write_notes(client, track, json.loads(entry.tags[NOTES]))
    for alias in (PREVIOUS, CHAMPION):  # the champion last: where it is right, all has been written
        if exists(client, track, entry.tags[alias]):
            client.set_registered_model_alias(model_name(track), alias, entry.tags[alias])


def out_of_step(client: "MlflowClient", track: str) -> Seat | None:
    """The seat by the record where the alias names another champion: moved by hand, or left by who died midway."""
    seat = read_seat(client, track)
    named = aliases_of(client, track).get(CHAMPION, "")
    return seat if seat.champion != named and exists(client, track, seat.champion) else None


def write_notes(client: "MlflowClient", track: str, notes: Notes) -> None:
    """Write tags on versions, as far as these are still there."""
    for version, tags in notes.items():
        if exists(client, track, version):
            for key, value in tags.items():
                client.set_model_version_tag(model_name(track), version, key, value)


def _entries(client: "MlflowClient", track: str) -> list["ModelVersion"]:
    """The entries that count, oldest first: each names the one before it that counts.

    Those of a registered model that was deleted since, whose name has been given again, do not.
    """
    found = versions_named(client, record_name(track))
    made, last, counted = _made(client, track) if found else "", "0", list["ModelVersion"]()
    for entry in reversed(found):
        if (entry.tags.get(OF), entry.tags.get(AFTER)) == (made, last):
            counted.append(entry)
            last = str(entry.version)
    return counted


def _newest(client: "MlflowClient", track: str) -> "ModelVersion | None":
    return next(reversed(_entries(client, track)), None)


def _made(client: "MlflowClient", track: str) -> str:
    """When a track's registered model was made, which tells it from a later one of the same name."""
    model = registered_model(client, model_name(track))
    return "" if model is None else str(model.creation_timestamp)
