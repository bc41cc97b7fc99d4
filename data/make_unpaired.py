"""Makes data/unpaired_v14.jsonl from the pairs: each answer a row of its own, label true (chosen) or false (rejected).

`python data/make_unpaired.py`. The same pairs give the same file, byte for byte. For `method: kto_unpaired`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from phasegpt.answers import answers_of
from phasegpt.config_sections import Data
from phasegpt.files import write_text
from phasegpt.pairs import STRATA, Pair, read_pairs

HERE = Path(__file__).parent
PAIRS = HERE / "preferences_v14_100pairs.jsonl"
UNPAIRED = HERE / "unpaired_v14.jsonl"


def unpaired_rows(pairs: Iterable[Pair]) -> Iterator[dict[str, Any]]:
    """The two rows of each pair: the chosen answer, then the rejected one."""
    for answer in answers_of(tuple(pairs)):
        yield {key: getattr(answer, key) for key in ("id", "prompt", "completion", "label", *STRATA)}


def unpaired_text(pairs: Iterable[Pair]) -> str:
    """The file: one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in unpaired_rows(pairs))


if __name__ == "__main__":
    write_text(UNPAIRED, unpaired_text(read_pairs(PAIRS, Data().domains)))
