"""How a search that has stopped goes on: what is said then, and what is done before it does."""

import argparse
import shlex
import sys

from phasegpt.credentials import without_credentials
from phasegpt.files import DamagedError, read_json, remove_stages
from tune.capacity import WAIT, chosen
from tune.request import Request


def say_how_to_go_on(request: Request, options: argparse.Namespace, family: str | None) -> None:
    """Print the command, on stderr: whoever asked for --json wants to know as well."""
    track, name = (request.track, request.name) if family is None else ("all", family)
    command = shlex.join(["python", "-m", "tune.search", *resume_arguments(track, name, options)])
    sys.stderr.write(f"Stopped. Finished trials are kept, running ones go on from their checkpoints:\n  {command}\n")


def resume_arguments(track: str, name: str, options: argparse.Namespace) -> list[str]:
    """The options that go on with a search: its name, and where it was told to run and to write."""
    words = ["--track", track, "--resume", name]
    for place in ("storage", "tracking_uri", "address"):
        value = getattr(options, place)
        words += [] if value is None else [f"--{place.replace('_', '-')}", without_credentials(str(value))]
    words += [] if options.wait_minutes == WAIT else ["--wait-minutes", f"{options.wait_minutes:g}"]
    return words + chosen(options) + (["--json"] if options.json else [])


def mend(request: Request) -> None:
    """Remove what a killed process was writing. Raises DamagedError where a result is not what was written."""
    places = request.places
    for folder in (places.folder, places.results, places.checkpoints):
        remove_stages(folder)
    for result in sorted(places.results.glob("*.json")):
        try:
            read_json(result)
        except DamagedError as error:
            cause, run = str(error).rpartition(";")[0], f"{request.name}/{result.stem}"
            raise DamagedError(
                f"{cause}; put it back from a copy, such as result/{result.name} of the run {run} in MLflow"
            ) from error
