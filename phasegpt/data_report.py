"""A whole data file looked at: what its rows are, and every finding, as text and as JSON.

A file that cannot be read is a finding like any other; nothing is raised. Memory: about three times the file (400 MB
for 100,000 rows of 142 MB), the sample of `data_checks` included. Imports no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from phasegpt.data_checks import CHECKS, Material, Rules
from phasegpt.findings import Finding, of
from phasegpt.pairs import Pair, Prompt, Scan, UnpairedRow, scan_pairs, scan_prompts, scan_unpaired
from phasegpt.readers import Row, read_rows

AnyScan = Scan[Pair] | Scan[UnpairedRow] | Scan[Prompt]


@dataclass(frozen=True)
class Report:
    """What was found in a file of `rows` rows. `notes` say how it was looked at."""

    source: str
    rows: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> list[Finding]:
        """What stops a run, by line."""
        return of(self.findings, "error")

    @property
    def warnings(self) -> list[Finding]:
        """What stops nothing, by line."""
        return of(self.findings, "warning")

    def summary(self) -> list[str]:
        """One line a kind of warning: its first case, and how many there are."""
        by_code: dict[str, list[Finding]] = {}
        for finding in self.warnings:
            by_code.setdefault(finding.code, []).append(finding)
        return [f"{group[0].at(self.source)} ({code}, {len(group)} in all)" for code, group in by_code.items()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {"errors": [f.as_dict() for f in self.errors], "warnings": [f.as_dict() for f in self.warnings]}
        return {"rows": self.rows, **found, "notes": list(self.notes)}

    def as_text(self) -> str:
        """One line a finding, errors first, and a last line that sums up."""
        found = (*self.errors, *self.warnings)
        lines = [f"{finding.severity} {finding.code}: {finding.at(self.source)}" for finding in found]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, self.totals()])

    def totals(self) -> str:
        """How many rows, errors and warnings there are."""
        return f"{self.rows} rows, {len(self.errors)} errors, {len(self.warnings)} warnings"


def check_file(source: Path | str, rules: Rules | None = None) -> Report:
    """Every finding of a file of pairs, unpaired answers or evaluation prompts; its first row says which it is."""
    scan, material = scan_any(source, rules or Rules())
    warnings = [finding for check in CHECKS for finding in check(material)]
    return Report(str(source), scan.total, (*scan.findings, *warnings), notes_on(material))


def scan_any(source: Path | str, rules: Rules) -> tuple[AnyScan, Material]:
    """A source read as what its first row is, and what of it the checks look at."""
    rows = read_rows(source)
    begun = list(_up_to_a_readable_one(rows))
    kind, rows = _kind(begun), chain(begun, rows)
    if kind == "prompts":
        return scan_prompts(rows), Material(rules)
    if kind == "unpaired":
        unpaired = scan_unpaired(rows, rules.domains, rules.strata)
        return unpaired, Material(rules, unpaired.rows)
    pairs = scan_pairs(rows, rules.domains, rules.strata)
    return pairs, Material(rules, pairs.rows)


def _up_to_a_readable_one(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        yield row
        if row.values is not None:
            return


def _kind(begun: Sequence[Row]) -> str:
    values = (begun[-1].values if begun else None) or {}
    if "completion" in values:
        return "unpaired"
    return "prompts" if "half" in values and "chosen" not in values else "pairs"


def notes_on(material: Material) -> tuple[str, ...]:
    """How a file was looked at."""
    rows, taken = len(material.rows), len(material.sample)
    counted = (f"tokens are counted by {material.counter.name}",) if rows else ()
    sampled = f"marker words, tokens and near-duplicates are those of {taken:,} of {rows:,} rows, taken evenly"
    return (*counted, sampled) if taken < rows else counted
