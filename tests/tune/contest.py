"""One of two processes that want a track's seat at once, held before each call on it until it is told to go on.

Run as `python -m tests.tune.contest URI`. It reads lines: `promote TRACK VERSION` begins, from then on `go` lets the
next call happen, and `die` ends this promotion there, as if the process were killed. It writes lines: `at NAME` before
each call, and `end WORD` when a promotion is over.
"""

import sys
from typing import Any

from phasegpt.mlflow_client import open_client
from tune.gate import RegistryError
from tune.registry import promote_version

HELD = {"search_model_versions", "get_registered_model", "create_model_version", "set_registered_model_alias"}
"""The calls that read the seat or write it; between others nothing is decided."""


class KilledError(BaseException):
    """Nothing in a promotion catches it, as nothing catches SIGKILL."""


class Held:
    """A client of MLflow whose calls on the seat wait for their turn."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._when_told(name, found) if name in HELD else found

    def _when_told(self, name: str, call: Any) -> Any:
        def wait_and_call(*args: Any, **options: Any) -> Any:
            say(f"at {name}")
            if sys.stdin.readline().strip() == "die":
                raise KilledError
            return call(*args, **options)

        return wait_and_call


def say(line: str) -> None:
    """One line to whoever holds the other end."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Promote as told until the other end closes."""
    client: Any = Held(open_client(sys.argv[1]))
    say("ready")
    for line in sys.stdin:
        _, track, version = line.split()
        try:
            say(f"end {'won' if promote_version(client, track, version).promote else 'lost'}")
        except KilledError:
            say("end killed")
        except RegistryError as error:
            say(f"end {error}")


if __name__ == "__main__":
    main()
