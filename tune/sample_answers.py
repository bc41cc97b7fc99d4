"""A search's answers side by side as Markdown, on prompts that a seed draws: for a page of results.

Who answers is what the report decides; here they are only drawn and written down.
"""

import html
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tune.report_answers import Side


def as_markdown(found: Sequence[Side], metric: str, count: int, seed: int) -> str:
    """`count` prompts, drawn by `seed`, with the answer and the score of every side. Raises ValueError without any."""
    if not found or count < 1:
        raise ValueError(
            "no answers have been written yet" if count > 0 else f"expected one prompt or more, found {count}"
        )
    rows = [{row["id"]: row for row in side.run.answers} for side in found]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    drawn = random.Random(seed).sample(shared, min(count, len(shared)))  # noqa: S311 - prompts, not secrets
    return "\n\n".join(_prompt(found, [row[name] for row in rows], metric) for name in drawn)


def _prompt(found: Sequence[Side], rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    parts = [f"> **{_plain(rows[0]['prompt'])}**"]
    for side, row in zip(found, rows, strict=True):
        score = f" ({row[metric]:.2f})" if metric in row else ""
        parts.append(f"> *{side.title}{score}:* {_plain(row['answer']) or '(nothing)'}")
    return "\n>\n".join(parts)


def _plain(text: str) -> str:
    """On one line, with nothing in it that a page would take for a tag."""
    return html.escape(" ".join(text.split()), quote=False)
