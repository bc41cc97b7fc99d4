"""What a check of a data file says: a place, a code for scripts, a sentence for people. Knows nothing of the checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One defect of a data file.

    `line` counts from 1 (rows, where a file has no lines) and is None where the file as a whole is meant. `code` stays
    the same from version to version. An error stops a run, a warning does not.
    """

    line: int | None
    code: str
    message: str
    severity: Severity = "error"

    def at(self, source: object) -> str:
        """`file:line: message`, as compilers write it."""
        place = source if self.line is None else f"{source}:{self.line}"
        return f"{place}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the severity is where it stands."""
        return {"line": self.line, "code": self.code, "message": self.message}


def warning(line: int | None, code: str, message: str) -> Finding:
    """A finding that stops nothing."""
    return Finding(line, code, message, "warning")


def shown(value: object, most: int = 60) -> str:
    """A value of the user's on one line of at most `most` characters, whatever is in it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def of(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """Those of one severity, by line; those of the whole file come first."""
    return sorted((f for f in findings if f.severity == severity), key=lambda f: f.line or 0)
