"""How long the checks of a large data file take: 100,000 made-up pairs, and the memory at their peak.

Reading finds every error; a check looks at all rows or at a sample of 10,000 (marker words, tokens, near-duplicates).
`python tests/benchmarks/data_checks.py [ROWS]`; no model, no GPU.
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from phasegpt.data_checks import CHECKS, Check, Material, Rules, cut_by_max_length, markers_give_away, near_duplicates
from phasegpt.data_report import check_file, scan_any
from phasegpt.metrics.words import FUNCTION_WORDS

SAMPLED: tuple[Check, ...] = (markers_give_away, cut_by_max_length, near_duplicates)
VOCABULARY = sorted(FUNCTION_WORDS) + [f"{a}{b}{c}" for a in "bdkmt" for b in ("ar", "el", "in", "os") for c in "bdknt"]


def make_file(path: Path, rows: int) -> None:
    """Write `rows` pairs of 90 to 150 random words each; every hundredth repeats an earlier answer in part."""
    draw = random.Random(0)  # noqa: S311 - words, not secrets
    body: list[str] = []

    def text(length: int) -> str:
        return " ".join(draw.choices(VOCABULARY, k=length))

    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            body = draw.choices(VOCABULARY, k=draw.randint(90, 150)) if number % 100 else [*body[:-20], *body[:20]]
            row = {"prompt": text(12), "chosen": " ".join(body), "rejected": text(draw.randint(90, 150))}
            file.write(json.dumps(row) + "\n")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def print_check(check: Check, material: Material) -> None:
    """A line on one check."""
    kind = "sample" if check in SAMPLED else "all rows"
    print(f"{check.__name__:20} {seconds(lambda: list(check(material))):6.1f} s  {kind}")


def peak_mb() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rows: int) -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        make_file(path, rows)
        size = path.stat().st_size / 1e6
        before = peak_mb()
        begun = time.perf_counter()
        _, material = scan_any(path, Rules())
        reading = time.perf_counter() - begun
        for check in CHECKS:
            print_check(check, material)
        print(f"{'reading':20} {reading:6.1f} s  all rows, {rows:,} in {size:.0f} MB")
        print(f"{'peak memory':20} {peak_mb() - before:6.0f} MB above {before:.0f} MB")
        print(f"{'data validate':20} {seconds(lambda: check_file(path)):6.1f} s  in all")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
