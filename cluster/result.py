"""The one JSON object that a search prints with --json, told apart in a log that holds progress as well."""

import json
from collections.abc import Callable

BEGIN, END = "{", "}"


class ResultSplitter:
    """Takes a log piece by piece; whole lines go to `other`, and the lines of an object to `result` when it is whole.

    The search writes its object in one piece, indented, so that it begins and ends with a line that is a brace alone.
    """

    def __init__(self, result: Callable[[str], object], other: Callable[[str], object]) -> None:
        self._result, self._other = result, other
        self._rest = ""
        self._object: list[str] = []

    def take(self, text: str) -> None:
        """The next piece of the log."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """The log has ended: what waited is no object."""
        if self._rest:
            self._line(self._rest)
        self._give_up()

    def _line(self, line: str) -> None:
        if not self._object and line != BEGIN:
            self._other(line + "\n")
            return
        self._object.append(line)
        if line == END:
            text = "\n".join(self._object)
            if _is_json(text):
                self._result(text + "\n")
                self._object = []
            else:
                self._give_up()

    def _give_up(self) -> None:
        for line in self._object:
            self._other(line + "\n")
        self._object = []


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
